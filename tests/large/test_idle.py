"""What a pool that rests gives back, and what it keeps: counted in descriptors and mappings of parent and workers."""

from __future__ import annotations

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
