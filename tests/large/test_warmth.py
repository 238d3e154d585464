"""What a worker frees stays warm while it works, and goes back to the system when it is idle."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import psutil
import pytest

import forklift
from tests.patience import until

from . import transport, work

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
ROUNDS = 40


def page_faults(pid: int) -> int:
    """Pages that the process was given so far, without reading a disk."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


#: Items of a chunk of eight: a block of the C library's each, or many small objects of Python's own allocator.
MAKERS = {
    "blob": lambda index: index.to_bytes(4, "little") * 75_000,
    "numbers": lambda index: [index + column / 2 for column in range(12_000)],
}
CHUNK_BYTES = 8 * 300_000


@pytest.mark.parametrize("kind", MAKERS)
def test_a_chunk_is_decoded_into_memory_that_the_last_one_left(kind: str) -> None:
    items = [MAKERS[kind](index) for index in range(8 * ROUNDS)]
    expected = [len(item) for item in items]
    with forklift.Pool(1) as pool:
        assert pool.map(len, items[:80], chunksize=8, inherit=False) == expected[:80]
        pid = pool.workers()[0].pid
        before = page_faults(pid)
        assert pool.map(len, items, chunksize=8, inherit=False) == expected
        faults = page_faults(pid) - before
    assert faults < CHUNK_BYTES / PAGE_BYTES * ROUNDS / 8


def test_an_idle_worker_gives_its_free_memory_back() -> None:
    items = [MAKERS["numbers"](index) for index in range(60)]
    with forklift.Pool(1) as pool:
        pool.map(len, items, chunksize=60, inherit=False)
        process = psutil.Process(pool.workers()[0].pid)
        full = process.memory_info().rss
        until(lambda: full - process.memory_info().rss >= 8_000_000, "free memory is given back", 120)
        assert pool.map(len, items, chunksize=60, inherit=False) == [12_000] * 60


@pytest.mark.parametrize("way", ["out", "both"])
def test_a_stream_of_arrays_touches_no_fresh_page(way: str) -> None:
    """Results are taken one by one and dropped: from some point on every block was touched before, on both sides."""
    source = [np.full(transport.N, float(index)) for index in range(4)]
    function, items = {
        "out": (transport.fresh, itertools.count()),
        "both": (work.double, itertools.cycle(source)),
    }[way]
    with forklift.Pool(2) as pool:
        stream = pool.imap(function, items, buffersize=4)
        for _ in itertools.islice(stream, 100):
            pass  # NumPy is imported, and the window has all its blocks
        pids = [os.getpid(), *(worker.pid for worker in pool.workers())]
        before = [page_faults(pid) for pid in pids]
        fresh = pool._counters()["fresh_bytes"]
        for _ in itertools.islice(stream, 200):
            pass
        faults = [page_faults(pid) - earlier for pid, earlier in zip(pids, before, strict=True)]
        assert pool._counters()["fresh_bytes"] == fresh
        del stream
    # A fresh block for every tenth result would be 3920 faults. What is left is what Python itself needs.
    assert max(faults) < 200 * (8 * transport.N // PAGE_BYTES) / 10, faults
