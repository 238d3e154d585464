"""Workers that die in every place where one can be: born, decoding, in the function, between items, encoding, idle.

What was lost is named, everything else is as the for loop has it, and the pool works afterwards.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import psutil
import pytest

import forklift
from tests import house
from tests.patience import settled, until

from . import work
from .bombs import (
    COUNT,
    DOOMED,
    Bomb,
    die_in_the_first,
    exit_politely,
    fail_from_the_third,
    hold,
    index_of,
    overflow_the_stack,
    return_it,
)

CHUNKS = pytest.mark.parametrize("chunksize", [None, 4])


def check(pool: Any, results: list[Any], expected: list[Any], signaled: int) -> None:
    """Item DOOMED was lost by name, with the signal; all others are there; the pool is whole again."""
    lost = results.pop(DOOMED)
    assert type(lost) is forklift.WorkerDied, lost
    assert (lost.index, lost.exitcode) == (DOOMED, -signaled)
    assert not house.alive(lost.pid)
    del expected[DOOMED]
    assert results == expected
    assert pool.map(abs, range(-50, 0)) == list(range(50, 0, -1))
    assert len(pool.workers()) == 2


@CHUNKS
@pytest.mark.parametrize("bulk", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("where", ["decoding", "dropping"])
def test_with_an_argument(pool, where, bulk, chunksize):
    data = np.zeros(40_000) if bulk else None
    items = [Bomb(index, where if index == DOOMED else "", data) for index in range(COUNT)]
    results = pool.map(index_of, items, chunksize, on_error="return")
    check(pool, results, list(range(COUNT)), signal.SIGKILL)


@CHUNKS
def test_encoding_a_result(pool, chunksize):
    items = [Bomb(index, "encoding" if index == DOOMED else "") for index in range(COUNT)]
    results = pool.map(return_it, items, chunksize, on_error="return")
    results = [result.index if isinstance(result, Bomb) else result for result in results]
    check(pool, results, list(range(COUNT)), signal.SIGKILL)


@pytest.mark.parametrize("where", ["decoding", "dropping", "encoding"])
def test_items_of_an_iterator(pool, where):
    items = (Bomb(index, where if index == DOOMED else "") for index in range(COUNT))
    results = list(pool.imap(return_it, items, on_error="return"))
    results = [result.index if isinstance(result, Bomb) else result for result in results]
    check(pool, results, list(range(COUNT)), signal.SIGKILL)


@CHUNKS
def test_native_stack_overflow(pool, chunksize):
    results = pool.map(overflow_the_stack, range(COUNT), chunksize, on_error="return")
    reason = results[DOOMED].reason
    assert "SIGSEGV" in reason and "stack" in reason
    check(pool, results, list(range(COUNT)), signal.SIGSEGV)


def test_an_item_too_deep_to_be_pickled_fails_alone(pool):
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    results = pool.map(type, [1, deep, 3], on_error="return")
    assert isinstance(results[1], forklift.EncodeError) and results[1].index == 1
    assert results[::2] == [int, int]
    while deep:  # CPython frees such a list by recursion too
        deep = deep.pop()


@pytest.mark.parametrize("context", [None, "spawn", "fork"])
def test_being_born(tmp_path, context):
    """One bad birth is made good; the caller does not notice."""
    with forklift.Pool(2, die_in_the_first, (str(tmp_path), 1), context=context) as pool:
        assert pool.map(abs, range(-50, 0)) == list(range(50, 0, -1))
        assert len(list(tmp_path.iterdir())) == 1
    pool.join()


@pytest.mark.parametrize("context", [None, "fork"])
def test_being_born_every_time(tmp_path, context):
    """Not an endless loop of births: the call ends, and says how workers die."""
    with (
        pytest.raises(forklift.ForkliftError) as caught,
        forklift.Pool(2, die_in_the_first, (str(tmp_path), 1000), context=context) as pool,
    ):
        pool.map(abs, range(100))
    assert "cannot start workers" in str(caught.value) and "SIGKILL" in str(caught.value)
    assert settled(lambda: len(list(tmp_path.iterdir()))) <= 10


def test_exit_in_the_initializer_is_told_with_its_code(tmp_path):
    births = tmp_path / "births"
    with (
        pytest.raises(forklift.ForkliftError, match=r"initializer.*code 4"),
        forklift.Pool(2, work.dying_initializer, (str(births),)) as pool,
    ):
        pool.map(abs, range(100))


def test_sys_exit_in_the_initializer():
    with (
        pytest.raises((SystemExit, forklift.ForkliftError)) as caught,
        forklift.Pool(2, exit_politely) as pool,
    ):
        pool.map(abs, range(100))
    assert "the model is missing" in "".join([str(caught.value), str(caught.value.__cause__)])


def test_initializer_that_fails_in_replacements(tmp_path):
    """What is done is delivered as long as somebody lives; when nobody can be born any more, the call ends so."""
    with forklift.Pool(2, fail_from_the_third, (str(tmp_path),)) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
        with pytest.raises((work.SetupFailed, forklift.WorkerDied)):
            pool.map(work.die, ["SIGKILL"] * 4, 1)
        with pytest.raises(work.SetupFailed, match="licences"):
            pool.map(work.die, ["SIGKILL"] * 4, 1)
    pool.join()


def zygote() -> psutil.Process:
    (found,) = [child for child in psutil.Process().children() if "forklift-zygote" in child.cmdline()]
    return found


def test_the_zygote_dies(pool, tmp_path):
    """Its workers live on; the next birth comes from a new one."""
    pids = pool.map(work.meet, [str(tmp_path)] * 2, 1)
    first = zygote()
    first.kill()
    until(lambda: not house.alive(first.pid), "the zygote is gone")
    assert set(pool.map(work.pid, range(20), 1)) <= set(pids)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: not house.alive(pid), "worker dead")
    assert pool.map(abs, range(-50, 0)) == list(range(50, 0, -1))
    assert zygote().pid != first.pid


def test_the_zygote_dies_while_items_run(pool, tmp_path):
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    result = pool.apply_async(work.announce_and_wait, ((str(begun), str(gate)),))
    until(begun.exists, "the item runs")
    zygote().kill()
    gate.touch()
    assert result.get(120) == str(gate)


def test_results_of_the_dead_stay(pool):
    """What workers handed over is the user's, whatever becomes of them."""
    kept = pool.starmap(np.full, [(100_000, n) for n in range(6)], 1)
    for member in pool.workers():
        os.kill(member.pid, signal.SIGKILL)
        until(lambda pid=member.pid: not house.alive(pid), "worker dead")
    again = pool.starmap(np.full, [(100_000, n + 50) for n in range(6)], 1)
    assert [int(array.sum()) for array in kept] == [100_000 * n for n in range(6)]
    assert [int(array.sum()) for array in again] == [100_000 * (n + 50) for n in range(6)]


def test_blocks_that_a_dead_worker_held_are_used_again():
    """A worker that keeps its arguments keeps their blocks; its death gives them back."""
    with forklift.Pool(1) as pool:
        for _ in range(4):
            assert pool.map(hold, [np.ones(500_000) for _ in range(4)], 1) == [1, 2, 3, 4]
            (member,) = pool.workers()
            os.kill(member.pid, signal.SIGKILL)
            until(lambda pid=member.pid: not house.alive(pid), "worker dead")
        assert pool._counters()["fresh_bytes"] < 2 * 4 * 4_000_000
    pool.join()


def test_a_worker_that_is_stopped_while_idle_is_replaced_where_items_have_limits(pool, tmp_path):
    pids = pool.map(work.meet, [str(tmp_path)] * 2, 1)
    os.kill(pids[0], signal.SIGSTOP)
    assert pool.map(abs, range(-50, 0), 1, task_timeout=2) == list(range(50, 0, -1))
    assert not house.alive(pids[0])


def test_a_worker_that_is_stopped_and_continued(pool, tmp_path):
    pids = pool.map(work.meet, [str(tmp_path)] * 2, 1)
    os.kill(pids[0], signal.SIGSTOP)
    result = pool.map_async(work.square, range(50), 1)
    os.kill(pids[0], signal.SIGCONT)
    assert result.get(120) == [i * i for i in range(50)]


def test_terminate_with_stopped_workers(tmp_path):
    with forklift.Pool(2) as pool:
        for pid in pool.map(work.meet, [str(tmp_path)] * 2, 1):
            os.kill(pid, signal.SIGSTOP)
    pool.join()
