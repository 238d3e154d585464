"""What the workers do in the tests of executors."""

from __future__ import annotations

import os
import signal
import sys

from tests.conformance.work import STATE, announce_and_wait, collect, leave, pid, square, touch, wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["STATE", "announce_and_wait", "collect", "pid", "square", "touch", "wait_for"]


def add(a: int, b: int) -> int:
    return a + b


def die(_: Any = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(path: str) -> str:
    """Die, but not where another has died before."""
    if not os.path.exists(path):
        leave(path)
        die()
    return path


def die_at(index: int, deadly: int) -> int:
    if index == deadly:
        die()
    return index


def fail(text: str) -> None:
    raise ValueError(text)


def fail_at(index: int) -> int:
    if index == 3:
        raise LookupError("three")
    return index


def raise_stop_iteration(_: Any) -> None:
    raise StopIteration


def double(array: Any) -> Any:
    array *= 2
    return array


def remember(value: str) -> None:
    STATE["value"] = value


def recall() -> str:
    value: str = STATE["value"]
    return value


def nest(count: int) -> list[int]:
    import forklift

    return forklift.map(square, range(count), 2)


def raise_here(text: str) -> Any:
    raise ValueError(text)


def exit_here() -> Any:
    sys.exit(5)


class Unreadable:
    """Can be pickled, and not be read again."""

    def __reduce__(self) -> tuple[Any, ...]:
        return raise_here, ("unreadable",)


class ExitsWhenRead:
    """Ends whoever reads it, or tries to."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exit_here, ()


class ExitsWhenSent:
    """Ends whoever sends it, or tries to."""

    def __reduce__(self) -> tuple[Any, ...]:
        sys.exit(6)


def make(kind: type) -> Any:
    return kind()
