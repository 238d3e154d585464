"""What experiments over settings have found: every trial with its spread, the best, and the line to paste."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from forklift._plain import plain
from forklift._units import seconds

#: A setting is called better only from this much on; below it lies what two runs of the same differ by.
MARGIN = 0.05


class Setting(NamedTuple):
    """One way to call `Pool.map`. A field left alone is left to the pool."""

    processes: int | None = None
    chunksize: int | None = None
    inherit: bool | Literal["auto"] = "auto"
    maxtasksperchild: int | None = None
    threads: int | None = None
    """Threads of BLAS and OpenMP in each worker."""

    def __str__(self) -> str:
        given = {name: value for name, value in self._asdict().items() if value not in (None, "auto")}
        return ", ".join(f"{name}={value}" for name, value in given.items()) or "automatic"

    def line(self, function: str = "func", items: str = "items") -> str:
        """Write the code for it."""
        pool = {"processes": self.processes, "maxtasksperchild": self.maxtasksperchild}
        call = {"chunksize": self.chunksize, "inherit": None if self.inherit == "auto" else self.inherit}
        options = ", ".join(f"{name}={value}" for name, value in pool.items() if value is not None)
        more = "".join(f", {name}={value}" for name, value in call.items() if value is not None)
        lines = [
            f"with forklift.Pool({options}) as pool:",
            f"    results = pool.map({function}, {items}{more})",
        ]
        if self.threads is not None:
            lines.insert(0, f'os.environ["OMP_NUM_THREADS"] = "{self.threads}"  # before the pool is made')
        return "\n".join(lines)


AUTOMATIC = Setting()


def _words(setting: Setting | None) -> int:
    """How many things a user would have to write."""
    return sum(value not in (None, "auto") for value in setting or ())


@dataclass
class Trial:
    """What one setting, or the for loop, was found to take."""

    setting: Setting | None
    """None: the for loop."""
    items: int = 0
    """Items of the last round that it took part in."""
    runs: list[float] = field(default_factory=list)
    """Seconds for each run over these items."""
    failure: str = ""

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return "for loop" if self.setting is None else str(self.setting)

    @property
    def per_item(self) -> float:
        """Median seconds per item of the last round; infinite if there was none."""
        return statistics.median(self.runs) / self.items if self.runs and not self.failure else float("inf")

    @property
    def spread(self) -> tuple[float, float]:
        """Least and most seconds per item in the last round."""
        return (min(self.runs) / self.items, max(self.runs) / self.items) if self.runs else (0.0, 0.0)


@dataclass
class Tuning:
    """What `tune` found. `print` shows the table and the line to paste; `save` writes a page."""

    function: str
    trials: list[Trial]
    """The best first. Those that left early were measured with fewer items."""
    spent: float
    """Seconds that it took."""

    @property
    def loop(self) -> Trial:
        """The for loop in this process."""
        return next(trial for trial in self.trials if trial.setting is None)

    @property
    def automatic(self) -> Trial:
        """The pool as it is without any setting."""
        return next(trial for trial in self.trials if trial.setting == AUTOMATIC)

    @property
    def finalists(self) -> list[Trial]:
        """Those that were measured in the last round, with the most items, the best first."""
        most = max(trial.items for trial in self.trials)
        return [trial for trial in self.trials if trial.items == most and trial.runs and not trial.failure]

    @property
    def best(self) -> Setting | None:
        """What to use: the automatic settings unless another is clearly better; None if that is the for loop."""
        first = min(self.finalists, key=lambda trial: trial.per_item)
        near = [trial for trial in self.finalists if trial.per_item <= first.per_item * (1 + MARGIN)]
        if self.loop in near:
            return None
        # Of those that cannot be told apart, the one that says least.
        return min((trial.setting for trial in near), key=_words)

    @property
    def verdict(self) -> str:
        """What was found, in a sentence or two."""
        best = self.best
        pools = [trial for trial in self.finalists if trial.setting is not None]
        if best is None:
            if not pools:
                return f"No pool came as far as the for loop. {self.automatic.failure}".strip()
            first = min(pools, key=lambda trial: trial.per_item)
            return (
                f"No pool beats the for loop: it takes {seconds(self.loop.per_item)} per item, the best pool "
                f"({first.name}) {seconds(first.per_item)}. Give the function more work per item, or keep the loop."
            )
        chosen = next(trial for trial in pools if trial.setting == best)
        gain = f"{self.loop.per_item / chosen.per_item:.1f} times as fast as the for loop"
        if best == AUTOMATIC:
            return f"The automatic settings are the best, or within {MARGIN:.0%} of it: {gain}."
        over = self.automatic.per_item / chosen.per_item
        return f"{chosen.name} is best: {gain}, {over:.2f} times as fast as the automatic settings."

    @property
    def line(self) -> str:
        """The code to paste."""
        best = self.best
        return (
            f"results = [{self.function}(item) for item in items]"
            if best is None
            else best.line(self.function)
        )

    def __str__(self) -> str:
        head = ("setting", "per item", "least – most", "runs", "items", "of the loop's time")
        rows = [head, *(self._row(trial) for trial in self.trials)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = []
        for row in rows:
            cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
        lines.insert(1, "  ".join("─" * width for width in widths))
        failures = [f"{trial.name}: {trial.failure}" for trial in self.trials if trial.failure]
        foot = f"{len(self.trials)} settings in {seconds(self.spent)}. {self.verdict}"
        # The function's name, and what exceptions say, are the user's.
        return plain("\n".join([*lines, *failures, "", foot, "", self.line]), lines=True)

    def _row(self, trial: Trial) -> tuple[str, ...]:
        if trial.failure or not trial.runs:
            return (trial.name, "failed" if trial.failure else "—", "", "0", str(trial.items), "")
        least, most = trial.spread
        share = trial.per_item / self.loop.per_item if self.loop.runs else 0.0
        times = f"{seconds(least)} – {seconds(most)}"
        return (
            trial.name,
            seconds(trial.per_item),
            times,
            str(len(trial.runs)),
            str(trial.items),
            f"{share:.2f}",
        )

    def _repr_html_(self) -> str:
        from forklift.tuning.page import fragment

        return fragment(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one self-contained page, which works offline."""
        from forklift.tuning.page import page

        with open(path, "w", encoding="utf-8") as file:
            file.write(page(self))
