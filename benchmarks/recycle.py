"""What replacing workers costs, and what it bounds: `python -m benchmarks.recycle` writes docs/recycling.md.

1. A new worker for each call, with NumPy and pandas imported. `multiprocessing`'s spawn takes seconds for each, so it
   does fewer calls, and the table says what each call took. Every run is a process of its own; rounds alternate.
2. A function that keeps 10 MB of each call, under `worker_memory_limit`. What all processes hold (proportional set
   size) is sampled; the highest sum less what was held before the call is the peak.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forklift.bench.memory import SETTLE_SECONDS, Sampler, held
from forklift.bench.page import table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recycling.md"
WORKERS = 2
MB = 1_000_000
LEAK_BYTES = 10 * MB
LIMIT = "200MB"
SPAWN, FORK, OURS = "multiprocessing.Pool, spawn", "multiprocessing.Pool, fork", "forklift"

kept: list[Any] = []


def call(number: int) -> tuple[int, int]:
    """Proves that it ran in a process that has pandas."""
    return number + int(pd.Series([0]).sum()), os.getpid()


def keep_bytes(number: int) -> tuple[int, int]:
    kept.append(b"x" * LEAK_BYTES)
    return number * number, len(kept)


def keep_array(number: int) -> tuple[int, int]:
    kept.append(np.full(LEAK_BYTES // 8, float(number)))
    return number * number, len(kept)


LEAKS = {"bytes": keep_bytes, "NumPy arrays": keep_array}


def make(kind: str, **options: Any) -> Any:
    if kind == OURS:
        return importlib.import_module("forklift").Pool(WORKERS, preload=("numpy", "pandas"), **options)
    context = multiprocessing.get_context(kind.rpartition(", ")[2])
    return context.Pool(WORKERS, **options)  # type: ignore[attr-defined, unused-ignore]


def one_call_each(kind: str, calls: int) -> dict[str, Any]:
    """Seconds for `calls` calls by a worker each, after one for every seat."""
    with make(kind, maxtasksperchild=1) as pool:
        pool.map(call, range(WORKERS), 1)
        begin = time.perf_counter()
        results = pool.map(call, range(calls), 1)
        seconds = time.perf_counter() - begin
    if [number for number, _ in results] != list(range(calls)) or len({pid for _, pid in results}) != calls:
        raise RuntimeError(f"{kind} gave wrong results, or used a worker twice")
    return {"seconds": seconds}


def leak(kind: str, calls: int) -> dict[str, Any]:
    """The leaking function: that it finishes, rightly, and what all processes held at most."""
    pool = make(OURS, worker_memory_limit=LIMIT)
    pool.map(call, range(WORKERS), 1)
    time.sleep(SETTLE_SECONDS)
    ground = held()[0]
    sampler = Sampler()
    sampler.start()
    begin = time.perf_counter()
    results = pool.map(LEAKS[kind], range(calls))
    seconds = time.perf_counter() - begin
    sampler.done.set()
    sampler.join()
    counters = pool._counters()
    pool.terminate()
    if [square for square, _ in results] != [number * number for number in range(calls)]:
        raise RuntimeError("wrong results")
    return {
        "seconds": seconds,
        "peak": sampler.peak[0] - ground,
        "calls_max": max(count for _, count in results),
        "recycled": counters["recycled_memory"],
        "stopped": counters["stopped_memory"] + counters["deaths"],
    }


def apart(part: str, kind: str, calls: int) -> dict[str, Any]:
    """Runs a part in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.recycle",
        "--part",
        part,
        "--kind",
        kind,
        "--calls",
        str(calls),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, start_new_session=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def one_call_each_table(calls: int, spawned: int, rounds: int) -> str:
    numbers = {OURS: calls, FORK: calls, SPAWN: spawned}
    seconds: dict[str, list[float]] = {kind: [] for kind in numbers}
    for _ in range(rounds):
        for kind, number in numbers.items():
            seconds[kind].append(apart("calls", kind, number)["seconds"] / number)
    medians = {kind: statistics.median(times) for kind, times in seconds.items()}
    head = ["pool", "calls", "ms a call, median", "from", "to", f"{calls} calls, s", "of forklift's time"]
    rows = [head]
    for kind, number in numbers.items():
        each = [f"{1e3 * value:.1f}" for value in (medians[kind], min(seconds[kind]), max(seconds[kind]))]
        whole = f"{medians[kind] * calls:.1f}" + ("" if number == calls else " (scaled)")
        rows.append([kind, str(number), *each, whole, f"{medians[kind] / medians[OURS]:.1f}×"])
    return table(rows)


def leak_table(calls: int) -> str:
    head = ["kept of each call", "calls", "kept in all, MB", "peak, MB", "calls of one worker at most"]
    rows = [[*head, "replaced", "stopped or died", "s"]]
    for kind in LEAKS:
        found = apart("leak", kind, calls)
        counts = [str(found[name]) for name in ("calls_max", "recycled", "stopped")]
        sizes = [f"{calls * LEAK_BYTES // MB:,}", f"{found['peak'] / MB:.0f}"]
        rows.append([f"10 MB of {kind}", str(calls), *sizes, *counts, f"{found['seconds']:.0f}"])
    return table(rows)


def write(arguments: argparse.Namespace) -> None:
    load = os.getloadavg()[0]
    first = one_call_each_table(arguments.tasks, arguments.spawned, arguments.rounds)
    second = leak_table(arguments.leaks)
    command = " ".join(["python -m benchmarks.recycle", *sys.argv[1:]])
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}"
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, pandas {pd.__version__}"
    text = f"""# Replacing workers

Written by `{command}`: {machine}, {versions}; {WORKERS} workers, load {load:.1f} at the start.

A worker is replaced after `maxtasksperchild` calls, and when it holds more than `worker_memory_limit` after a call. Its
successor is forked from the zygote, which has the modules imported, while the last call still runs.

## A new worker for each call

`maxtasksperchild=1`, NumPy and pandas imported; median of {arguments.rounds} rounds, each in its own process. Spawn
does fewer calls, since each takes an interpreter's start with these imports; its time for all is scaled from those.

{first}

## A function that keeps 10 MB of each call

`worker_memory_limit="{LIMIT}"`. The peak is what all processes held beyond what they held before the call, sampled
every 10 ms: workers at their limit, their successors, and what is on its way. Without the limit it would be what is
kept in all. Each result was compared with what it must be.

{second}
"""
    PAGE.write_text(text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=500, help="calls, each by a new worker")
    parser.add_argument("--spawned", type=int, default=20, help="such calls with spawn")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--leaks", type=int, default=5000, help="calls of the leaking function")
    parser.add_argument("--part", choices=("calls", "leak"), help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part is None:
        write(arguments)
    else:
        # Under its own name, so that every pool imports the functions from where they are.
        module = importlib.import_module("benchmarks.recycle")
        part = module.one_call_each if arguments.part == "calls" else module.leak
        print(json.dumps(part(arguments.kind, arguments.calls)))


if __name__ == "__main__":
    main()
