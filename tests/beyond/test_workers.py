"""Who works in a pool, and how many."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import forklift
from tests.patience import settled, until, wait_for_file


@pytest.fixture
def pool():
    with forklift.Pool(2) as pool:
        yield pool
    pool.join()


def wait_for(paths):
    mine, other = paths
    Path(mine).touch()
    wait_for_file(other)
    return os.getpid()


def pid_of(_):
    time.sleep(0.02)
    return os.getpid()


def states(pool):
    return [worker.state for worker in pool.workers()]


def test_workers_are_those_who_answer(pool):
    assert pool.workers() == []
    pids = set(pool.map(pid_of, range(20), 1))
    workers = pool.workers()
    assert {worker.pid for worker in workers} >= pids
    assert [worker.slot for worker in workers] == [0, 1]
    assert sum(worker.tasks for worker in workers) == 20
    for worker in workers:
        assert worker.private_bytes > 1 << 20 and worker.shared_bytes > 1 << 20


def test_a_worker_is_busy_while_it_works(pool, tmp_path):
    pool.map(abs, range(4))
    begun, go = str(tmp_path / "begun"), str(tmp_path / "go")
    result = pool.apply_async(wait_for, ((begun, go),))
    wait_for_file(begun)
    assert sorted(states(pool)) == ["busy", "idle"]
    Path(go).touch()
    busy = result.get(120)
    until(lambda: states(pool) == ["idle", "idle"], "both idle")
    assert busy in {worker.pid for worker in pool.workers()}


def test_growing_and_shrinking(pool):
    assert len(set(pool.map(pid_of, range(20), 1))) <= 2
    pool.resize(4)
    until(lambda: states(pool) == ["idle"] * 4, "four workers")
    assert len(set(pool.map(pid_of, range(60), 1))) > 2
    pool.resize(1)
    until(lambda: states(pool) == ["idle"], "one worker")
    assert len(set(pool.map(pid_of, range(10), 1))) == 1
    assert repr(pool).endswith("pool_size=1>")


def test_shrinking_lets_busy_workers_finish(pool, tmp_path):
    files = [str(tmp_path / name) for name in ("a", "b", "go")]
    calls = [pool.apply_async(wait_for, ((files[i], files[2]),)) for i in range(2)]
    for i in range(2):
        wait_for_file(files[i])
    pool.resize(1)
    assert len(pool.workers()) == 2
    Path(files[2]).touch()
    assert len({call.get(120) for call in calls}) == 2
    until(lambda: states(pool) == ["idle"], "one worker")


@pytest.mark.parametrize("number", [0, -1, 10**6])
def test_bad_numbers_are_refused(pool, number):
    with pytest.raises(ValueError, match="Number of processes"):
        pool.resize(number)
    assert pool.map(abs, [-1]) == [1]


@pytest.mark.parametrize("number", [2.5, "2"])
def test_what_is_no_number_changes_nothing(pool, number):
    with pytest.raises(TypeError, match="processes must be an int"):
        pool.resize(number)
    assert "pool_size=2" in repr(pool)
    assert pool.map(abs, [-1]) == [1]


def test_a_closed_pool_says_so(pool):
    pool.close()
    for call in (pool.workers, lambda: pool.resize(2)):
        with pytest.raises(ValueError, match="Pool not running"):
            call()


def pid_after(seconds):
    if seconds:
        time.sleep(seconds)
    return os.getpid()


class Counted:
    """A path, of which it is known how often it was encoded."""

    def __init__(self, path, encoded):
        self.path, self.encoded = path, encoded

    def __reduce__(self):
        self.encoded.append(self)
        return Path, (self.path,)


def wait_if_told(path):
    if path:
        wait_for_file(path)


def test_a_function_that_was_called_before_is_not_probed(pool, tmp_path):
    def encoded_before_any_answer(path):
        encoded = []
        call = pool.map_async(wait_if_told, [Counted(path, encoded) for _ in range(2_000)])
        count = settled(lambda: len(encoded))
        path.touch()
        call.get()
        return count

    assert encoded_before_any_answer(tmp_path / "first") <= 4, "two single items for each worker"
    for _ in range(2):  # Of the first of these it is thought that its items take as long.
        pool.map(wait_if_told, [None] * 2_000)
    assert encoded_before_any_answer(tmp_path / "second") >= 20


#: Items that turn dear when a long chunk of cheap ones has been sent already.
TURNING_DEAR = [0.0] * 40_000 + [0.02] * 40


def test_a_chunk_that_takes_far_longer_than_was_thought_is_shared(pool):
    for _ in range(3):  # Also by workers that gave one back before.
        pids = pool.map(pid_after, TURNING_DEAR)
        dear = pids[-40:]
        assert min(dear.count(pid) for pid in set(dear)) >= 10 and len(set(dear)) == 2
    assert pool.report().staff["deaths"] == 0


def test_a_chunk_of_the_users_own_size_is_not(pool):
    pids = pool.map(pid_after, TURNING_DEAR, 20_020)
    assert len(set(pids[20_020:])) == 1
