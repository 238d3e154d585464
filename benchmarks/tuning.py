"""`tune` beside an exhaustive grid: `python -m benchmarks.tuning`, which fills the table of docs/tuning.md.

For each of three workloads every setting of a grid maps all items, in turns, and the best by median is taken. Then
`tune` gets a fifth of the time that the grid took. Last, its choice, the grid's and the automatic settings map all
items again, in turns, and are compared by medians: choosing the least of many medians flatters the one that is chosen.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forklift import Pool, tune
from forklift.bench import cases
from forklift.bench.page import table
from forklift.tuning import Setting

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tuning.md"
TABLE = re.compile(r"(<!-- table: python -m benchmarks.tuning -->\n).*?(\n<!-- end of table -->)", re.DOTALL)
PROCESSES = (1, 2, 4)
CHUNKS = (None, 1, 4, 16, 64)
INHERIT = (False, True)
FINAL_RUNS = 9


def nap(milliseconds: int) -> None:
    time.sleep(milliseconds / 1000)


WORKLOADS: dict[str, tuple[Callable[[Any], Any], Callable[[], list[Any]]]] = {
    "800 integers, 1 ms of work each": (cases.work_1_ms, lambda: list(range(800))),
    "200 waits of 5 ms": (nap, lambda: [5] * 200),
    "300 lists of 10,000 floats, `sum`": (sum, lambda: cases.make_lists(300)),
}


class Runs:
    """Runs settings over all items of one workload, each on a warm pool."""

    def __init__(self, func: Callable[[Any], Any], items: list[Any]) -> None:
        self.func, self.items = func, items
        self.pools = {number: Pool(number) for number in PROCESSES}
        for pool in self.pools.values():
            pool.map(func, items[:8], inherit=False)

    def seconds(self, setting: Setting | None) -> float:
        begin = time.perf_counter()
        if setting is None:
            for item in self.items:
                self.func(item)
        else:
            pool = self.pools[setting.processes or PROCESSES[1]]
            pool.map(self.func, self.items, setting.chunksize, inherit=setting.inherit)
        return time.perf_counter() - begin

    def medians(self, settings: list[Setting | None], runs: int) -> dict[Setting | None, float]:
        times: dict[Setting | None, list[float]] = {setting: [] for setting in settings}
        for _ in range(runs):
            for setting, taken in times.items():
                taken.append(self.seconds(setting))
        return {setting: statistics.median(taken) for setting, taken in times.items()}

    def close(self) -> None:
        for pool in self.pools.values():
            pool.terminate()
            pool.join()


def measure(title: str, func: Callable[[Any], Any], items: list[Any], runs: int) -> list[str]:
    grid: list[Setting | None] = [None]
    grid += [Setting(*fields) for fields in itertools.product(PROCESSES, CHUNKS, INHERIT)]
    measured = Runs(func, items)
    try:
        begin = time.perf_counter()
        medians = measured.medians(grid, runs)
        spent = time.perf_counter() - begin
        best = min(medians, key=lambda setting: medians[setting])
        begin = time.perf_counter()
        found = tune(
            func,
            items,
            seconds=spent / 5,
            processes=PROCESSES,
            chunksize=[size for size in CHUNKS if size],
            inherit=INHERIT,
            maxtasksperchild=[],
            threads=[],
        )
        tuned = time.perf_counter() - begin
        last = measured.medians(list(dict.fromkeys([best, found.best, Setting()])), FINAL_RUNS)
    finally:
        measured.close()
    print(f"{title}: grid {best} in {spent:.1f} s, tune {found.best} in {tuned:.1f} s", file=sys.stderr)
    return [
        title,
        "for loop" if best is None else str(best),
        f"{spent:.0f} s",
        "for loop" if found.best is None else str(found.best),
        f"{tuned:.1f} s",
        f"{last[found.best] / last[best]:.2f}",
        f"{last[Setting()] / last[best]:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each setting of the grid")
    chosen = parser.parse_args()
    cases.calibrate()
    head = [
        "",
        "best of the grid",
        "took",
        "`tune` chose",
        "took",
        "its time, of the grid's best",
        "automatic",
    ]
    rows = [head]
    for title, (func, make) in WORKLOADS.items():
        rows.append(measure(title, func, make(), chosen.runs))
    figures = table(rows)
    print(figures)
    PAGE.write_text(TABLE.sub(lambda found: found[1] + figures + found[2], PAGE.read_text()))


if __name__ == "__main__":
    main()
