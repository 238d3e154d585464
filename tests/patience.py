"""Waiting for something to become true, with a limit: the only way in which these tests wait.

Workers import it, of each test's pool anew: so it imports next to nothing.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TypeVar

    T = TypeVar("T")

POLL_SECONDS = 0.01
#: A hang guard, not a promise: nobody waits so long but for what never comes.
LIMIT_SECONDS = 120.0


def until(condition: Callable[[], T], what: str, seconds: float = LIMIT_SECONDS) -> T:
    """Return the first true value of `condition()`; fail with `what` when none has come after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what} (last seen: {value!r})")
        time.sleep(POLL_SECONDS)


def settled(read: Callable[[], int], quiet_seconds: float = 0.4, seconds: float = LIMIT_SECONDS) -> int:
    """Return what `read()` gives once it has not changed for `quiet_seconds`; fail when it never rests."""
    deadline = time.monotonic() + seconds
    last, since = read(), time.monotonic()
    while time.monotonic() - since < quiet_seconds:
        if time.monotonic() > deadline:
            raise AssertionError(f"still changing after {seconds} s: {last!r}")
        time.sleep(POLL_SECONDS)
        now = read()
        if now != last:
            last, since = now, time.monotonic()
    return last


def wait_for_file(path: str | Path, seconds: float = LIMIT_SECONDS) -> None:
    """Return when `path` exists: how a worker waits for the test, and the test for a worker."""
    until(lambda: os.path.exists(path), f"file {path}", seconds)
