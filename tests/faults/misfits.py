"""Objects and functions of `test_crossing`, apart from it: workers import them, and so would import pytest."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COUNT = 8


BAD = 3


class Misfit:
    """Does `deed` when it is pickled ("out") or rebuilt ("in"), at home or away from home."""

    def __init__(self, index: int, deed: str = "", when: str = "out", where: str = "home") -> None:
        self.index, self.deed, self.when, self.where, self.maker = index, deed, when, where, os.getpid()

    def act(self, when: str) -> None:
        here = "home" if os.getpid() == self.maker else "away"
        if self.deed and (self.when, self.where) == (when, here):
            DEEDS[self.deed]()

    def __getstate__(self) -> dict[str, Any]:
        self.act("out")
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.act("in")


def fail() -> None:
    raise ValueError("this one is not for moving")


def leave() -> None:
    sys.exit("this one is not for moving")


def interrupt() -> None:
    raise KeyboardInterrupt("this one is not for moving")


class Shout(BaseException):
    """Neither an Exception nor one of the interpreter's."""


def shout() -> None:
    raise Shout("this one is not for moving")


def ramble() -> None:
    raise ValueError("this one is not for moving" + "x" * 10_000_000)


DEEDS = {"fail": fail, "leave": leave, "interrupt": interrupt, "shout": shout, "ramble": ramble}


def index_of(misfit: Misfit) -> int:
    return misfit.index


def same(misfit: Any) -> Any:
    return misfit


def make(index: int, home: int, deed: str, when: str, where: str) -> Misfit:
    misfit = Misfit(index, deed if index == BAD else "", when, where)
    misfit.maker = home
    return misfit


POOL: list[Any] = []


class Caller:
    """Calls the pool while it is pickled, or while it is rebuilt at home."""

    def __init__(self, when: str) -> None:
        self.when, self.home = when, os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        if self.when == "out" and os.getpid() == self.home:
            assert POOL[0].map(abs, [-5, -6]) == [5, 6]
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.when == "in" and os.getpid() == self.home:
            assert POOL[0].apply(abs, (-7,)) == 7


class NeedsKeywords(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Grows(Exception):
    """Rebuilding works, but changes its arguments."""

    def __init__(self, text: str) -> None:
        super().__init__(f"<{text}>")


class LeavesAtHome(Exception):
    """Ends the process that it came from the user's, where that calls its constructor."""

    def __init__(self, home: int) -> None:
        if os.getpid() == home:
            sys.exit("an exception may not end the program")
        super().__init__(home)


class RaisesForStr(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class OwnBase(BaseException):
    pass


def raise_one(item: tuple[int, str, int]) -> int:
    index, name, home = item
    if index != BAD:
        return index
    if name == "keywords":
        raise NeedsKeywords(code=77)
    if name == "grows":
        raise Grows("text")
    if name == "leaves at home":
        raise LeavesAtHome(home)
    if name == "no text":
        raise RaisesForStr(5)
    if name == "own base":
        raise OwnBase("base")
    if name == "group":
        raise ExceptionGroup("several", [ValueError("one"), NeedsKeywords(code=5)])
    if name == "cycle":
        error = ValueError("cycle")
        error.__cause__ = KeyError("other")
        error.__cause__.__cause__ = error
        raise error
    if name == "long":
        raise ValueError("y" * 5_000_000)
    if name == "local":

        class Local(Exception):
            pass

        raise Local("local class")
    raise AssertionError(name)
