"""Arguments, results, exceptions and functions that cannot cross: named clearly, and nothing else is lost."""

from __future__ import annotations

import pickle
import sys
import threading
import traceback
import types

import pytest

import forklift

from . import work

HANG = 120
TEXT_MAX = 10_000  # characters


def whole_text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def items_with_a_lock() -> list:
    return [work.Item(None), work.Item(None), work.Item(None), work.Item(work.Conn()), work.Item(None)]


@pytest.mark.parametrize("chunksize", [None, 1, 2, 100])
@pytest.mark.parametrize("method", ["map", "map_async", "imap"])
def test_argument_is_named_by_its_path(pool, method, chunksize):
    with pytest.raises(forklift.EncodeError) as caught:
        result = getattr(pool, method)(work.identity, items_with_a_lock(), chunksize)
        list(result) if method == "imap" else result.get(HANG)
    error = caught.value
    assert isinstance(error, pickle.PicklingError) and isinstance(error, forklift.ForkliftError)
    assert "items[3].conn.lock" in str(error)
    assert "lock" in str(error)
    assert pool.map(work.square, range(10)) == [i * i for i in range(10)]


PATHS = {
    "list in dict": (lambda: {"a": [1, {"b": threading.Lock()}]}, "items[1]['a'][1]['b']"),
    "tuple": (lambda: (1, (2, threading.Lock())), "items[1][1][1]"),
    "itself": (threading.Lock, "items[1]"),
    "attribute": (lambda: work.Item(threading.Lock()), "items[1].conn"),
    "in a long list": (lambda: [*range(5000), threading.Lock(), *range(5000)], "items[1][5000]"),
    "generator": (lambda: [1, (x for x in "abc")], "items[1][1]"),
}


@pytest.mark.parametrize(("make", "path"), PATHS.values(), ids=PATHS)
def test_paths(pool, make, path):
    with pytest.raises(forklift.EncodeError) as caught:
        pool.map(work.identity, [0, make(), 2])
    assert path in str(caught.value)


def test_good_items_beside_a_bad_one_are_delivered(pool):
    it = pool.imap(work.identity, [1, 2, threading.Lock(), 4, 5])
    assert [it.next(HANG), it.next(HANG)] == [1, 2]
    with pytest.raises(forklift.EncodeError, match=r"items\[2\]"):
        it.next(HANG)
    assert list(it) == [4, 5]


def test_unsendable_function_and_initargs(pool):
    lock = threading.Lock()

    def closure(x):
        return (x, lock)

    with pytest.raises(forklift.EncodeError, match="lock"):
        pool.map(closure, [1, 2])
    assert pool.map(work.square, [3]) == [9]
    with pytest.raises(forklift.EncodeError, match="lock"), forklift.Pool(1, work.identity, (lock,)) as other:
        other.map(work.square, [1])


class Short:
    """There is no memory to pickle it."""

    def __reduce__(self):
        raise MemoryError("no room for it")


def test_want_of_memory_is_no_fault_of_what_was_to_be_sent(pool):
    short = Short()
    with pytest.raises(MemoryError, match="no room for it"):
        pool.map(lambda x: short, [1])
    with pytest.raises(MemoryError, match="no room for it"):
        pool.share(short)
    failed = pool.map(work.identity, [1, short, 3], on_error="return")
    assert failed[::2] == [1, 3] and type(failed[1]) is MemoryError
    with pytest.raises(MemoryError, match="no room for it"):
        forklift.Pool(1, print, (short,))


def test_text_stays_short(pool):
    """mpire makes a text of 64 million characters of this."""
    for item in (work.Verbose(), [work.Verbose()] * 3, {"key": work.Verbose()}):
        with pytest.raises(forklift.EncodeError) as caught:
            pool.map(work.identity, [1, item])
        assert len(str(caught.value)) < TEXT_MAX
        assert len(repr(caught.value)) < TEXT_MAX
        assert len(whole_text(caught.value)) < 10 * TEXT_MAX
    with pytest.raises(forklift.EncodeError) as caught:
        pool.map(work.verbose_result, [1])
    assert len(whole_text(caught.value)) < 10 * TEXT_MAX


def test_failure_with_a_large_argument_stays_short(pool):
    with pytest.raises(ValueError, match="^short text") as caught:
        pool.map(work.fail_with_verbose, [bytes(16_000_000)])
    assert len(whole_text(caught.value)) < TEXT_MAX


@pytest.mark.parametrize("chunksize", [None, 1, 100])
def test_unsendable_result(pool, chunksize):
    with pytest.raises(forklift.EncodeError) as caught:
        pool.map(work.result_with_lock, range(6), chunksize)
    assert "lock" in str(caught.value) and "['conn'].lock" in str(caught.value)
    it = pool.imap(work.result_with_lock, range(6), chunksize)
    assert [it.next(HANG) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(forklift.EncodeError):
        it.next(HANG)
    assert list(it) == [4, 5]


@pytest.mark.parametrize(
    ("function", "name", "text"),
    [
        (work.raise_not_rebuilt, "NotRebuilt", "one and two"),
        (work.raise_not_sent, "NotSent", "cannot travel"),
        (work.raise_evil, "EvilWhenRebuilt", "evil"),
    ],
)
def test_exceptions_that_cannot_cross(pool, function, name, text):
    """multiprocessing.Pool hangs. As itself or as a DecodeError: type, text and traceback are told."""
    for _ in range(2):
        with pytest.raises(Exception) as caught:
            pool.map_async(function, [1, 2], 1).get(HANG)
        told = whole_text(caught.value)
        assert name in told and text in told and function.__name__ in told
        assert type(caught.value).__name__ == name or isinstance(caught.value, forklift.ForkliftError)
    assert pool.map(work.square, [3]) == [9]


@pytest.mark.parametrize("chunksize", [None, 1, 100])
def test_argument_that_cannot_be_rebuilt(pool, chunksize):
    items = [0, 1, work.HomeOnly(), 3]
    with pytest.raises(forklift.DecodeError) as caught:
        pool.map(work.identity, items, chunksize)
    assert isinstance(caught.value, pickle.UnpicklingError)
    assert "worker" in str(caught.value) and "does not feel at home" in whole_text(caught.value)
    assert pool.map(work.square, [3]) == [9]


def test_only_the_item_that_cannot_be_rebuilt_fails(pool):
    it = pool.imap(work.identity, [0, 1, work.HomeOnly(), 3], 1)
    assert [it.next(HANG), it.next(HANG)] == [0, 1]
    with pytest.raises(forklift.DecodeError):
        it.next(HANG)
    assert list(it) == [3]


@pytest.mark.parametrize("chunksize", [None, 1, 3, 100])
def test_neighbours_of_items_that_cannot_be_rebuilt_are_done(pool, chunksize):
    """Also where they were pickled together, with large parts beside them."""
    import numpy as np

    items = [np.full(50_000, float(i)) if i % 3 else work.HomeOnly() for i in range(10)]
    results = pool.map(work.identity, items, chunksize, on_error="return")
    for i, result in enumerate(results):
        if i % 3:
            assert (result == items[i]).all()
        else:
            assert type(result) is forklift.DecodeError and "does not feel at home" in whole_text(result)


@pytest.mark.parametrize("chunksize", [None, 1, 100])
def test_result_that_cannot_be_rebuilt(pool, chunksize):
    import os

    with pytest.raises(forklift.DecodeError) as caught:
        pool.map(work.make_away_only, [(i, os.getpid()) for i in range(6)], chunksize)
    assert isinstance(caught.value, pickle.UnpicklingError)
    assert "parent" in str(caught.value) and "does not want to come home" in whole_text(caught.value)
    assert pool.map(work.square, [3]) == [9]


def test_function_that_the_worker_cannot_find(pool):
    """Plain pickle sends it by its name, and that module is nowhere but here."""
    ghost = types.ModuleType("forklift_test_ghost")
    exec("def haunt(x):\n    return x\n", ghost.__dict__)
    sys.modules["forklift_test_ghost"] = ghost
    try:
        for _ in range(2):
            with pytest.raises(
                (forklift.DecodeError, ImportError, AttributeError), match="forklift_test_ghost"
            ):
                pool.map(ghost.haunt, range(10))
    finally:
        del sys.modules["forklift_test_ghost"]
    assert pool.map(work.square, [3]) == [9]


def test_errors_can_be_pickled(pool):
    with pytest.raises(forklift.EncodeError) as caught:
        pool.map(work.identity, items_with_a_lock())
    back = pickle.loads(pickle.dumps(caught.value))
    assert type(back) is type(caught.value) and str(back) == str(caught.value)
