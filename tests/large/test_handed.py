"""Results that die in the worker are handed over as they lie; others are copied. Counted in bytes."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from tests.patience import until

from . import transport
from .transport import N

BYTES = N * 8


def handed(pool) -> int:
    return pool._counters()["result_bytes_handed"]


@pytest.fixture
def pool(pool):
    pool.map(transport.fresh, range(4))  # NumPy is imported, functions are known
    return pool


def expect(pool, function, items, per_item):
    """The results of a map, of which so many bytes each must have been handed over; the rest was copied.

    One at a time: what two items of one chunk return arrives as one object, as with `multiprocessing.Pool`.
    """
    before = handed(pool)
    results = pool.map(function, items, 1)
    assert handed(pool) - before == per_item * len(items)
    return results


@pytest.mark.parametrize(
    ("function", "per_item"),
    [
        (transport.fresh, BYTES),
        (transport.large_slice_of_fresh, BYTES - 800),
        (transport.small_slice_of_fresh, 0),
        (transport.same_twice, BYTES),
        (transport.two_views, BYTES - 8),  # the second view is copied: two results never share memory
        (transport.nested, 2 * BYTES),
        (transport.made_by_thread, 0),
        (transport.resized, 3 * BYTES // 2),
        (transport.shrunk, 0),
        (transport.zeros, BYTES),
        (transport.structured, N * 12),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_is_handed_over(pool, function, per_item):
    results = expect(pool, function, range(12), per_item)
    for i, result in enumerate(results):
        np.testing.assert_equal(result, function(i))


def test_twice_the_same_array_is_one_array(pool):
    for result in pool.map(transport.same_twice, range(4)):
        assert result[0] is result[1]


def test_views_of_one_array_do_not_share_memory(pool):
    for first, second in pool.map(transport.two_views, range(4)):
        first[:] = -1
        assert (second != -1).all()


def test_an_argument_and_views_of_it_are_copied(pool):
    items = [np.full(N, float(i)) for i in range(8)]
    for function in (transport.argument, transport.view_of_argument):
        for result, item in zip(expect(pool, function, items, 0), items, strict=True):
            np.testing.assert_equal(result, function(item))


def test_what_the_worker_keeps_is_copied_and_stays_its_own(pool):
    for _ in range(3):
        results = expect(pool, transport.cached, range(6), 0)
        for result in results:
            np.testing.assert_equal(result, np.arange(N, dtype=float))
            result[:] = -1  # the worker's own must not change
        results = expect(pool, transport.slice_of_cached, range(6), 0)
        for i, result in enumerate(results):
            np.testing.assert_equal(result, np.arange(i, N - i, dtype=float))


def test_an_array_that_a_thread_goes_on_changing(pool):
    for result in pool.map(transport.kept_by_thread, range(8)):
        before = result.copy()
        time.sleep(0.05)  # were it the thread's memory, it would have changed
        np.testing.assert_equal(result, before)
        assert set(np.unique(result)) <= set(range(50))


def test_frames_and_masked_arrays(pool):
    pandas = pytest.importorskip("pandas")
    before = handed(pool)
    for i, result in enumerate(pool.map(transport.frame, range(6))):
        pandas.testing.assert_frame_equal(result, transport.frame(i))
        result.iloc[0, 0] = -1.0
    assert handed(pool) - before == 6 * 3 * BYTES
    for i, result in enumerate(pool.map(transport.masked, range(6))):
        np.testing.assert_equal(result.filled(-5), transport.masked(i).filled(-5))
        result[0] = 1.0


def test_results_are_writable_and_outlive_the_worker(pool):
    results = pool.map(transport.fresh, range(6))
    for worker in pool._native.staff():
        os.kill(worker[2], signal.SIGKILL)
    assert pool.map(transport.first, results) == [float(i) for i in range(6)]
    for i, result in enumerate(results):
        assert (result == i).all()
        result += 1
        assert (result == i + 1).all()


def test_in_steady_state_no_fresh_page_is_touched(pool):
    """The consumer drops each result: its memory goes back to its worker, which makes the next one in it."""
    addresses = set()
    for _ in pool.imap(transport.fresh, range(20), buffersize=2):
        pass
    for array in pool.imap(transport.fresh, range(200), buffersize=2):
        addresses.add(array.__array_interface__["data"][0])
        del array
    # Two workers, a few blocks each (one computed, one waiting, one consumed): far fewer places than results.
    assert len(addresses) <= 24


def memory_files() -> int:
    """Bytes in memory of the anonymous files that this process holds."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:"):
                total += os.stat(f"/proc/self/fd/{name}").st_blocks * 512
        except OSError:
            continue  # the directory's own descriptor
    return total


def test_what_a_dead_worker_has_left_goes_when_it_dies_here(pool):
    results = pool.map(transport.fresh, range(40))
    for worker in pool._native.staff():
        os.kill(worker[2], signal.SIGKILL)
    assert pool.map(transport.first, results[:2]) == [0.0, 1.0]  # by new workers
    held = memory_files()
    assert held >= 40 * BYTES
    del results[2:]
    until(lambda: memory_files() <= held - 37 * BYTES, "memory of dead workers goes with its last array")
    assert [result[0] for result in results] == [0.0, 1.0]
