"""What the workers do in the tests of forklift's own promises."""

from __future__ import annotations

import os

from tests.conformance.work import STATE, announce_and_wait, identity, square, touch, wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["STATE", "announce_and_wait", "identity", "square", "touch", "wait_for"]


def count_calls(_: Any) -> tuple[int, int]:
    """The pid, and how often this was called in this process."""
    STATE["calls"] = STATE.get("calls", 0) + 1
    return os.getpid(), STATE["calls"]


def fail_if_listed(job: tuple[int, tuple[int, ...]]) -> int:
    index, failing = job
    if index in failing:
        raise ValueError(f"item {index} fails")
    return index


def raise_stop_iteration(x: int) -> int:
    raise StopIteration(x)


def nest(count: int) -> list[int]:
    """A pool in a worker of another pool."""
    import forklift

    with forklift.Pool(2) as pool:
        return pool.map(square, range(count))
