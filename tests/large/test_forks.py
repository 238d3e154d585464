"""What forks of the user's process, and of workers, do to memory that is shared: nothing that anybody else sees."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

import numpy as np
import pytest

import forklift

from . import transport
from .transport import N


def fork_by_c() -> int:
    """Fork as C code does, which tells nobody but the C library."""
    return int(ctypes.PyDLL(None).fork())


FORKS: dict[str, Callable[[], int]] = {"os.fork": os.fork, "C": fork_by_c}


@pytest.fixture(params=FORKS)
def fork(request: pytest.FixtureRequest) -> Callable[[], int]:
    return FORKS[request.param]


def in_child(fork: Callable[[], int], do: Callable[[], bool]) -> bool:
    """What a forked child finds."""
    child = fork()
    if child == 0:
        found = False
        try:
            found = do()
        finally:
            os._exit(0 if found else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def memory(pool: forklift.Pool) -> list[np.ndarray]:
    """An array of `shared_arrays()`, a result, and a part of one, all of ones."""
    with forklift.shared_arrays():
        shared = np.ones(N)
    first, second = pool.map(np.copy, [shared, shared])
    return [shared, first, second[10:]]


def test_a_fork_writes_to_copies(pool, fork):
    arrays = memory(pool)

    def write() -> bool:
        seen = all((array == 1).all() for array in arrays)
        for array in arrays:
            array[:] = 7
        return seen and all((array == 7).all() for array in arrays)

    assert in_child(fork, write)
    assert all((array == 1).all() for array in arrays)
    assert pool.map(transport.total, arrays) == [array.sum() for array in arrays]


def test_so_does_a_fork_of_a_fork_that_has_closed_all_descriptors(pool, fork, tmp_path):
    """As daemons do. Numbers of descriptors are another file's then."""
    arrays = memory(pool)
    other = tmp_path / "other"
    other.write_bytes(b"\1" * N * 8)

    def write() -> bool:
        for array in arrays:
            array[:] = 7
        return bool((arrays[0] == 7).all())

    def become_a_daemon() -> bool:
        os.closerange(3, 1000)
        for _ in range(100):
            os.open(other, os.O_RDWR)
        return all((array == 1).all() for array in arrays) and in_child(fork, write)

    assert in_child(fork, become_a_daemon)
    assert all((array == 1).all() for array in arrays)
    assert other.read_bytes() == b"\1" * N * 8


def test_what_a_fork_gives_up_stays_its_parents(pool, fork):
    arrays = memory(pool)
    free = [array.ctypes.data for array in arrays]

    def drop() -> bool:
        with forklift.shared_arrays():
            arrays.append(np.full(N, 5.0))
        arrays.clear()
        forklift._native.trim_shared()
        return True

    assert in_child(fork, drop)
    again = memory(pool)
    assert not {array.ctypes.data for array in again} & set(free)
    assert all((array == 1).all() for array in arrays + again)


def test_a_fork_lends_what_it_has_written(pool):
    arrays = memory(pool)

    def work() -> bool:
        for array in arrays:
            array[:] = 7
        with forklift.Pool(1) as own:
            return own.map(transport.first, arrays) == [7.0] * 3

    assert in_child(os.fork, work)
    assert pool.map(transport.first, arrays) == [1.0] * 3


@pytest.mark.parametrize("by_c", [False, True])
def test_a_fork_of_a_worker_changes_nothing(pool, by_c):
    items = [(np.full(N, 3.0), by_c) for _ in range(4)]
    assert pool.starmap(transport.forked_child_writes, items) == [(3.0, 5.0)] * 4
    np.testing.assert_equal(pool.apply(transport.fresh, (9,)), np.full(N, 9.0))


def test_a_fork_of_a_worker_waits_for_no_lock(pool):
    """Other threads of the worker make and drop arrays meanwhile; the fork resizes some of its own, and drops all."""
    assert pool.map(transport.forks_beside_threads, [np.full(N, 3.0)] * 2, 1) == [[0] * 30] * 2
