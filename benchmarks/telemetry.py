"""What telemetry costs: `python -m benchmarks.telemetry [--rounds N] [--write]`.

Two pools, one with telemetry and one without (`FORKLIFT_TELEMETRY=off`), take turns at the same calls, in an order that
changes from round to round. Each round gives one ratio for each case, of wall time and of processor time of this
process and the workers; the medians of the ratios and their quartiles are printed. Processor time is what telemetry
takes, and depends less on what else the machine does. `--write` puts the table into `docs/reports.md`.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from forklift import Pool

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "reports.md"
TABLE = re.compile(
    r"(<!-- table: python -m benchmarks\.telemetry -->\n).*?(\n<!-- end of table -->)", re.DOTALL
)
WORKERS, BLOCKS = 2, 6


def negate(number: int) -> int:
    return -number


def work(number: int) -> int:
    """About 50 µs."""
    for _ in range(2000):
        number ^= 1
    return number


def total(array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    return float(array.sum())


ARRAYS = [np.ones(1_000_000) for _ in range(20)]

CASES: dict[str, Callable[[Pool], object]] = {
    "100,000 tiny items, `map`": lambda pool: pool.map(negate, range(100_000)),
    "20,000 tiny items of a generator, `imap`": lambda pool: sum(pool.imap(negate, iter(range(20_000)))),
    "500 items of 50 µs, `map`": lambda pool: pool.map(work, range(500)),
    "100 `apply` round trips": lambda pool: [pool.apply(negate, (number,)) for number in range(100)],
    "20 arrays of 8 MB, `map`": lambda pool: pool.map(total, ARRAYS),
}


class Cost(NamedTuple):
    """Seconds of one call."""

    wall: float
    processor: float


def processor_seconds(pool: Pool) -> float:
    """What this process and the pool's workers have used."""
    pids = [worker.pid for worker in pool.workers() if worker.pid]
    # The kernel's number for the processor clock of another process: see clock_getcpuclockid(3).
    return time.process_time() + sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def cost(call: Callable[[Pool], object], pool: Pool) -> Cost:
    used, begin = processor_seconds(pool), time.perf_counter()
    call(pool)
    wall = time.perf_counter() - begin
    return Cost(wall, processor_seconds(pool) - used)


def pools(recorded_first: bool) -> tuple[Pool, Pool]:
    """A pool with telemetry and one without."""
    made = {}
    for recorded in (recorded_first, not recorded_first):
        if not recorded:
            os.environ["FORKLIFT_TELEMETRY"] = "off"
        made[recorded] = Pool(WORKERS)
        os.environ.pop("FORKLIFT_TELEMETRY", None)
    return made[True], made[False]


def measure(rounds: int) -> dict[str, list[Cost]]:
    """By case, the ratios of with and without. Pools are made anew several times, since no two are quite alike."""
    ratios: dict[str, list[Cost]] = {name: [] for name in CASES}
    for block in range(BLOCKS):
        recorded, silent = pools(block % 2 == 0)
        with recorded, silent:
            for turn in range(rounds // BLOCKS + 1):
                for name, call in CASES.items():
                    order = (recorded, silent) if turn % 2 else (silent, recorded)
                    costs = {pool: cost(call, pool) for pool in order}
                    if turn:  # the first round pays for births and imports
                        pairs = zip(costs[recorded], costs[silent], strict=True)
                        ratios[name].append(Cost(*(one / other for one, other in pairs)))
            if silent.report().answered or not recorded.report().answered:
                raise RuntimeError("the switch does not work: nothing was compared")
    return ratios


def row(name: str, ratios: list[Cost]) -> str:
    cells = []
    for values in zip(*ratios, strict=True):
        low, middle, high = (100 * (value - 1) for value in statistics.quantiles(values, n=4))
        cells += [f"{middle:+.1f} %", f"{low:+.1f} … {high:+.1f} %"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--write", action="store_true", help="put the table into docs/reports.md")
    chosen = parser.parse_args()
    ratios = measure(chosen.rounds)
    lines = [
        f"| {chosen.rounds} pairs | wall time | quartiles | processor time | quartiles |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(row(name, values) for name, values in ratios.items()),
    ]
    table = "\n".join(lines)
    print(table)
    if chosen.write:
        text = DOCUMENT.read_text()
        if not TABLE.search(text):
            raise SystemExit(f"{DOCUMENT} has no place for the table")
        DOCUMENT.write_text(TABLE.sub(lambda found: found[1] + table + found[2], text))


if __name__ == "__main__":
    main()
