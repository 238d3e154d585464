"""What a worker frees stays warm while it works, and goes back to the system when it is idle."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

import forklift
from tests.patience import until

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
        until(lambda: full - process.memory_info().rss >= 8_000_000, "free memory is given back", 40)
        assert pool.map(len, items, chunksize=60, inherit=False) == [12_000] * 60
