"""scikit-learn with joblib's own back end and with forklift: `python -m benchmarks.joblib_backend`.

Rounds are interleaved, one of each back end in turn, and every result is compared with the first. Workers of both are
born before the first round and kept. The table is put into docs/integrations.md, unless the data are not 400 MB.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np

import forklift

PAGE = Path(__file__).resolve().parent.parent / "docs" / "integrations.md"
TABLE = re.compile(
    r"(<!-- table: python -m benchmarks.joblib_backend -->\n).*?(<!-- end of table -->)", re.DOTALL
)
BACKENDS = ("loky", "forklift")
MEGABYTES = 400
COLUMNS = 20


def search(x: Any, y: Any) -> Any:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV

    grid = {"alpha": [0.1, 1.0, 10.0, 100.0]}
    return GridSearchCV(Ridge(), grid, cv=3, refit=False).fit(x, y).cv_results_["mean_test_score"]


def validate(x: Any, y: Any) -> Any:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import cross_validate

    return cross_validate(Ridge(), x, y, cv=6)["test_score"]


def permute(x: Any, y: Any) -> Any:
    from sklearn.inspection import permutation_importance
    from sklearn.linear_model import Ridge

    model = Ridge().fit(x[:10_000], y[:10_000])
    return permutation_importance(model, x, y, n_repeats=1, random_state=0).importances_mean


def grow(x: Any, y: Any) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(12, max_depth=6, max_samples=0.02, random_state=0)
    return forest.fit(x, y > 0).feature_importances_


CASES: dict[str, Callable[[Any, Any], Any]] = {
    "`GridSearchCV(Ridge)`, 12 fits": search,
    "`cross_validate(Ridge)`, 6 fits": validate,
    f"`permutation_importance(Ridge)`, {COLUMNS} columns": permute,
    "`RandomForestClassifier`, 12 trees of 2 % of the rows": grow,
}


def measure(
    work: Callable[[Any, Any], Any], x: Any, y: Any, workers: int, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each round by back end; the first, in which workers are born, is not among them."""
    seconds: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    expected: Any = None
    for number in range(rounds + 1):
        for backend in BACKENDS:
            with joblib.parallel_config(backend, n_jobs=workers):
                begun = time.perf_counter()
                result = work(x, y)
                taken = time.perf_counter() - begun
            expected = result if expected is None else expected
            if not np.allclose(result, expected, rtol=1e-3, atol=1e-4):
                raise SystemExit(f"{backend} has another result")
            if number:
                seconds[backend].append(taken)
    return seconds


def table(figures: dict[str, dict[str, list[float]]]) -> str:
    lines = ["| seconds, median (least to most) | loky | forklift | ratio |", "|---|---:|---:|---:|"]
    for title, seconds in figures.items():
        medians = {backend: statistics.median(found) for backend, found in seconds.items()}
        cells = [
            f"{medians[backend]:.2f} ({min(found):.2f} to {max(found):.2f})"
            for backend, found in seconds.items()
        ]
        lines.append(f"| {title} | {' | '.join(cells)} | {medians['loky'] / medians['forklift']:.1f}× |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.joblib_backend", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=MEGABYTES, help="the size of X (400)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    forklift.register_joblib()
    random = np.random.default_rng(0)
    x = random.standard_normal((chosen.megabytes * 1_000_000 // (4 * COLUMNS), COLUMNS), np.float32)
    y = x[:, 0] + x[:, 1] + random.standard_normal(len(x), np.float32)
    figures = {}
    for title, work in CASES.items():
        print(title, file=sys.stderr)
        figures[title] = measure(work, x, y, chosen.workers, chosen.rounds)
    shape = f"X of {chosen.megabytes} MB ({len(x):,} × {COLUMNS}, `float32`)"
    text = f"{shape}, {chosen.workers} workers, {chosen.rounds} rounds:\n\n{table(figures)}"
    print(text)
    if chosen.megabytes == MEGABYTES and PAGE.exists():
        PAGE.write_text(TABLE.sub(lambda found: f"{found[1]}{text}\n\n{found[2]}", PAGE.read_text()))


if __name__ == "__main__":
    main()
