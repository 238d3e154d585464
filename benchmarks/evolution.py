"""`differential_evolution` with the maps of two pools: `python -m benchmarks.evolution` writes its table.

Both pools are warm, rounds are interleaved, and each result is compared with that of no pool at all. The function fits
a line to a table: of 64 MB, or of 64 KB, in which case the work is the same and only the table is small.
"""

from __future__ import annotations

import functools
import multiprocessing
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from forklift import Pool
from forklift.bench.page import milliseconds, quotient, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "integrations.md"
TABLE = re.compile(
    r"(<!-- table: python -m benchmarks.evolution -->\n).*?(\n<!-- end of table -->)", re.DOTALL
)
WORKERS = 2
ROUNDS = 3
USED_ROWS = 4000
TABLES = {"a table of 64 MB": 4_000_000, "a table of 64 KB": USED_ROWS}


def misfit(rows: Any, line: Any) -> float:
    """How far a line is from the first rows of a table."""
    some = rows[:USED_ROWS]
    return float(((some[:, 0] * line[0] + line[1] - some[:, 1]) ** 2).mean())


def evolve(function: Any, **options: Any) -> Any:
    from scipy.optimize import differential_evolution

    bounds = [(-5, 5)] * 2
    return differential_evolution(
        function, bounds, updating="deferred", rng=1, maxiter=5, polish=False, **options
    ).x


def measure(rows: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    data = random.standard_normal((rows, 2))
    data[:, 1] += 2 * data[:, 0] + 1
    function = functools.partial(misfit, data)
    expected = evolve(function)
    seconds: dict[str, list[float]] = {"no pool": [], "multiprocessing.Pool": [], "forklift": []}
    with multiprocessing.get_context("fork").Pool(WORKERS) as theirs, Pool(WORKERS) as ours:
        ways: dict[str, dict[str, Any]] = {
            "no pool": {},
            "multiprocessing.Pool": {"workers": theirs.map},
            "forklift": {"workers": ours.map},
        }
        for number in range(ROUNDS + 1):
            for name, options in ways.items():
                begin = time.perf_counter()
                found = evolve(function, **options)
                taken = time.perf_counter() - begin
                if not np.array_equal(found, expected):
                    raise SystemExit(f"{name} has another result")
                if number:
                    seconds[name].append(taken)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def main() -> None:
    rows = [["warm median, ms", "no pool", "multiprocessing.Pool", "forklift", "vs multiprocessing.Pool"]]
    for title, count in TABLES.items():
        print(title, file=sys.stderr)
        medians = measure(count)
        ratio = quotient(medians["multiprocessing.Pool"], medians["forklift"])
        rows.append([title, *(milliseconds(taken) for taken in medians.values()), ratio])
    figures = table(rows)
    print(figures)
    PAGE.write_text(TABLE.sub(lambda found: found[1] + figures + found[2], PAGE.read_text()))


if __name__ == "__main__":
    main()
