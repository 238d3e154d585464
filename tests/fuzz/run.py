"""The fuzzer: `make fuzz`, ARGS='--seconds 600 --seed 7'.

Plays cases until the time is over, tells each find with what plays that case again, and exits with 1 if there was any.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import sys
import time
import warnings
from collections import Counter

__all__ = ["main"]

#: A case that takes longer hangs: stacks are printed, and the command fails.
CASE_SECONDS_MAX = 120.0


def main() -> int:
    # Read when the first pool is made. A rest of the fuzzer's is twice as long.
    os.environ.setdefault("FORKLIFT_TRIM_SECONDS", "0.1")
    import forklift
    from tests import house
    from tests.fuzz.episodes import CLASSES

    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="classes of cases:\n" + "\n".join(f"  {name:12} {what}" for name, what in CLASSES.items()),
    )
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--case", type=int, help="only this case, ten times")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--without", nargs="*", default=[], choices=CLASSES, metavar="CLASS")
    parser.add_argument("--finds", type=int, default=20, help="end after so many finds")
    options = parser.parse_args()
    without = frozenset(options.without)
    print(f"seed {options.seed}", flush=True)
    forklift.register_joblib()
    before = house.look()
    warnings.filterwarnings("ignore", "inherit=True forks this process", RuntimeWarning)
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    counts: Counter[str] = Counter()
    end = time.monotonic() + options.seconds
    number = options.first if options.case is None else options.case
    while time.monotonic() < end and counts["finds"] < options.finds:
        counts["finds"] += not one(options.seed, number, without, counts)
        counts["cases"] += 1
        if options.case is None:
            number += 1
        elif counts["cases"] == 10:
            break
    left = tidied(before)
    print("counts", ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    print(
        f"{counts['cases']} cases, {counts['items']} items, {counts['finds']} finds, {len(left)} leaks",
        *left,
        sep="\n  ",
    )
    return int(bool(counts["finds"] or left))


def one(seed: int, number: int, without: frozenset[str], counts: Counter[str]) -> bool:
    """Play one case; tell of a find."""
    from tests.fuzz.calls import Find
    from tests.fuzz.episodes import Episode

    classes = " ".join(["", "--without", *sorted(without)]) if without else ""
    again = f"make fuzz ARGS='--seed {seed} --case {number}{classes}'"
    faulthandler.dump_traceback_later(CASE_SECONDS_MAX, exit=True)
    # What is printed now is seen also if the case hangs.
    print(f"\rcase {number} ", end="", flush=True, file=sys.stderr)
    episode = Episode(seed, number, without)
    try:
        episode.play()
    except Find as find:
        print(f"\nFIND in case {number}: {again}\n{find}", flush=True)
        return False
    finally:
        counts.update(episode.counts)
        faulthandler.cancel_dump_traceback_later()
    return True


def tidied(before: object) -> list[str]:
    """What is left behind, once what is kept for later calls was let go."""
    from forklift import _kept
    from forklift.integrations import joblib

    _kept._shelf.let_go()
    joblib.end_pools()
    return before.sweep(strict=True)  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
