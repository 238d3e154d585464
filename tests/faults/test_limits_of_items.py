"""Time limits, retries and cancelled calls: what is lost is named, and nothing else is."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import threading
import time

import numpy as np
import pytest

import forklift
from tests.patience import until

from .delays import (
    FOREVER,
    SlowToDecode,
    change_then_die,
    die_until,
    index_of,
    say_and_sleep,
    sleep_at,
    slow_result,
)

#: Seconds that the items in question exceed by far, and the others never: not on a machine that is busy either.
LIMIT = 1.5


@pytest.fixture
def pool():
    with forklift.Pool(2) as pool:
        yield pool
    pool.join()


@pytest.mark.parametrize("how", ["sleep", "loop", "stop", "deaf"])
@pytest.mark.parametrize("chunksize", [None, 1, 5])
def test_an_item_that_takes_too_long_is_stopped_and_named(pool, how, chunksize):
    items = [(index, 7, how) for index in range(12)]
    results = pool.map(sleep_at, items, chunksize, task_timeout=LIMIT, on_error="return")
    failure = results.pop(7)
    assert results == [index * 2 for index in range(12) if index != 7]
    assert type(failure) is forklift.TaskTimeout and (failure.index, failure.seconds) == (7, LIMIT)
    assert isinstance(failure, TimeoutError) and isinstance(failure, multiprocessing.TimeoutError)
    assert pool.map(abs, [-1, -2]) == [1, 2]


def test_the_limit_of_a_pool_holds_for_all_its_calls():
    with forklift.Pool(2, task_timeout=LIMIT, on_error="return") as pool:
        items = [(index, 3, "sleep") for index in range(5)]
        assert type(pool.map(sleep_at, items)[3]) is forklift.TaskTimeout
        assert type(list(pool.imap(sleep_at, items))[3]) is forklift.TaskTimeout
        assert type(pool.starmap_async(time.sleep, [(FOREVER,)]).get(120)[0]) is forklift.TaskTimeout
        with pytest.raises(forklift.TaskTimeout):
            pool.apply(time.sleep, (FOREVER,))
        assert pool.map(sleep_at, items[:3], task_timeout=30) == [0, 2, 4]
    pool.join()


def test_an_item_within_its_limit_is_left_alone_however_long_the_chunk_takes(pool):
    assert pool.map(time.sleep, [0.5] * 12, 6, task_timeout=2.5) == [None] * 12
    assert pool._counters()["births"] == 2


@pytest.mark.parametrize("chunksize", [1, 4])
def test_decoding_and_encoding_count(pool, chunksize):
    items = [SlowToDecode(index, 2) for index in range(8)]
    results = pool.map(index_of, items, chunksize, task_timeout=LIMIT, on_error="return")
    assert type(results[2]) is forklift.TaskTimeout and results[2].index == 2
    assert results[:2] + results[3:] == [0, 1, 3, 4, 5, 6, 7]
    results = pool.map(slow_result, range(8), chunksize, task_timeout=LIMIT, on_error="return")
    assert type(results[2]) is forklift.TaskTimeout and results[2].index == 2
    assert results[:2] + results[3:] == [0, 1, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("chunksize", [None, 1, 4])
def test_an_item_is_tried_again_after_its_worker_died(pool, tmp_path, chunksize):
    items = [(index, str(tmp_path), 2 if index in (1, 6) else 0) for index in range(8)]
    assert pool.map(die_until, items, chunksize, retries=2) == list(range(8))
    attempts = {int(path.name): path.stat().st_size for path in tmp_path.iterdir()}
    assert attempts[1] == attempts[6] == 3


def test_retries_end(pool, tmp_path):
    items = [(index, str(tmp_path), FOREVER if index == 3 else 0) for index in range(6)]
    results = pool.map(die_until, items, 1, retries=2, on_error="return")
    assert type(results[3]) is forklift.WorkerDied and results[3].index == 3
    assert results[:3] + results[4:] == [0, 1, 2, 4, 5]
    assert (tmp_path / "3").stat().st_size == 3


def test_a_second_attempt_sees_the_item_as_it_was(pool, tmp_path):
    array = np.ones(100_000)
    with forklift.shared_arrays():
        shared = np.ones(100_000)
    for number, argument in enumerate((array, shared)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert pool.map(change_then_die, [(argument, str(folder))], retries=1) == [100_000.0]


def test_exceptions_are_not_tried_again(pool, tmp_path):
    with pytest.raises(ZeroDivisionError):
        pool.map(lambda x: (tmp_path / f"{time.monotonic_ns()}").touch() or 1 / x, [0], retries=5)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cancelled_call_gives_its_workers_back(pool, tmp_path):
    for begin in (
        lambda: pool.apply_async(say_and_sleep, (str(tmp_path),)),
        lambda: pool.map_async(say_and_sleep, [str(tmp_path)] * 20, 1),
    ):
        result = begin()
        until(lambda: any(tmp_path.iterdir()), "the function has begun")
        assert result.cancel() is True
        with pytest.raises(forklift.CancelledError) as caught:
            result.get(120)
        assert isinstance(caught.value, concurrent.futures.CancelledError)
        assert isinstance(caught.value, forklift.ForkliftError)
        assert result.ready() and not result.successful() and result.cancel() is False
        assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
        for path in tmp_path.iterdir():
            path.unlink()


def test_cancelling_what_is_done_does_nothing(pool):
    result = pool.apply_async(abs, (-3,))
    result.wait(120)
    assert result.cancel() is False
    assert result.get() == 3


@pytest.mark.parametrize("method", ["map_async", "apply_async"])
def test_a_call_is_done_or_cancelled_and_not_both(pool, method):
    for _ in range(200):
        pending = getattr(pool, method)(*((sum, [[1]]) if method == "map_async" else (sum, ([1],))))
        if pending.cancel():
            with pytest.raises(forklift.CancelledError):
                pending.get()
        else:
            assert pending.get() in (1, [1])


def test_cancelling_one_call_leaves_others_alone(pool, tmp_path):
    doomed = pool.map_async(say_and_sleep, [str(tmp_path)], 1)
    other = pool.map_async(abs, range(-100, 0), 1)
    until(lambda: any(tmp_path.iterdir()), "the function has begun")
    doomed.cancel()
    assert other.get(120) == list(range(100, 0, -1))


def test_error_callback_of_a_cancelled_call(pool, tmp_path):
    told, event = [], threading.Event()
    result = pool.apply_async(
        say_and_sleep, (str(tmp_path),), error_callback=lambda error: (told.append(error), event.set())
    )
    until(lambda: any(tmp_path.iterdir()), "the function has begun")
    result.cancel()
    assert event.wait(120)
    assert type(told[0]) is forklift.CancelledError


def test_an_iterator_that_is_dropped_gives_its_workers_back(pool, tmp_path):
    results = pool.imap(lambda i: i if i == 0 else say_and_sleep(str(tmp_path)), range(10), 1)
    assert next(results) == 0
    until(lambda: any(tmp_path.iterdir()), "the function has begun")
    del results
    assert pool.map(abs, [-1, -2]) == [1, 2]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"retries": -1}, ValueError, "retries must be from 0"),
        ({"retries": 1.5}, TypeError, "retries must be an int"),
        ({"task_timeout": 0}, ValueError, "task_timeout must be a positive"),
        ({"task_timeout": float("nan")}, ValueError, "task_timeout must be a positive"),
        ({"task_timeout": "1"}, TypeError, "task_timeout must be seconds"),
    ],
)
def test_bad_limits_are_refused_by_name(pool, options, error, match):
    with pytest.raises(error, match=match):
        forklift.Pool(1, **options)
    with pytest.raises(error, match=match):
        pool.map(abs, [1], **options)
    assert pool.map(abs, [-1]) == [1]


@pytest.mark.filterwarnings("ignore:inherit=True forks")
def test_limits_hold_for_inherited_items(pool, tmp_path):
    items = [(index, 3, "sleep") for index in range(6)]
    results = pool.map(sleep_at, items, 1, inherit=True, task_timeout=LIMIT, on_error="return")
    assert type(results[3]) is forklift.TaskTimeout
    items = [(index, str(tmp_path), 1 if index == 2 else 0) for index in range(4)]
    assert pool.map(die_until, items, inherit=True, retries=1) == [0, 1, 2, 3]
