"""What a pool that rests gives back, and what it keeps: counted in descriptors and mappings of parent and workers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import forklift
from tests.patience import until

from . import transport
from .transport import N

#: So long a pool rests before it gives memory back, here.
REST_SECONDS = 0.1

#: What a pool and each of its workers keep warm.
KEPT_BYTES = 16 << 20


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], forklift.Pool]]:
    """Makes pools that give memory back soon."""
    monkeypatch.setenv("FORKLIFT_TRIM_SECONDS", str(REST_SECONDS))
    pools: list[forklift.Pool] = []

    def make() -> forklift.Pool:
        pools.append(forklift.Pool(1))
        return pools[-1]

    yield make
    for pool in pools:
        pool.terminate()
        pool.join()


@pytest.mark.parametrize("value", ["soon", "", "0", "-1", "nan", "inf", "1e9"])
def test_a_rest_that_is_no_time_is_refused(monkeypatch, value):
    monkeypatch.setenv("FORKLIFT_TRIM_SECONDS", value)
    with pytest.raises(ValueError, match=f'FORKLIFT_TRIM_SECONDS .* "{value}"'):
        forklift.Pool(1)


def memory_file_bytes() -> int:
    """What the memory files of this process hold."""
    return sum(status.st_blocks * 512 for status in memory_files())


def memory_files() -> list[os.stat_result]:
    """Those of which this process holds a descriptor."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:forklift"):
                found.append(os.stat(f"/proc/self/fd/{name}"))
        except OSError:
            continue  # the directory's own descriptor
    return found


def test_a_pool_that_rests_gives_memory_back_when_it_is_told(hasty):
    pool = hasty()
    large = np.zeros(KEPT_BYTES // 4)
    pool.map(np.copy, [large])
    until(lambda: memory_file_bytes() < 2 * KEPT_BYTES + 2**20, "given back sooner than usual", 8.0)
    assert pool.map(transport.first, [np.full(N, 7.0)]) == [7.0]


def held(pid: int) -> tuple[int, int]:
    """Descriptors of memory files that a process has, and mappings of them."""
    descriptors = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            descriptors += os.readlink(f"/proc/{pid}/fd/{name}").startswith("/memfd:forklift")
        except OSError:
            continue  # it was closed, or is the directory's own
    with open(f"/proc/{pid}/maps") as lines:
        return descriptors, sum("/memfd:forklift" in line for line in lines)


def held_by_all(pool: forklift.Pool) -> list[tuple[int, int]]:
    """What parent and workers hold."""
    return [held(pid) for pid in (os.getpid(), *(worker[2] for worker in pool._native.staff()))]


def with_table(table: np.ndarray, i: int) -> float:
    return float(table[i])


def test_rests_leave_no_descriptor_and_no_mapping(hasty):
    """Large results and values for all workers need segments of their own, which go when the pool rests."""
    pool = hasty()
    pool.map(abs, range(3))
    before = held_by_all(pool)
    for _ in range(4):
        table = np.arange(N, dtype=float)
        assert pool.map(functools.partial(with_table, table), range(5)) == [0.0, 1.0, 2.0, 3.0, 4.0]
        results = pool.map(np.copy, [np.zeros(KEPT_BYTES // 2)] * 2)
        assert held_by_all(pool) > before
        del results
        # What stays warm is a segment of each side's, which both have mapped.
        until(lambda: bool(np.all(np.subtract(held_by_all(pool), before) <= 2)), "all else is gone")
        assert memory_file_bytes() < 2 * KEPT_BYTES + 2**20


def test_results_that_are_lent_on_leave_nothing(hasty):
    pool = hasty()
    pool.map(abs, range(3))
    before = held_by_all(pool)
    for _ in range(12):
        with forklift.Pool(1) as other:
            results = other.map(transport.fresh, range(2))
        assert pool.map(transport.total, results) == [0.0, float(N)]
        del results
    (_, (descriptors, mappings)) = held_by_all(pool)
    assert descriptors <= before[1][0] + 2 and mappings <= before[1][1] + 4
    until(lambda: held_by_all(pool) == before, "all is gone")


def test_memory_that_goes_while_the_pool_rests_is_let_go_of(hasty):
    pool = hasty()
    pool.map(np.copy, [np.zeros(KEPT_BYTES // 4)])
    until(lambda: memory_file_bytes() < 2 * KEPT_BYTES + 2**20, "the pool has rested")
    before = held_by_all(pool)
    with forklift.shared_arrays():
        array = np.full(N, 2.0)
    assert pool.map(transport.total, [array]) == [2.0 * N]
    pool.map(np.copy, [np.zeros(KEPT_BYTES // 4)])
    until(lambda: memory_file_bytes() < 2 * KEPT_BYTES + 2**21, "the pool has rested again")
    assert held_by_all(pool) > before
    del array
    until(lambda: held_by_all(pool) == before, "all is gone")
