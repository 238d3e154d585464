"""How soon Ctrl-C is answered: `python -m benchmarks.interrupts --write` writes docs/interrupts.md.

SIGINT comes to this process alone, as a notebook's kernel gets it, in the middle of each kind of blocking call. What is
measured: from the signal to the handler of `KeyboardInterrupt` in the calling code, and how long the next call on the
same pool takes, which is answered by the same workers or their successors.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import forklift
from forklift.bench.page import machine, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "interrupts.md"
WORKERS = 2
#: Longer than any trial.
FOREVER = 600.0
#: When the signal comes, in seconds after the call has begun: workers are at their items, or the parent at its copies.
BEFORE_SECONDS = (0.05, 0.4)


def sleep(_: Any) -> None:
    time.sleep(FOREVER)


def spin(_: Any) -> None:
    while True:
        pass


def stubborn(_: Any) -> None:
    """Native code that hears of no signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})
    np.linalg.eigvals(np.random.default_rng(0).random((4_000, 4_000)))


def size(array: np.ndarray) -> int:
    time.sleep(0.05)
    return array.nbytes


def endless() -> Any:
    while True:
        yield 1


def waits(pool: Any, items: Any) -> None:
    for _ in pool.imap(sleep, items):
        raise AssertionError


def gets(pool: Any) -> None:
    """A result can be asked for again, so that an interrupt alone does not end its call."""
    result = pool.map_async(sleep, range(100))
    try:
        result.get()
    except KeyboardInterrupt:
        result.cancel()
        raise


CALLS: dict[str, Callable[[Any, list[np.ndarray]], object]] = {
    "`map`, items that sleep": lambda pool, _: pool.map(sleep, range(100)),
    "`map`, items that compute": lambda pool, _: pool.map(spin, range(100)),
    "`map`, native code that blocks signals": lambda pool, _: pool.map(stubborn, range(4)),
    "`starmap`": lambda pool, _: pool.starmap(sleep, [(i,) for i in range(100)]),
    "`apply`": lambda pool, _: pool.apply(sleep, (0,)),
    "`map_async(…).get()`, then `cancel()`": lambda pool, _: gets(pool),
    "`for … in imap`": lambda pool, _: waits(pool, range(100)),
    "`for … in imap`, an endless generator": lambda pool, _: waits(pool, endless()),
    "`map`, 256 MB arrays on their way in": lambda pool, large: pool.map(size, large * 50),
    "`map_blocks`": lambda pool, large: pool.map_blocks(sleep, large[0]),
}


def interrupt(
    pool: Any, call: Callable[[Any, list[np.ndarray]], object], large: list[np.ndarray], after: float
) -> float:
    """Return the seconds from the signal to the caller's handler."""
    sent = 0.0

    def send() -> None:
        nonlocal sent
        sent = time.perf_counter()
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(after, send)
    timer.start()
    try:
        call(pool, large)
    except KeyboardInterrupt:
        return time.perf_counter() - sent
    finally:
        timer.join()
    raise AssertionError("the call ended by itself")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="interrupts of each kind of call")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    large = [np.ones(32_000_000), np.ones(32_000_000)]
    rows = [["Interrupted", "answered after", "longest", "next call takes", "longest"]]
    with forklift.Pool(WORKERS) as pool:
        for name, call in CALLS.items():
            answers, nexts = [], []
            for trial in range(options.trials):
                after = BEFORE_SECONDS[0] + (BEFORE_SECONDS[1] - BEFORE_SECONDS[0]) * trial / options.trials
                answers.append(interrupt(pool, call, large, after))
                begun = time.perf_counter()
                assert pool.map(abs, range(-4, 0)) == [4, 3, 2, 1]
                nexts.append(time.perf_counter() - begun)
            cells = [statistics.median(answers), max(answers), statistics.median(nexts), max(nexts)]
            rows.append([name, *(f"{1000 * seconds:.0f} ms" for seconds in cells)])
            print(*rows[-1], sep="  ", flush=True)
    if options.write:
        PAGE.write_text("\n\n".join(page(rows, options.trials)) + "\n")


def page(rows: list[list[str]], trials: int) -> list[str]:
    return [
        "# How soon Ctrl-C is answered",
        f"Written by `python -m benchmarks.interrupts --trials {trials} --write`: {trials} interrupts of each kind of "
        f"call on one pool of {WORKERS} workers, {BEFORE_SECONDS[0]} to {BEFORE_SECONDS[1]} s after it has begun. "
        "Medians, and the longest of all.",
        machine(),
        table(rows),
        "Answered: from the signal to the caller's `except KeyboardInterrupt`. The next call is a `map` over four "
        "numbers on the same pool: workers that were in the middle of an item are stopped and replaced meanwhile.",
    ]


if __name__ == "__main__":
    main()
