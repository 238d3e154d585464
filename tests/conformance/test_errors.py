"""Exceptions: of the function, of the iterable, of the arguments; with the worker's traceback as their cause."""

from __future__ import annotations

import multiprocessing
import os
import traceback

import pytest

from . import work

HANG = 120

#: Every way to call one function with one argument and get its result.
CALLS = {
    "map": lambda pool, f, x: pool.map(f, [x]),
    "map chunked": lambda pool, f, x: pool.map(f, [x] * 5, 3),
    "starmap": lambda pool, f, x: pool.starmap(f, [(x,)]),
    "apply": lambda pool, f, x: pool.apply(f, (x,)),
    "apply_async": lambda pool, f, x: pool.apply_async(f, (x,)).get(HANG),
    "map_async": lambda pool, f, x: pool.map_async(f, [x]).get(HANG),
    "starmap_async": lambda pool, f, x: pool.starmap_async(f, [(x,)]).get(HANG),
    "imap": lambda pool, f, x: list(pool.imap(f, [x])),
    "imap chunked": lambda pool, f, x: list(pool.imap(f, [x] * 5, 2)),
    "imap_unordered": lambda pool, f, x: list(pool.imap_unordered(f, [x])),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)

ERRORS = {
    "ValueError": ValueError("text", 1, None),
    "no arguments": RuntimeError(),
    "KeyError": KeyError("key"),
    "OSError": FileNotFoundError(2, "No such file", "a/b"),
    "UnicodeDecodeError": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
    "AssertionError": AssertionError("assertion"),
    "ZeroDivisionError": ZeroDivisionError("division"),
    "builtin TimeoutError": TimeoutError("of the function"),
    "multiprocessing.TimeoutError": multiprocessing.TimeoutError("of the function"),
    "EOFError": EOFError("of the function"),
    "BrokenPipeError": BrokenPipeError(32, "of the function"),
    "custom": work.Plain("custom"),
    "custom with a constructor": work.Detailed(3, {"a": 1}),
    "group": ExceptionGroup("several", [ValueError(1), work.Plain("two")]),
    "warning": UserWarning("raised"),
}


@EVERY_CALL
def test_function_fails(pool, call):
    with pytest.raises(ValueError, match="a value that is wrong") as caught:
        call(pool, work.raise_value, 7)
    assert type(caught.value) is ValueError
    assert caught.value.args == ("a value that is wrong", 7)
    assert call(pool, work.square, 2) in (4, [4], [4] * 5)  # the pool is as good as before


@EVERY_CALL
def test_cause_is_the_traceback_of_the_worker(pool, call):
    with pytest.raises(ValueError, match="a value that is wrong") as caught:
        call(pool, work.raise_value, 7)
    cause = caught.value.__cause__
    assert type(cause) is multiprocessing.pool.RemoteTraceback
    text = str(cause)
    assert "Traceback (most recent call last)" in text
    assert "raise_value" in text and "work.py" in text
    assert 'raise ValueError("a value that is wrong", x)' in text
    assert text in "".join(traceback.format_exception(caught.value))
    assert text == cause.tb


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_any_exception_arrives_as_itself(pool, error):
    with pytest.raises(type(error)) as caught:
        pool.map(work.raise_given, [error])
    assert type(caught.value) is type(error)
    assert repr(caught.value) == repr(error)
    assert str(caught.value) == str(error)
    assert "raise_given" in str(caught.value.__cause__)


def test_attributes_and_notes_arrive(pool):
    with pytest.raises(work.Detailed) as caught:
        pool.map(work.raise_detailed, [5])
    assert (caught.value.code, caught.value.detail) == (5, {"code": 5})
    with pytest.raises(work.Decorated) as decorated:
        pool.map(work.raise_decorated, [6])
    assert decorated.value.extra == [6]
    assert "a note of the user" in decorated.value.__notes__


def test_chained_exceptions_are_in_the_text(pool):
    with pytest.raises(RuntimeError, match="outer") as caught:
        pool.map(work.raise_outer, [1])
    text = str(caught.value.__cause__)
    assert "inner_failure" in text and "KeyError: 'inner 1'" in text
    assert "direct cause" in text and "RuntimeError: outer" in text


def test_stop_iteration_of_the_function(pool):
    with pytest.raises(StopIteration) as caught:
        pool.apply(work.raise_given, (StopIteration(5),))
    assert caught.value.value == 5


def test_endless_recursion(pool):
    with pytest.raises(RecursionError):
        pool.map(work.recurse, [0])
    assert pool.map(work.square, [3]) == [9]


def test_large_exception(pool):
    for size in (100_000, 3_000_000):
        with pytest.raises(ValueError, match="^x+") as caught:
            pool.map(work.raise_large, [size, size], 1)
        assert len(caught.value.args[0]) == size


def test_exceptions_as_values_are_values(pool):
    error = ValueError("not raised")
    for call in ("map", "imap", "imap_unordered"):
        (back,) = getattr(pool, call)(work.identity, [error])
        assert repr(back) == repr(error)
    assert repr(pool.apply(work.identity, (error,))) == repr(error)


def test_many_failures(pool):
    for _ in range(30):
        with pytest.raises(ValueError, match="a value that is wrong"):
            pool.map(work.raise_value, range(20))
    assert pool.map(work.square, range(20)) == [i * i for i in range(20)]


def test_other_items_run_although_one_fails(pool, tmp_path):
    with pytest.raises(ValueError, match="item 0"):
        pool.map(work.touch_or_fail, [(str(tmp_path), i) for i in range(8)], chunksize=1)
    pool.close()
    pool.join()
    assert sorted(os.listdir(tmp_path)) == [str(i) for i in range(1, 8)]


def test_wrong_number_of_arguments(pool):
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        pool.map(work.add, [1])
    with pytest.raises(TypeError, match="positional argument"):
        pool.starmap(work.add, [(1, 2), (1, 2, 3)])
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        pool.apply(work.add, (1,), {"nonsense": 2})


def test_starmap_of_what_cannot_be_unpacked(pool):
    with pytest.raises(TypeError, match="iterable"):
        pool.starmap(work.add, [1])
    assert pool.starmap(work.add, [(1, 2)]) == [3]


def test_function_that_is_none(pool):
    with pytest.raises(TypeError, match="callable"):
        pool.map_async(5, [1]).get(HANG)
    with pytest.raises(TypeError, match="callable"):
        pool.apply_async(None, (1,)).get(HANG)
    assert pool.map(work.square, [3]) == [9]


@pytest.mark.parametrize("method", ["map", "starmap"])
def test_not_iterable(pool, method):
    with pytest.raises(TypeError, match="not iterable"):
        getattr(pool, method)(work.square, 5)
    with pytest.raises(TypeError, match="not iterable"):
        getattr(pool, f"{method}_async")(work.square, 5).get(HANG)


def items_then_error(count: int):
    yield from range(count)
    raise LookupError("the iterable failed")


@pytest.mark.parametrize("chunksize", [None, 1, 4])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_iterable_fails(pool, count, chunksize):
    with pytest.raises(LookupError, match="the iterable failed") as caught:
        pool.map(work.square, items_then_error(count), chunksize)
    assert caught.value.__cause__ is None  # it is not a worker's
    with pytest.raises(LookupError, match="the iterable failed"):
        pool.map_async(work.square, items_then_error(count), chunksize).get(HANG)
    assert pool.map(work.square, [2]) == [4]


def test_sized_iterable_fails(pool):
    class Broken:
        def __len__(self):
            return 1

        def __iter__(self):
            raise LookupError("the iterable failed")
            yield

    for chunksize in (None, 1):
        with pytest.raises(LookupError, match="the iterable failed") as caught:
            pool.map(work.square, Broken(), chunksize)
        assert caught.value.__cause__ is None


def test_iterable_that_cannot_begin(pool):
    class Unwilling:
        def __iter__(self):
            raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        pool.map(work.square, Unwilling())
    with pytest.raises(LookupError, match="no"):
        next(pool.imap(work.square, Unwilling()))


def test_exception_from_the_users_code_while_pickling(pool):
    class Unwilling:
        def __reduce__(self):
            raise LookupError("will not be pickled")

    with pytest.raises(Exception, match="will not be pickled"):
        pool.map(work.square, [1, Unwilling(), 3])
    assert pool.map(work.square, [2]) == [4]


def test_unpicklable_argument_does_not_stop_the_others(pool):
    import threading

    with pytest.raises(Exception, match="lock"):
        pool.map_async(work.square, [1, threading.Lock()], chunksize=1).get(HANG)
    it = pool.imap(work.identity, [1, threading.Lock(), 3])
    assert it.next(HANG) == 1
    with pytest.raises(Exception, match="lock"):
        it.next(HANG)
    assert it.next(HANG) == 3
    with pytest.raises(StopIteration):
        it.next(HANG)


def test_unpicklable_result_does_not_stop_the_others(pool):
    it = pool.imap(work.lock_at_three, range(6))
    got, errors = [], []
    while True:
        try:
            got.append(it.next(HANG))
        except StopIteration:
            break
        except Exception as error:
            errors.append(str(error))
    assert got == [0, 1, 2, 4, 5]
    assert len(errors) == 1 and "lock" in errors[0]
    assert pool.map(work.square, [2]) == [4]
