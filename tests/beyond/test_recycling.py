"""Workers that are replaced: after their last call, and for the memory they hold."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import forklift
from tests.patience import until, wait_for_file


def wait_for(paths):
    begun, go = paths
    Path(begun).touch()
    wait_for_file(go)
    return os.getpid()


def pid_of(_):
    return os.getpid()


def states(pool):
    return [worker.state for worker in pool.workers()]


def test_the_successor_is_ready_while_the_last_call_still_runs(tmp_path):
    begun, go = str(tmp_path / "begun"), str(tmp_path / "go")
    with forklift.Pool(1, maxtasksperchild=2) as pool:
        first = pool.apply(pid_of, (0,))
        last = pool.apply_async(wait_for, ((begun, go),))
        wait_for_file(begun)
        until(lambda: states(pool) == ["busy", "idle"], "a successor beside the busy worker")
        # One seat does one thing at a time: what comes meanwhile waits for the call that runs.
        after = pool.apply_async(pid_of, (0,))
        assert not last.ready() and states(pool) == ["busy", "idle"]
        Path(go).touch()
        assert last.get(120) == first
        assert after.get(120) != first
        assert pool._counters()["recycled_tasks"] == 1
    pool.join()


def test_a_death_in_the_last_call_loses_nothing_else(tmp_path):
    begun, go = str(tmp_path / "begun"), str(tmp_path / "go")
    with forklift.Pool(1, maxtasksperchild=1, retries=1) as pool:
        last = pool.apply_async(wait_for, ((begun, go),))
        wait_for_file(begun)
        workers = until(lambda: len(pool.workers()) == 2 and pool.workers(), "a successor")
        (victim,) = [worker.pid for worker in workers if worker.state == "busy"]
        os.kill(victim, signal.SIGKILL)
        Path(go).touch()
        assert last.get(120) not in (victim, None)
        assert pool._counters()["deaths"] == 1
    pool.join()


@pytest.mark.parametrize("context", ["fork", "spawn", None])
def test_every_recycle_is_one_birth(context):
    with forklift.Pool(2, maxtasksperchild=1, context=context) as pool:
        pids = pool.map(pid_of, range(8), chunksize=3)
        assert len(set(pids)) == 8
        until(lambda: states(pool) == ["idle", "idle"], "the last successors")
        counters = pool._counters()
    pool.join()
    assert (counters["recycled_tasks"], counters["births"], counters["deaths"]) == (8, 10, 0)


def undecodable():
    raise ValueError("cannot be rebuilt")


class Undecodable:
    def __reduce__(self):
        return undecodable, ()


def test_a_piece_that_is_given_back_uses_its_worker_up_too():
    with forklift.Pool(1, maxtasksperchild=2, on_error="return") as pool:
        results = pool.map(type, [1, Undecodable(), 2, 3])
    pool.join()
    assert results[0] is results[2] is results[3] is int
    assert isinstance(results[1], forklift.DecodeError)


# worker_memory_limit

MB = 1 << 20
kept = []


def keep_bytes(number):
    """A leak of 4 MB of Python objects a call."""
    kept.append(b"%d" % (number % 10) * (4 * MB))
    return number * number, os.getpid(), sum(map(len, kept))


def keep_array(number):
    import numpy as np

    kept.append(np.full(MB // 2, float(number)))
    return number, os.getpid(), sum(array.nbytes for array in kept)


def keep_argument(array):
    kept.append(array)
    return os.getpid(), sum(array.nbytes for array in kept)


def take_and_return(bytes_):
    return len(bytearray(b"x") * bytes_)


def per_worker(results):
    """The most that each pid says it held."""
    most = {}
    for *_, pid, held in results:
        most[pid] = max(most.get(pid, 0), held)
    return most


@pytest.mark.parametrize(
    ("function", "chunksize"), [(keep_bytes, None), (keep_bytes, 1), (keep_array, None), (keep_array, 40)]
)
def test_a_leaking_function_finishes_with_bounded_workers(function, chunksize):
    with forklift.Pool(2, worker_memory_limit="64MiB") as pool:
        results = pool.map(function, range(200), chunksize)
        counters = pool._counters()
    pool.join()
    assert [result[0] for result in results] == [(function is keep_bytes and n * n) or n for n in range(200)]
    held = per_worker(results)
    # One call more than fits, and what is born with a worker. Nobody has to be stopped.
    assert max(held.values()) <= 80 * MB
    assert counters["recycled_memory"] >= 200 * 4 // 80 - 2 >= len(held) - 2 - counters["births"]
    assert len(held) > 5 and (counters["stopped_memory"], counters["deaths"]) == (0, 0)


def test_what_is_kept_of_arguments_is_the_worker_s_own():
    np = pytest.importorskip("numpy")
    with forklift.Pool(2, worker_memory_limit="64MiB") as pool:
        results = pool.map(keep_argument, (np.full(MB, float(n)) for n in range(40)))
        held = per_worker(results)
        assert len(held) >= 4 and max(held.values()) <= 80 * MB
        assert pool._counters()["recycled_memory"] >= 3
    pool.join()


def test_freed_memory_is_not_held():
    with forklift.Pool(1, worker_memory_limit="100MiB") as pool:
        # 80 MB at a time, in one piece and in many small ones.
        assert pool.map(take_and_return, [80 * MB] * 6, 1) == [80 * MB] * 6
        assert len(set(pool.map(make_many_objects, range(6), 1))) == 1
        assert pool._counters()["recycled_memory"] == 0
    pool.join()


def make_many_objects(_):
    total = sum(len(text) for text in [str(number) * 20 for number in range(300_000)])
    assert total > 0
    return os.getpid()


def take(bytes_, go):
    block = b"x" * bytes_
    wait_for_file(go)
    return len(block)


def take_array(bytes_, go):
    import numpy as np

    array = np.ones(bytes_, np.uint8)
    wait_for_file(go)
    return int(array.sum())


@pytest.mark.parametrize("function", [take, take_array])
def test_one_that_takes_far_too_much_during_a_call_is_stopped(function, tmp_path):
    go, never = str(tmp_path / "go"), str(tmp_path / "never")
    Path(go).touch()
    with forklift.Pool(2, worker_memory_limit="64MiB", on_error="return", retries=3) as pool:
        sizes = [MB, 300 * MB, 2 * MB, 80 * MB]
        gates = [go, never, go, go]
        results = pool.starmap(function, zip(sizes, gates, strict=True), chunksize=2)
        counters = pool._counters()
        assert pool.map(abs, [-1]) == [1]
    pool.join()
    assert results[0] == MB and results[2] == 2 * MB
    # Between the limit and half as much again: not stopped during the call, and freed before its end was looked at.
    assert results[3] == 80 * MB
    error = results[1]
    assert isinstance(error, forklift.MemoryLimitExceeded) and isinstance(error, MemoryError)
    assert error.index == 1 and error.limit == 64 * MB
    assert 96 * MB < error.asked < 420 * MB
    assert "worker" in error.holder and "item 1" in str(error)
    assert counters["stopped_memory"] == 1


def test_modules_that_all_have_in_common_do_not_count():
    with forklift.Pool(1, preload=["numpy", "tests.beyond.heavy"], worker_memory_limit="50MB") as pool:
        pids = pool.map(pid_of, range(30), 1)
        (worker,) = pool.workers()
        assert (
            worker.private_bytes > 60 * MB
        )  # As the kernel counts; nearly all of it is the zygote's as well.
        assert len(set(pids)) == 1
        assert pool._counters()["recycled_memory"] == 0
    pool.join()


@pytest.mark.parametrize("limit", [0, -1, "many", 1.5, "0MB", True])
def test_bad_limits_are_refused(limit):
    with pytest.raises(ValueError, match="worker_memory_limit must be"):
        forklift.Pool(1, worker_memory_limit=limit)
