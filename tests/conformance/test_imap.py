"""imap and imap_unordered: order, laziness, time limits, what comes after an error and after the end."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from collections import Counter

import pytest

from . import work

HANG = 120

METHODS = pytest.mark.parametrize("method", ["imap", "imap_unordered"])
CHUNKS = pytest.mark.parametrize(
    "options", [{}, {"chunksize": 1}, {"chunksize": 2}, {"chunksize": 1000}], ids=str
)


def check(method: str, got: list, expected: list) -> None:
    if method == "imap":
        assert got == expected
    else:
        assert Counter(got) == Counter(expected)


@CHUNKS
@METHODS
@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
def test_all_results(pool, method, options, count):
    expected = [i * i for i in range(count)]
    check(method, list(getattr(pool, method)(work.square, range(count), **options)), expected)
    check(method, list(getattr(pool, method)(work.square, (i for i in range(count)), **options)), expected)


@METHODS
def test_many_tiny_items(pool, method):
    expected = [i * i for i in range(10_000)]
    check(method, list(getattr(pool, method)(work.square, range(10_000))), expected)
    check(method, list(getattr(pool, method)(work.square, iter(range(10_000)), chunksize=500)), expected)


@METHODS
def test_order_with_uneven_items(pool, method):
    jobs = [(index, 0.02 * (index % 3 == 0)) for index in range(30)]
    check(method, list(getattr(pool, method)(work.nap, jobs)), list(range(30)))


@CHUNKS
@METHODS
def test_it_is_an_iterator(pool, method, options):
    it = getattr(pool, method)(work.square, [3], **options)
    assert iter(it) is it
    assert next(it) == 9
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(it)
    assert list(it) == []


@METHODS
def test_next_with_a_time_limit(pool, method, tmp_path):
    gate = tmp_path / "gate"
    it = getattr(pool, method)(work.wait_for, [str(gate)])
    for limit in (0, 0.01):
        with pytest.raises(multiprocessing.TimeoutError):
            it.next(limit)
    with pytest.raises(multiprocessing.TimeoutError):
        it.next(timeout=0.01)
    gate.touch()
    assert it.next(timeout=HANG) == str(gate)
    for _ in range(2):
        with pytest.raises(StopIteration):
            it.next(timeout=HANG)
    with pytest.raises(StopIteration):
        it.next()


def test_unordered_gives_what_is_ready_first(pool, tmp_path):
    gate = tmp_path / "gate"
    (tmp_path / "open").touch()
    it = pool.imap_unordered(work.wait_for, [str(gate), str(tmp_path / "open")])
    assert it.next(HANG) == str(tmp_path / "open")
    gate.touch()
    assert it.next(HANG) == str(gate)


def test_ordered_waits_for_the_first(pool, tmp_path):
    gate = tmp_path / "gate"
    (tmp_path / "open").touch()
    it = pool.imap(work.wait_for, [str(gate), str(tmp_path / "open")])
    with pytest.raises(multiprocessing.TimeoutError):
        it.next(0.05)
    gate.touch()
    assert list(it) == [str(gate), str(tmp_path / "open")]


@pytest.mark.parametrize("options", [{}, {"chunksize": 1}], ids=str)
def test_goes_on_after_a_failed_item(pool, options):
    it = pool.imap(work.fail_at_three, range(8), **options)
    assert [next(it) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(it)
    assert list(it) == [4, 5, 6, 7]


def test_unordered_goes_on_after_a_failed_item(pool):
    it = pool.imap_unordered(work.fail_at_three, range(8))
    got, errors = [], 0
    while True:
        try:
            got.append(next(it))
        except StopIteration:
            break
        except ValueError:
            errors += 1
    assert sorted(got) == [0, 1, 2, 4, 5, 6, 7]
    assert errors == 1


@CHUNKS
@METHODS
def test_failure_in_any_chunk_size(pool, method, options):
    with pytest.raises(ValueError, match="three"):
        list(getattr(pool, method)(work.fail_at_three, range(8), **options))
    assert list(pool.imap(work.square, [5])) == [25]


def items_then_error(count: int):
    yield from range(count)
    raise LookupError("the iterable failed")


@METHODS
@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_iterable_that_fails(pool, method, count):
    it = getattr(pool, method)(work.square, items_then_error(count))
    got, errors = [], []
    while True:
        try:
            got.append(next(it))
        except StopIteration:
            break
        except LookupError as error:
            errors.append(error)
    check(method, got, [i * i for i in range(count)])
    assert [error.args for error in errors] == [("the iterable failed",)]
    assert errors[0].__cause__ is None  # it is not a worker's
    with pytest.raises(StopIteration):
        next(it)
    assert pool.map(work.square, [2]) == [4]


@METHODS
@pytest.mark.parametrize("chunksize", [2, 5, 100])
def test_iterable_that_fails_in_chunks(pool, method, chunksize):
    it = getattr(pool, method)(work.square, items_then_error(21), chunksize)
    got = []
    with pytest.raises(LookupError, match="the iterable failed"):
        for value in it:
            got.append(value)
    assert Counter(got) <= Counter(i * i for i in range(21))


def test_ordered_error_of_the_iterable_comes_last(pool):
    it = pool.imap(work.square, items_then_error(4))
    assert [next(it) for _ in range(4)] == [0, 1, 4, 9]
    with pytest.raises(LookupError):
        next(it)


@METHODS
def test_not_iterable(pool, method):
    with pytest.raises(TypeError, match="not iterable"):
        next(getattr(pool, method)(work.square, 5))
    assert pool.map(work.square, [2]) == [4]


class Gated:
    """Yields `before` items, waits to be released, yields the rest."""

    def __init__(self, before: int, total: int) -> None:
        self.before, self.total = before, total
        self.release = threading.Event()

    def __iter__(self):
        for index in range(self.total):
            if index == self.before:
                assert self.release.wait(HANG)
            yield index


@METHODS
def test_returns_before_the_iterable_gives_anything(pool, method):
    items = Gated(before=0, total=3)
    it = getattr(pool, method)(work.square, items)
    items.release.set()
    check(method, list(it), [0, 1, 4])


@METHODS
def test_first_results_come_while_the_iterable_is_slow(pool, method):
    items = Gated(before=2, total=5)
    it = getattr(pool, method)(work.square, items)
    first = [it.next(HANG), it.next(HANG)]  # must not wait until a chunk is full
    items.release.set()
    check(method, first + list(it), [0, 1, 4, 9, 16])


@METHODS
def test_endless_iterable(Pool, method):
    with Pool(2) as pool:
        it = getattr(pool, method)(work.square, itertools.count())
        got = [next(it) for _ in range(10)]
    pool.join()
    assert set(got) <= {i * i for i in range(100_000)} and len(set(got)) == 10


def test_one_buffer_yielded_again_and_again(pool):
    def refilled():
        buffer = bytearray(100_000)
        for i in range(20):
            buffer[:] = bytes([i]) * len(buffer)
            yield buffer

    assert list(pool.imap(sum, refilled())) == [100_000 * i for i in range(20)]


def test_two_at_once_in_turns(pool):
    a, b = pool.imap(work.square, range(20)), pool.imap(work.identity, range(20))
    assert list(zip(a, b, strict=True)) == [(i * i, i) for i in range(20)]


def test_chained(pool):
    """One call's results are another's items, on the same pool: neither may wait for the other for ever."""
    inner = pool.imap(work.square, range(50))
    assert list(pool.imap(work.square, inner)) == [i**4 for i in range(50)]


def test_left_halfway(pool):
    it = pool.imap(work.square, range(1000))
    assert next(it) == 0
    del it
    assert pool.map(work.square, range(10)) == [i * i for i in range(10)]


@METHODS
def test_consumed_after_close(Pool, method):
    pool = Pool(2)
    it = getattr(pool, method)(work.square, range(100))
    pool.close()
    check(method, list(it), [i * i for i in range(100)])
    pool.join()


def test_consumed_after_join(Pool):
    pool = Pool(2)
    it = pool.imap(work.square, range(100))
    pool.close()
    pool.join()
    assert list(it) == [i * i for i in range(100)]


def test_in_a_for_loop_with_other_calls_between(pool):
    seen = []
    for value in pool.imap(work.square, range(20)):
        seen.append((value, pool.apply(work.identity, (value,))))
    assert seen == [(i * i, i * i) for i in range(20)]
