"""map_async, starmap_async, apply_async, AsyncResult and callbacks."""

from __future__ import annotations

import multiprocessing
import threading
from typing import Any

import pytest

from tests.patience import wait_for_file

from . import work

HANG = 120  # seconds: a guard, not an expectation


def start(pool, method: str, function, items, **options):
    """Begin a call of one item by any of the three methods."""
    if method == "apply_async":
        return pool.apply_async(function, (items[0],), **options)
    if method == "starmap_async":
        items = [(item,) for item in items]
    return getattr(pool, method)(function, items, **options)


def value_of(method: str, result: Any) -> Any:
    return result if method == "apply_async" else result[0]


METHODS = pytest.mark.parametrize("method", ["apply_async", "map_async", "starmap_async"])


def test_results(pool):
    assert pool.map_async(work.square, range(10)).get() == [i * i for i in range(10)]
    assert pool.map_async(work.square, (i for i in range(10)), 3).get() == [i * i for i in range(10)]
    assert pool.starmap_async(work.add, [(1, 2), (3, 4)]).get() == [3, 7]
    assert pool.starmap_async(work.add, zip("ab", "cd", strict=True), 1).get(HANG) == ["ac", "bd"]
    assert pool.apply_async(work.square, (5,)).get(timeout=HANG) == 25
    assert pool.apply_async(work.collect, (1,), {"a": 2}).get() == ((1,), {"a": 2})
    assert pool.apply_async(work.collect).get() == ((), {})
    assert pool.map_async(work.square, []).get(HANG) == []
    assert pool.map_async(work.square, [], chunksize=1).get(HANG) == []


@METHODS
def test_states_of_a_result(pool, method, tmp_path):
    gate = tmp_path / "gate"
    result = start(pool, method, work.wait_for, [str(gate)])
    assert result.ready() is False
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.01)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(-1)
    assert result.wait(0.01) is None
    assert result.wait(timeout=0) is None
    assert result.ready() is False
    gate.touch()
    assert result.wait(HANG) is None
    assert result.ready() is True
    assert result.successful() is True
    assert value_of(method, result.get()) == str(gate)
    assert value_of(method, result.get(0)) == str(gate)


@METHODS
def test_states_of_a_failure(pool, method):
    result = start(pool, method, work.raise_value, [7])
    result.wait(HANG)
    assert result.ready() is True
    assert result.successful() is False
    for _ in range(2):
        with pytest.raises(ValueError, match="a value that is wrong"):
            result.get()


def test_timeout_error_is_the_one_of_multiprocessing(pool, tmp_path):
    gate = tmp_path / "gate"
    result = pool.apply_async(work.wait_for, (str(gate),))
    with pytest.raises(Exception) as caught:
        result.get(0.01)
    assert isinstance(caught.value, multiprocessing.TimeoutError)
    assert isinstance(caught.value, multiprocessing.ProcessError)
    gate.touch()
    assert result.get(HANG) == str(gate)


def test_get_gives_the_same_object_each_time(pool):
    result = pool.map_async(work.identity, [[1], [2]])
    assert result.get() is result.get()


@METHODS
def test_callback(pool, method):
    calls: list[Any] = []
    errors: list[Any] = []
    result = start(pool, method, work.square, [3], callback=calls.append, error_callback=errors.append)
    result.wait(HANG)
    assert [value_of(method, call) for call in calls] == [9]  # it has run when wait returns
    assert errors == []
    assert calls[0] == result.get()


@METHODS
def test_error_callback(pool, method):
    calls: list[Any] = []
    errors: list[Any] = []
    result = start(pool, method, work.raise_value, [3], callback=calls.append, error_callback=errors.append)
    result.wait(HANG)
    assert calls == []
    assert len(errors) == 1
    assert type(errors[0]) is ValueError and errors[0].args == ("a value that is wrong", 3)
    with pytest.raises(ValueError, match="a value that is wrong") as caught:
        result.get()
    assert caught.value is errors[0]


@METHODS
def test_failure_without_error_callback(pool, method):
    calls: list[Any] = []
    result = start(pool, method, work.raise_value, [3], callback=calls.append)
    result.wait(HANG)
    assert calls == []


def test_callback_gets_none_too(pool):
    calls: list[Any] = []
    pool.apply_async(work.nothing, (1,), callback=calls.append).wait(HANG)
    assert calls == [None]


def test_map_async_has_one_callback_for_all_items(pool):
    calls: list[Any] = []
    pool.map_async(work.square, range(100), chunksize=3, callback=calls.append).wait(HANG)
    assert calls == [[i * i for i in range(100)]]


def test_map_async_has_one_error_callback_for_many_failures(pool):
    errors: list[Any] = []
    pool.map_async(work.raise_value, range(20), chunksize=1, error_callback=errors.append).wait(HANG)
    assert len(errors) == 1


def test_callbacks_of_one_worker_come_in_order(Pool):
    calls: list[int] = []
    with Pool(1) as pool:
        results = [pool.apply_async(work.identity, (i,), callback=calls.append) for i in range(50)]
        for result in results:
            result.wait(HANG)
    pool.join()
    assert calls == list(range(50))


def test_callbacks_have_run_after_join(Pool):
    calls: list[int] = []
    pool = Pool(2)
    for i in range(50):
        pool.apply_async(work.identity, (i,), callback=calls.append)
    pool.close()
    pool.join()
    assert sorted(calls) == list(range(50))


def test_callback_may_submit_more_work(pool):
    more: list[Any] = []
    done = threading.Event()

    def again(value: int) -> None:
        more.append(pool.apply_async(work.square, (value,)))
        done.set()

    pool.apply_async(work.square, (3,), callback=again)
    assert done.wait(HANG)
    assert more[0].get(HANG) == 81


def test_many_results_at_once_taken_backwards(pool):
    results = [pool.apply_async(work.square, (i,)) for i in range(500)]
    assert [result.get(HANG) for result in reversed(results)] == [i * i for i in reversed(range(500))]


def test_many_maps_at_once(pool):
    results = [pool.map_async(work.square, range(n)) for n in range(40)]
    assert [result.get(HANG) for result in results] == [[i * i for i in range(n)] for n in range(40)]


def test_a_short_call_passes_a_long_one(pool, tmp_path):
    gate = tmp_path / "gate"
    blocked = pool.apply_async(work.announce_and_wait, ((str(tmp_path / "begun"), str(gate)),))
    wait_for_file(tmp_path / "begun")
    assert pool.apply_async(work.square, (4,)).get(HANG) == 16  # the other worker is free
    assert blocked.ready() is False
    gate.touch()
    assert blocked.get(HANG) == str(gate)


def test_get_from_several_threads(pool, tmp_path):
    gate = tmp_path / "gate"
    result = pool.apply_async(work.wait_for, (str(gate),))
    seen: list[str] = []
    threads = [threading.Thread(target=lambda: seen.append(result.get(HANG))) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.touch()
    for thread in threads:
        thread.join()
    assert seen == [str(gate)] * 4


def test_result_outlives_its_pool(Pool):
    pool = Pool(2)
    result = pool.map_async(work.square, range(10))
    pool.close()
    pool.join()
    assert result.ready() and result.successful()
    assert result.get() == [i * i for i in range(10)]


def test_result_that_was_ready_survives_terminate(Pool):
    with Pool(2) as pool:
        result = pool.map_async(work.square, range(10))
        result.wait(HANG)
    pool.join()
    assert result.get(0) == [i * i for i in range(10)]


def test_async_result_is_generic(pool):
    result = pool.apply_async(work.square, (1,))
    assert type(result)[int] is not None  # annotations such as AsyncResult[int] work since 3.9
    assert result.get(HANG) == 1
