"""One case in one process: `python -m forklift.bench.measure CASE …` prints a line of JSON.

Pools are started, and every worker has answered once, before the data exist, so that no pool inherits
them by accident. Then the rivals take turns: each round is a call of every rival, in an order that is
drawn anew, so that a noisy minute hits all of them, and none is always behind the same other. The first
round is reported by itself: it pays for first imports in the workers and for memory that nobody has
touched before.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any

from forklift.bench.cases import CASES, Case, calibrate
from forklift.bench.rivals import Rival, named

CALL_SECONDS_MAX = 120.0  # a rival that does not answer within this is reported as failed


@dataclass
class Lane:
    """One rival's run through one case."""

    rival: str
    seconds: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def spent(self) -> float:
        return sum(self.seconds)

    def describe(self) -> str:
        return f"{self.rival}: {self.failure or f'{self.seconds[-1]:.3f} s'}"


class NoAnswerError(Exception):
    """A rival did not answer in time."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `NoAnswerError` in this block once the time is up."""

    def ring(signum: int, frame: FrameType | None) -> None:
        raise NoAnswerError(f"no answer within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def call(case: Case, function: Callable[[Any], Any], rival: Rival, items: list[Any]) -> list[Any]:
    if case.call == "apply":
        return [rival.apply(function, item) for item in items]
    if case.inherit:
        return rival.map_inherited(function, items)
    return rival.map(function, items, case.small)


def take_turn(
    case: Case,
    function: Callable[[Any], Any],
    rival: Rival,
    lane: Lane,
    items: list[Any],
    expected: list[Any],
) -> None:
    """One call of one rival, timed and checked."""
    gc.collect()
    try:
        with limited(CALL_SECONDS_MAX):
            begin = time.perf_counter()
            results = call(case, function, rival, items)
            lane.seconds.append(time.perf_counter() - begin)
    except Exception as error:
        lane.failure = f"{type(error).__name__}: {error}"[:200]
        return
    if len(results) != len(expected) or not all(map(case.same, results, expected)):
        lane.failure = "wrong result"


def start(rival: Rival, lane: Lane, workers: int) -> None:
    try:
        with limited(CALL_SECONDS_MAX):
            rival.start(workers)
            rival.map(abs, list(range(-64, 0)), False)
    except Exception as error:
        lane.failure = f"{type(error).__name__}: {error}"[:200]


def stop(rival: Rival, lane: Lane) -> None:
    try:
        with limited(CALL_SECONDS_MAX):
            rival.close()
    except Exception as error:
        if lane.failure is None:
            lane.failure = f"close: {type(error).__name__}: {error}"[:200]


def measure(case: Case, names: list[str], workers: int, rounds: int, cap: float, quick: bool) -> list[Lane]:
    """All rivals through one case; a rival that has used up `cap` seconds gets no further rounds."""
    field_of = [(named(name)(), Lane(name)) for name in names]
    for rival, lane in field_of:
        start(rival, lane, workers)
    items = case.items(quick)
    function = case.called()
    expected = [function(item) for item in items]
    for turn in range(rounds + 1):
        for rival, lane in random.Random(turn).sample(field_of, len(field_of)):
            room = 2 * cap if turn == 1 else cap  # one warm round is worth some patience
            if lane.failure is None and lane.spent < room:
                take_turn(case, function, rival, lane, items, expected)
                print(f"    {lane.describe()}", file=sys.stderr)
    for rival, lane in field_of:
        stop(rival, lane)
    return [lane for _, lane in field_of]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=[case.name for case in CASES])
    parser.add_argument("--rivals", nargs="+", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--cap", type=float, required=True)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    calibrate()
    case = next(case for case in CASES if case.name == chosen.case)
    lanes = measure(case, chosen.rivals, chosen.workers, chosen.rounds, chosen.cap, chosen.quick)
    print(json.dumps([asdict(lane) for lane in lanes]))


if __name__ == "__main__":
    main()
