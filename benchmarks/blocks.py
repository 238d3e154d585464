"""`map_blocks` over one array of a gigabyte, beside NumPy alone, threads, and dask's schedulers.

`python -m benchmarks.blocks` writes the table of docs/blocks.md; `--quick` is a short look that writes nothing.
All in one process, one after the other; each way's result is compared with NumPy's.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import forklift
from forklift.bench.page import milliseconds, quotient, table

PAGE = Path(__file__).parent.parent / "docs" / "blocks.md"
BEGIN, END = "<!-- table: python -m benchmarks.blocks -->", "<!-- end of table -->"
MEGABYTES, QUICK_MEGABYTES = 1000, 100
ROUNDS = 3
# No more rounds of a way that has taken so long.
PATIENCE_SECONDS = 10.0
WORKERS = 2

# What dask makes of 1 GB by itself would be 8 chunks; 32 MB were the fastest for its threads where this was tried.
DASK_CHUNK_BYTES = 32 << 20
# What a thread takes at a time.
THREAD_BLOCK_BYTES = 4 << 20


def wave(part: np.ndarray) -> np.ndarray:
    """Some tens of nanoseconds of work an element."""
    found: np.ndarray = np.sin(part) * np.exp(-part)
    return found


FUNCTIONS: dict[str, Callable[[Any], Any]] = {"np.sqrt": np.sqrt, "np.sin(a) * np.exp(-a)": wave}

# A way is set up with (array, function), and then called again and again.
Way = Callable[[np.ndarray, Callable[[Any], Any]], Any]


@contextmanager
def numpy_alone(array: np.ndarray, func: Callable[[Any], Any]) -> Iterator[Callable[[], Any]]:
    yield lambda: func(array)


@contextmanager
def numpy_into(array: np.ndarray, func: Callable[[Any], Any]) -> Iterator[Callable[[], Any]]:
    out = np.zeros_like(array)

    def call() -> np.ndarray:
        if isinstance(func, np.ufunc):
            func(array, out=out)
        else:
            out[...] = func(array)
        return out

    yield call


@contextmanager
def threads(array: np.ndarray, func: Callable[[Any], Any]) -> Iterator[Callable[[], Any]]:
    out = np.zeros_like(array)
    rows = THREAD_BLOCK_BYTES // array.itemsize
    starts = range(0, len(array), rows)

    def block(start: int) -> None:
        if isinstance(func, np.ufunc):
            func(array[start : start + rows], out=out[start : start + rows])
        else:
            out[start : start + rows] = func(array[start : start + rows])

    with ThreadPoolExecutor(WORKERS) as pool:

        def call() -> np.ndarray:
            list(pool.map(block, starts))
            return out

        yield call


@contextmanager
def dask(
    array: np.ndarray, func: Callable[[Any], Any], scheduler: str = "threads"
) -> Iterator[Callable[[], Any]]:
    chunked = importlib.import_module("dask.array").from_array(
        array, chunks=DASK_CHUNK_BYTES // array.itemsize
    )
    lazy = chunked.map_blocks(func, dtype=array.dtype, meta=array[:0])
    yield lambda: lazy.compute(scheduler=scheduler, num_workers=WORKERS)


@contextmanager
def ours(
    array: np.ndarray, func: Callable[[Any], Any], lent: bool = False, reused: bool = False
) -> Iterator[Callable[[], Any]]:
    out: Any = True
    with forklift.shared_arrays():
        if lent:
            array = array.copy()
        if reused:
            out = np.zeros_like(array)
    with forklift.Pool(WORKERS) as pool:
        yield lambda: pool.map_blocks(func, array, out=out)


@contextmanager
def ours_by_results(array: np.ndarray, func: Callable[[Any], Any]) -> Iterator[Callable[[], Any]]:
    with forklift.Pool(WORKERS) as pool:
        yield lambda: pool.map_blocks(func, array)


@contextmanager
def ours_in_files(array: np.ndarray, func: Callable[[Any], Any]) -> Iterator[Callable[[], Any]]:
    with tempfile.TemporaryDirectory() as folder, forklift.Pool(WORKERS) as pool:
        given = np.memmap(f"{folder}/in", array.dtype, "w+", shape=array.shape)
        given[...] = array
        out = np.memmap(f"{folder}/out", array.dtype, "w+", shape=array.shape)
        yield lambda: pool.map_blocks(func, given, out=out)


WAYS: dict[str, Any] = {
    "NumPy alone, `func(array)`": numpy_alone,
    "NumPy alone, into an array that is there": numpy_into,
    f"{WORKERS} threads, into an array that is there": threads,
    "dask.array, `scheduler='threads'`": dask,
    "dask.array, `scheduler='processes'`": functools.partial(dask, scheduler="processes"),
    "forklift, results joined": ours_by_results,
    "forklift, `out=True`": ours,
    "forklift, `out=True`, the array from `shared_arrays()`": functools.partial(ours, lent=True),
    "forklift, both arrays from `shared_arrays()`": functools.partial(ours, lent=True, reused=True),
    "forklift, from one `np.memmap` into another": ours_in_files,
}


def measure(
    way: Way, array: np.ndarray, func: Callable[[Any], Any], expected: Any, rounds: int
) -> tuple[float, list[float]]:
    """The seconds of the first call, and of each of those after it."""
    seconds: list[float] = []
    with way(array, func) as call:
        for number in range(1 + rounds):
            if number > 1 and sum(seconds) > PATIENCE_SECONDS:
                break
            start = time.perf_counter()
            result = call()
            seconds.append(time.perf_counter() - start)
            if not np.array_equal(result[:: len(result) // 1000], expected):
                raise SystemExit(f"{way}: a wrong result")
            del result
    return seconds[0], seconds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blocks")
    parser.add_argument(
        "--quick", action="store_true", help=f"an array of {QUICK_MEGABYTES} MB; writes nothing"
    )
    quick = parser.parse_args().quick
    megabytes, rounds = (QUICK_MEGABYTES, 2) if quick else (MEGABYTES, ROUNDS)
    array = np.random.default_rng(0).random(megabytes * 10**6 // 8)
    load = os.getloadavg()[0]
    lines = [
        f"One array of {megabytes} MB of float64, {WORKERS} workers, {os.cpu_count()} cores "
        f"({platform.machine()}), Python {platform.python_version()}, NumPy {np.__version__}, load before the run "
        f"{load:.1f}. Milliseconds: the first call, then the median, least and most of {rounds} more (fewer of what "
        f"takes long).",
    ]
    for name, func in FUNCTIONS.items():
        expected = func(array[:: len(array) // 1000])
        rows = [[f"`{name}`", "first", "median", "least", "most", "of NumPy alone"]]
        alone = None
        for title, way in WAYS.items():
            print(f"{name}: {title} …", file=sys.stderr)
            first, later = measure(way, array, func, expected, rounds)
            median = statistics.median(later)
            alone = alone or median
            times = [milliseconds(second) for second in (first, median, min(later), max(later))]
            rows.append([title, *times, quotient(median, alone)])
        lines += ["", table(rows)]
    text = "\n".join(lines)
    print(text)
    if not quick:
        replace = f"{BEGIN}\n{text}\n{END}"
        PAGE.write_text(
            re.sub(
                f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: replace, PAGE.read_text(), flags=re.DOTALL
            )
        )


if __name__ == "__main__":
    main()
