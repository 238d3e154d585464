"""Objects and functions of `test_places`, apart from it: workers import them, and so would import pytest."""

from __future__ import annotations

import os
import resource
import signal
import sys

from tests.faults.work import SetupFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COUNT = 12


DOOMED = 5


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Bomb:
    """Goes off where it is told to: when it is decoded, dropped or encoded in a process other than its maker's."""

    def __init__(self, index: int, where: str, bulk: Any = None) -> None:
        self.index, self.where, self.bulk, self.home = index, where, bulk, os.getpid()

    def goes_off(self, where: str) -> bool:
        return self.where == where and os.getpid() != self.home

    def __getstate__(self) -> dict[str, Any]:
        if self.goes_off("encoding"):
            kill_myself()
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.goes_off("decoding"):
            kill_myself()

    def __del__(self) -> None:
        if self.goes_off("dropping"):
            kill_myself()


def index_of(bomb: Bomb) -> int:
    return bomb.index


def return_it(bomb: Bomb) -> Bomb:
    return bomb


def overflow_the_stack(index: int) -> int:
    """Descends in native code with little stack left, as a deep recursion in an extension module does."""
    if index == DOOMED:
        nested: list[Any] = []
        for _ in range(5000):
            nested = [nested]
        sys.setrecursionlimit(
            10_000
        )  # the interpreter's own guard is set aside, as such modules do without it
        resource.setrlimit(resource.RLIMIT_STACK, (64 << 10, resource.RLIM_INFINITY))
        repr(nested)
    return index


def die_in_the_first(folder: str, deaths: int) -> None:
    """Kills the first `deaths` processes that come here."""
    for number in range(deaths):
        try:
            os.mkdir(f"{folder}/{number}")
        except FileExistsError:
            continue
        kill_myself()


def exit_politely() -> None:
    sys.exit("the model is missing")


def fail_from_the_third(folder: str) -> None:
    for number in range(2):
        try:
            os.mkdir(f"{folder}/{number}")
        except FileExistsError:
            continue
        return
    raise SetupFailed("the licences are used up")


HELD: list[Any] = []


def hold(array: Any) -> int:
    HELD.append(array)
    return len(HELD)
