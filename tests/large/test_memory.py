"""How much memory a map takes, and objects above 2 and 4 GiB."""

from __future__ import annotations

import fcntl
import gc
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

import forklift

from . import work

MB = 1_000_000
GIB = 1 << 30
HUGE_NEEDS = 14 * GIB
BOTH_WAYS_NEED = 16 * GIB


def proportional_bytes() -> int:
    """The proportional set size of this process and all its offspring."""
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it ended
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


class Peak:
    """Samples the proportional set size in a thread while it is open."""

    def __init__(self, pause_seconds: float = 0.01) -> None:
        self.pause_seconds = pause_seconds

    def __enter__(self) -> Peak:
        gc.collect()
        self.before = self.highest = proportional_bytes()
        self.samples = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._over.wait(self.pause_seconds):
            self.highest = max(self.highest, proportional_bytes())
            self.samples += 1

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def extra(self) -> int:
        return self.highest - self.before


@pytest.mark.parametrize("rounds", [1, 3])
def test_arrays_in_take_little_beside_themselves(pool, rounds):
    """100 arrays of 8 MB to small results: at most 150 MB beyond what all processes hold idle."""
    arrays = [np.full(MB, float(i)) for i in range(100)]
    pool.map(work.total, arrays[:1] * 2, 1)  # the workers have imported what they need
    with Peak() as peak:
        for _ in range(rounds):
            assert pool.map(work.total, arrays) == [float(MB) * i for i in range(100)]
    assert peak.samples > 0
    assert peak.extra <= 150 * MB, f"{peak.extra / MB:.0f} MB, {peak.samples} samples"


def test_a_generator_of_arrays_is_never_held_as_a_whole(pool):
    pool.map(work.total, [np.ones(MB)] * 2, 1)
    with Peak() as peak:
        totals = pool.imap(work.total, (np.full(MB, float(i)) for i in range(100)))
        assert sum(totals) == float(MB) * sum(range(100))
    assert peak.samples > 0
    assert peak.extra <= 250 * MB, f"{peak.extra / MB:.0f} MB, {peak.samples} samples"


def test_results_that_are_dropped_are_given_back(pool):
    """A consumer that keeps nothing: 100 results of 8 MB do not add up."""
    next(pool.imap(work.make_pattern, [(MB, 1)]))
    with Peak() as peak:
        for i, array in enumerate(pool.imap(work.make_pattern, ((MB, i) for i in range(100)), buffersize=4)):
            assert array[-1] == i
    assert peak.extra <= 200 * MB, f"{peak.extra / MB:.0f} MB, {peak.samples} samples"


def test_memory_does_not_grow_with_the_number_of_calls(pool):
    arrays = [np.full(MB, float(i)) for i in range(4)]
    for _ in range(20):
        pool.map(work.double, arrays)
    gc.collect()
    before = proportional_bytes()
    for _ in range(60):
        results = pool.map(work.double, arrays)
    assert [r[0] for r in results] == [0.0, 2.0, 4.0, 6.0]
    del results
    gc.collect()
    assert proportional_bytes() - before <= 200 * MB  # 60 calls move 1,920 MB either way


@pytest.fixture
def huge_memory():
    """One such test at a time on this machine, however many processes run tests, and only where there is room."""
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        available = psutil.virtual_memory().available
        if available < HUGE_NEEDS:
            pytest.skip(f"huge objects need 14 GiB of available memory, here are {available / GIB:.1f}")
        yield


@pytest.mark.huge
@pytest.mark.xdist_group("huge")
@pytest.mark.timeout(450)
def test_a_large_transfer_takes_memory_once(huge_memory):
    """2 GiB in, and 2 GiB out: both sides look at the same memory, so it is taken once beyond the parent's own."""
    size = 2 * GIB
    array = np.ones(size, np.uint8)
    with forklift.Pool(1, memory_limit="12GiB") as pool:
        pool.map(work.total, [np.ones(MB)])
        with Peak() as peak:
            assert pool.map(work.total, [array]) == [size]
        assert size <= peak.extra <= 1.1 * size, f"in: {peak.extra / MB:.0f} MB"
        del array
        with Peak() as peak:
            (result,) = pool.map(work.make_ones, [size])
            assert result[-1] == 1
        assert peak.extra <= 1.1 * size, f"out: {peak.extra / MB:.0f} MB"
    pool.join()


@pytest.mark.huge
@pytest.mark.xdist_group("huge")
@pytest.mark.timeout(450)
def test_bytes_above_four_gib(huge_memory):
    data = bytes(4 * GIB + 3)
    with forklift.Pool(1, memory_limit="12GiB") as pool:
        assert pool.map(len, [data]) == [len(data)]
    pool.join()


@pytest.mark.huge
@pytest.mark.xdist_group("huge")
@pytest.mark.timeout(450)
def test_more_than_four_gib_in_and_out(huge_memory):
    """Argument and result lie once each in memory that both sides look at: twice the array beside the parent's own."""
    available = psutil.virtual_memory().available
    if available < BOTH_WAYS_NEED:
        pytest.skip(f"4.5 GiB both ways need 16 GiB of available memory, here are {available / GIB:.1f}")
    size = 9 * GIB // 2
    array = np.ones(size, np.uint8)
    places = [0, 2**31 - 1, 2**31, 2**32 - 1, 2**32, size - 1]
    array[places] = range(2, 8)
    with forklift.Pool(1, memory_limit="20GiB") as pool:
        pool.map(work.total, [np.ones(MB)])
        # Each look walks through millions of pages, and whoever touches a new one waits for it.
        with Peak(pause_seconds=0.5) as peak:
            (result,) = pool.map(work.double, [array])
        assert pool._counters()["spilled_bytes"] == 0
    pool.join()
    assert len(result) == size and result.flags.writeable
    assert result[places].tolist() == [4, 6, 8, 10, 12, 14] and int(result[1]) == 2
    assert array[places].tolist() == [2, 3, 4, 5, 6, 7]
    assert 1.9 * size <= peak.extra <= 2.1 * size, f"{peak.extra / MB:.0f} MB"
