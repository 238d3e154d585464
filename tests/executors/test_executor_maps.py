"""`Executor.map`. Where the standard library does the same, the test runs against both."""

from __future__ import annotations

import itertools
import threading
import weakref
from pathlib import Path

import pytest

from tests.patience import settled

from . import work
from .conftest import make


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_map_with_chunks(either, chunksize):
    assert list(either.map(work.add, range(50), range(50), chunksize=chunksize)) == list(range(0, 100, 2))


def test_map_takes_its_items_at_once(either):
    def items():
        yield 1
        raise LookupError("at once")

    with pytest.raises(LookupError, match="at once"):
        either.map(work.square, items())
    kept = [1, 2, 3]
    results = either.map(work.square, kept)
    kept.clear()
    assert list(results) == [1, 4, 9]


def test_map_ends_with_the_first_failure(either):
    results = either.map(work.fail_at, range(9), chunksize=1)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LookupError, match="three"):
        next(results)
    assert list(results) == []


def test_stop_iteration_of_the_function_is_not_the_end(either):
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(either.map(work.raise_stop_iteration, [1]))


def test_map_in_time_and_not(either, gate):
    assert list(either.map(work.square, [2], timeout=120)) == [4]
    late = either.map(work.wait_for, [str(gate)], timeout=0.1)
    with pytest.raises(TimeoutError):
        next(late)
    gate.touch()
    assert list(late) == []


def test_map_that_is_dropped_takes_no_more(executor, tmp_path):
    results = executor.map(work.touch, ((str(tmp_path), index) for index in range(5000)), chunksize=1)
    assert next(results) == 0
    del results
    executor.shutdown()
    done = {int(path.name) for path in tmp_path.iterdir()}
    # What has begun is done, and no worker was killed for it.
    assert done == set(range(len(done))) and len(done) < 5000
    assert executor._desk.pool._plan["processes"] == 2


def test_map_that_nobody_asks_is_done(either, tmp_path):
    either.map(work.touch, [(str(tmp_path), index) for index in range(50)])
    either.shutdown()
    assert len(list(tmp_path.iterdir())) == 50


def test_results_do_not_stay(executor):

    for result in executor.map(work.make, [Path, Path]):
        gone = weakref.ref(result) if hasattr(result, "__weakref__") else None
        del result
        assert gone is None or gone() is None


@pytest.mark.parametrize("buffersize", [1, 4])
def test_buffersize_is_exact(executor, buffersize):
    taken = itertools.count()
    results = executor.map(work.square, taken, buffersize=buffersize)
    seen = [next(results) for _ in range(10)]
    assert seen == [x * x for x in range(10)]
    position = settled(lambda: int(repr(taken)[6:-1]))
    assert 10 <= position <= 10 + buffersize


def test_buffered_map_keeps_its_executor():
    assert list(make().map(work.square, iter(range(30)), buffersize=2)) == [x * x for x in range(30)]


def test_buffered_map_and_shutdown(executor):
    results = executor.map(work.square, itertools.count(), buffersize=4)
    assert next(results) == 0
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        list(results)


@pytest.mark.parametrize("taken", [0, 1])
def test_shutdown_does_not_wait_for_an_iterable_that_gives_nothing(executor, taken):
    stop = threading.Event()

    def items():
        yield from range(3)
        stop.wait(120)

    try:
        results = executor.map(work.square, items(), buffersize=8)
        seen = [next(results) for _ in range(taken)]
        executor.shutdown()
        assert seen == [0][:taken]
    finally:
        stop.set()


def test_iterable_of_a_buffered_map_that_raises(executor):
    def items():
        yield 2
        raise LookupError("in its turn")

    results = executor.map(work.square, items(), buffersize=2)
    assert next(results) == 4
    with pytest.raises(LookupError, match="in its turn"):
        next(results)


@pytest.mark.filterwarnings(
    "ignore:inherit=True forks:RuntimeWarning"
)  # Other tests have loaded polars and the like.
def test_map_by_inheritance(executor):
    locks = [threading.Lock(), threading.Lock()]
    with make(inherit=True) as executor:
        assert list(executor.map(type(locks[0]).locked, locks)) == [False, False]


def test_progress():
    seen = []
    with make(progress=lambda done, total: seen.append((done, total))) as executor:
        results = executor.map(work.square, range(5))
        assert seen == [(0, 5)] and [next(results), next(results)] == [0, 1] and seen[-1] == (2, 5)
        assert list(results) == [4, 9, 16] and seen[-1] == (5, 5)
        assert executor.submit(abs, -1).result() == 1 and len(seen) == 6
