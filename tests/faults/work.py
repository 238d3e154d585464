"""What the workers do in the tests of faults: die, refuse to be pickled, fail."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from tests.conformance.work import leave
from tests.patience import wait_for_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def square(x: int) -> int:
    return x * x


def identity(x: Any) -> Any:
    return x


def pid(_: Any = None) -> int:
    return os.getpid()


def meet(directory: str) -> int:
    """Return when two processes are in here: so each of two workers takes one item."""
    leave(f"{directory}/{os.getpid()}")
    deadline = time.monotonic() + 120
    while len(os.listdir(directory)) < 2:
        if time.monotonic() > deadline:
            raise RuntimeError("nobody came")
        time.sleep(0.005)
    return os.getpid()


def write_pid(path: str) -> None:
    """Leave a file with the pid, whole from the moment at which it is there."""
    with open(f"{path}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{path}.new", path)


def die(way: str) -> None:
    """End this process in the given way."""
    if way == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif way == "SIGTERM":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    elif way == "exit 3":
        os._exit(3)
    elif way == "exit 0":
        os._exit(0)
    elif way == "segfault":
        import ctypes

        ctypes.string_at(0)
    elif way == "abort":
        os.abort()
    signal.pause()


def die_at_three(job: tuple[int, str, str]) -> int:
    """Item 3 leaves its pid and dies; the others give their index."""
    index, way, path = job
    if index == 3:
        write_pid(path)
        die(way)
    return index


def die_after_the_third(job: tuple[int, str, list[str]]) -> int:
    """The first item ends its worker once the third is done and has been answered."""
    index, path, _ = job
    if index == 2:
        leave(path)
    elif index == 0:
        wait_for_file(path)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return index


def die_first_time(path: str) -> int:
    """Die unless the file exists, which says that somebody did."""
    if not os.path.exists(path):
        leave(path)
        die("SIGKILL")
    return os.getpid()


def announce_and_wait(paths: tuple[str, str]) -> str:
    """Leave the pid in the first file, wait for the second."""
    part = paths[0] + ".part"
    write_pid(part)
    os.rename(part, paths[0])
    wait_for_file(paths[1], 40)
    return paths[1]


def exit_politely(code: Any) -> None:
    sys.exit(code)


def throw(kind: type[BaseException]) -> None:
    raise kind


class Conn:
    """Something with a lock inside."""

    def __init__(self) -> None:
        self.name = "conn"
        self.lock = threading.Lock()


class Item:
    def __init__(self, conn: Any) -> None:
        self.number = 7
        self.conn = conn


class Verbose:
    """Cannot be pickled and has a representation of 16 MB."""

    def __init__(self) -> None:
        self.payload = bytes(16_000_000)
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        return "Verbose(" + "x" * 16_000_000 + ")"


def result_with_lock(x: int) -> Any:
    return {"fine": 1, "conn": Conn()} if x == 3 else x


def verbose_result(_: Any) -> Any:
    return Verbose()


def fail_with_verbose(item: Any) -> None:
    raise ValueError("short text")


class NotRebuilt(Exception):
    """Pickles, but its constructor wants more than `args` holds."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class NotSent(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class EvilWhenRebuilt(Exception):
    """Its pickle calls a function that fails in the process that reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def raise_not_rebuilt(_: Any) -> None:
    raise NotRebuilt("one", "two")


def raise_not_sent(_: Any) -> None:
    raise NotSent("cannot travel")


def raise_evil(_: Any) -> None:
    raise EvilWhenRebuilt("evil")


def fail_outside(home: int) -> str:
    """Rebuilds in process `home` only."""
    if os.getpid() != home:
        raise RuntimeError("does not feel at home")
    return "rebuilt"


def fail_in(away: int) -> str:
    """Rebuilds anywhere but in process `away`."""
    if os.getpid() == away:
        raise RuntimeError("does not want to come home")
    return "rebuilt"


class HomeOnly:
    """Pickles, but cannot be rebuilt in a worker."""

    def __reduce__(self) -> tuple[Any, ...]:
        return fail_outside, (os.getpid(),)


class AwayOnly:
    """Pickles, but cannot be rebuilt in the parent."""

    def __init__(self, parent: int) -> None:
        self.parent = parent

    def __reduce__(self) -> tuple[Any, ...]:
        return fail_in, (self.parent,)


def make_away_only(job: tuple[int, int]) -> Any:
    index, parent = job
    return AwayOnly(parent) if index == 3 else index


class SetupFailed(Exception):
    """What the initializer raises."""


def bad_initializer(path: str) -> None:
    with open(path, "a") as births:
        births.write(f"{os.getpid()}\n")
    raise SetupFailed("the model is missing", 5)


def dying_initializer(path: str) -> None:
    with open(path, "a") as births:
        births.write(f"{os.getpid()}\n")
    os._exit(4)
