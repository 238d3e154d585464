"""Automatic chunks beside the best fixed `chunksize`: `python -m benchmarks.chunking` writes docs/chunking.md.

For each workload every power of two is tried as `chunksize`, twice; the four best go to the final rounds, which they
share with forklift's own choice, with `multiprocessing.Pool` and with joblib. In each round all have one call, in an
order that is drawn anew, since what one leaves behind costs the next. Each workload has a process of its own and a
budget of seconds.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from forklift.bench.cases import make_arrays, make_lists, negate
from forklift.bench.page import milliseconds, quotient, table
from forklift.bench.rivals import Forklift, Joblib, Rival, StandardPool, is_installed
from forklift.bench.run import StepError, step

PAGE = Path(__file__).resolve().parent.parent / "docs" / "chunking.md"
MARKS = ("<!-- table: python -m benchmarks.chunking -->", "<!-- end of table -->")
MESSAGES_MAX = 10_000  # a chunksize that cuts the items into more pieces is not tried
HOPELESS = 1.5  # a chunksize that takes so many times the best one's first call has no second
FINALISTS = 4
ROUNDS_MIN, ROUNDS_MAX = 5, 15
AUTOMATIC = "automatic"


def work(steps: int) -> int:
    """So many steps of Python. Counted: a loop that watches the clock would seem to run in parallel."""
    total = steps
    for step_ in range(steps):
        total = (total * 31 + step_) & 0xFFFF
    return total


@cache
def steps_per_microsecond() -> float:
    """How fast `work` is here when nothing disturbs it."""
    count = 20_000

    def once() -> float:
        begin = time.perf_counter()
        work(count)
        return time.perf_counter() - begin

    return count / min(once() for _ in range(20)) / 1e6


def wait(seconds: float) -> float:
    """What waiting for a network or a disk looks like."""
    time.sleep(seconds)
    return seconds


def digest(blob: bytes) -> bytes:
    return hashlib.blake2b(blob).digest()


def total(array: Any) -> float:
    return float(array.sum())


def steps(*runs: tuple[int, float]) -> list[int]:
    """So many items of so many microseconds each, one run after the other."""
    return [round(micros * steps_per_microsecond()) for count, micros in runs for _ in range(count)]


def heavy_tail() -> list[int]:
    """Costs after Pareto: most are around 30 µs, one in some hundreds is a hundred times that."""
    chance = random.Random(4)
    micros = (min(20_000, 30 * chance.paretovariate(1.2)) for _ in range(1500))
    return [round(each * steps_per_microsecond()) for each in micros]


def blobs(*sizes: int) -> list[bytes]:
    chance = random.Random(5)
    return [chance.randbytes(size) for size in sizes]


@dataclass(frozen=True)
class Workload:
    """Items, and what is done with them."""

    name: str
    title: str
    function: Callable[[Any], Any]
    make: Callable[[], list[Any]]


WORKLOADS = (
    Workload("tiny", "uniform tiny: 200,000 integers, negated", negate, lambda: list(range(200_000))),
    Workload("small", "uniform small: 2000 × 50 µs", work, lambda: steps((2000, 50))),
    Workload("large", "uniform large: 60 arrays of 8 MB, `a.sum()`", total, lambda: make_arrays(60)),
    Workload("lists", "lists: 500 of 10,000 floats, `sum`", sum, lambda: make_lists(500)),
    Workload("tail", "heavy tail: 1500 items after Pareto, 30 µs to 20 ms", work, heavy_tail),
    Workload(
        "giant", "one giant at the end: 2000 × 50 µs, 1 × 50 ms", work, lambda: steps((2000, 50), (1, 50_000))
    ),
    Workload(
        "alternating",
        "alternating sizes: 600 bytes objects of 2 kB and 300 kB, hashed",
        digest,
        lambda: blobs(*[2_000, 300_000] * 300),
    ),
    Workload(
        "slow-start",
        "slow start: 100 × 1 ms, 40,000 × 2 µs",
        work,
        lambda: steps((100, 1_000), (40_000, 2)),
    ),
    Workload(
        "slow-end", "slow end: 40,000 × 2 µs, 100 × 1 ms", work, lambda: steps((40_000, 2), (100, 1_000))
    ),
    Workload("waits", "I/O waits: 200 × 1 ms asleep", wait, lambda: [0.001] * 200),
    Workload(
        "growing",
        "growing bytes: 400 bytes objects of 1 kB to 800 kB, hashed",
        digest,
        lambda: blobs(*range(1_000, 801_000, 2_000)),
    ),
)


class Contest:
    """One workload, and whoever takes turns at it."""

    def __init__(self, workload: Workload, workers: int) -> None:
        self.workload = workload
        self.rivals: dict[str, Rival] = {"forklift": Forklift()}
        self.rivals |= {rival.name: rival() for rival in (StandardPool, Joblib) if is_installed(rival)}
        # Workers are started, and have answered once, before there are items that they could inherit.
        for rival in self.rivals.values():
            rival.start(workers)
            rival.map(abs, list(range(-64, 0)), False)
        self.items = workload.make()
        self.expected = [workload.function(item) for item in self.items]

    def seconds(self, lane: str) -> float:
        """One call: of a rival, or of forklift with automatic or so many items to a chunk."""
        function, items = self.workload.function, self.items
        gc.collect()
        rival = self.rivals.get(lane)
        begin = time.perf_counter()
        if rival is not None:
            results = rival.map(function, items, False)
        else:
            chunksize = None if lane == AUTOMATIC else int(lane)
            # Maps by inheritance cut their items by themselves.
            pool = self.rivals["forklift"].pool  # type: ignore[attr-defined]
            results = pool.map(function, items, chunksize, inherit=False)
        spent = time.perf_counter() - begin
        if results != self.expected:
            raise AssertionError(f"{self.workload.name}, {lane}: wrong result")
        return spent

    def finalists(self, workers: int, until: float) -> list[str]:
        """The fixed sizes that do best in two calls, or in one, where two would take too long."""
        count = len(self.items)
        sizes = [2**power for power in range(count.bit_length()) if 2**power * workers < 2 * count]
        sizes = [size for size in sizes if count // size <= MESSAGES_MAX]
        self.seconds(AUTOMATIC)  # the first call of all pays for memory that nobody has touched before
        first = {size: self.seconds(str(size)) for size in sizes}
        hopeful = [size for size in sizes if first[size] < HOPELESS * min(first.values())]
        times = dict(first)
        for size in hopeful:
            if time.monotonic() < until:
                times[size] = min(first[size], self.seconds(str(size)))
        return [str(size) for size in sorted(hopeful, key=times.__getitem__)[:FINALISTS]]

    def run(self, workers: int, budget: float) -> dict[str, list[float]]:
        """The final rounds, by lane."""
        begin = time.monotonic()
        finalists = self.finalists(workers, begin + budget / 3)
        lanes = [AUTOMATIC, *finalists, *(name for name in self.rivals if name != "forklift")]
        times: dict[str, list[float]] = {lane: [] for lane in lanes}
        for turn in range(ROUNDS_MAX):
            if turn >= ROUNDS_MIN and time.monotonic() - begin > budget:
                break
            for lane in random.Random(turn).sample(lanes, len(lanes)):
                times[lane].append(self.seconds(lane))
        for rival in self.rivals.values():
            rival.close()
        return times


def row(title: str, times: dict[str, list[float]]) -> list[str]:
    medians = {lane: statistics.median(spent) for lane, spent in times.items()}
    best = min((lane for lane in medians if lane.isdigit()), key=medians.__getitem__)
    others = [medians.get(name) for name in (StandardPool.name, Joblib.name)]
    return [
        title,
        milliseconds(medians[AUTOMATIC]),
        milliseconds(medians[best]),
        best,
        f"{medians[AUTOMATIC] / medians[best]:.2f}×",
        *[milliseconds(other) for other in others],
        quotient(others[0], medians[AUTOMATIC]),
    ]


HEAD = [
    "median, ms",
    "automatic",
    "best fixed",
    "its chunksize",
    "automatic ÷ best",
    StandardPool.name,
    "joblib",
    "vs multiprocessing.Pool",
]


def fill(page: Path, text: str) -> None:
    """Put the table between its marks."""
    before, rest = page.read_text().split(MARKS[0])
    after = rest.split(MARKS[1], 1)[1]
    page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


def describe(workers: int) -> str:
    load = os.getloadavg()[0]
    return (
        f"Python {platform.python_version()}, {workers} workers on {os.cpu_count()} cores, load {load:.1f} at the "
        f"end. Median of {ROUNDS_MIN} to {ROUNDS_MAX} interleaved rounds."
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chunking", description=__doc__)
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"some of: {', '.join(names)}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=14.0, help="budget of a workload's rounds")
    parser.add_argument("--one", action="store_true", help="measure here, and print JSON")
    chosen = parser.parse_args()
    if unknown := set(chosen.workloads) - set(names):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    wanted = [workload for workload in WORKLOADS if not chosen.workloads or workload.name in chosen.workloads]
    if chosen.one:
        print(json.dumps(Contest(wanted[0], chosen.workers).run(chosen.workers, chosen.seconds)))
        return 0
    rows = [HEAD]
    failed = False
    for workload in wanted:
        arguments = [workload.name, "--one", f"--workers={chosen.workers}", f"--seconds={chosen.seconds}"]
        try:
            rows.append(row(workload.title, step("benchmarks.chunking", *arguments)))
        except StepError as error:
            failed = True
            rows.append([workload.title, str(error), *["—"] * (len(HEAD) - 2)])
        print(" | ".join(rows[-1]), file=sys.stderr)
    text = f"{table(rows)}\n\n{describe(chosen.workers)}"
    print(text)
    if not chosen.workloads and not failed:
        fill(PAGE, text)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
