"""The soak: `make soak`, ARGS='--calls 1000000 --minutes 60'.

Makes calls of all kinds, with idle times, recycled workers and short-lived pools, looks at what processes hold when
nothing is to be done, and prints a table. Exits with 1 if anything has grown since the warm-up.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import time
from collections.abc import Iterator

from tests.soak.figures import Figures, grown

__all__ = ["main", "rounds"]

#: Rounds after which everything has been there once.
WARM_ROUNDS = 3

#: Lines of the table.
LINES = 24


def rounds(seed: int, repeats: int) -> Iterator[tuple[int, dict[str, Figures]]]:
    """Calls so far, and the figures at rest, of round after round."""
    from tests.soak.load import Load

    with Load(seed) as load:
        while True:
            load.round(repeats)
            gc.collect()
            yield load.calls, load.look()


def verdict(looks: list[dict[str, Figures]]) -> list[str]:
    """What has grown since the warm-up: figures come and go, so the lowest of the first and last looks are compared."""
    third = max(1, len(looks) // 3)
    return [
        f"{group}: {what}"
        for group in looks[0]
        for what in grown(
            lowest([look[group] for look in looks[:third]]), lowest([look[group] for look in looks[-third:]])
        )
    ]


def lowest(several: list[Figures]) -> Figures:
    return Figures(*(min(getattr(each, name) for each in several) for name in Figures.__dataclass_fields__))


def line(calls: int, look: dict[str, Figures]) -> str:
    told = [" ".join(f"{value:7}" for value in vars(figures).values()) for figures in look.values()]
    return f"{calls:9,} | " + " | ".join(told)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=20.0, help="end after these in any case")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    os.environ.setdefault("FORKLIFT_TRIM_SECONDS", "0.1")
    print(f"seed {options.seed}")
    names = [name.removesuffix("_mb")[:7] for name in Figures.__dataclass_fields__]
    print(" " * 9, *(group.center(39) for group in ("parent", "fork servers", "workers")), sep=" | ")
    print("calls".rjust(9), *(" ".join(f"{name:>7}" for name in names) for _ in range(3)), sep=" | ")
    end, told, looks = time.monotonic() + 60 * options.minutes, 0, []
    for number, (calls, look) in enumerate(rounds(options.seed, 12)):
        if number >= WARM_ROUNDS:
            looks.append(look)
        over = calls >= options.calls or time.monotonic() > end
        if over or number == WARM_ROUNDS or calls * LINES >= told * options.calls:
            print(line(calls, look), flush=True)
            told += 1
        if over and len(looks) > 1:
            break
    findings = verdict(looks)
    print("nothing has grown" if not findings else "has grown:", *findings, sep="\n  ")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
