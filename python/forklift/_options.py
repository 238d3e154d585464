"""What users pass to pools, checked at once: a bad value is named before anything is started."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.context import BaseContext
from typing import Any, Literal, NamedTuple, TypedDict

from forklift import _progress

# Seats that a pool may have; far above what one machine can use.
PROCESSES_MAX = 10_000

# Chunks are counted in 32 bits.
CHUNKSIZE_MAX = 2**32 - 1

# Bytes and calls are counted in 64 bits. Who names more (what another system calls "no limit") means all there is.
COUNT_MAX = 2**63 - 1

# An item that kills this many workers is not tried again for ever.
RETRIES_MAX = 1_000_000

# 100 years: nobody means more, and the native code adds it to the time.
TIMEOUT_SECONDS_MAX = 3.2e9

# 30 years: no wait of the interpreter's takes more than twice as much.
PATIENCE_SECONDS_MAX = 1e9

# Containers whose items exist before they are asked for. Of anything else the items may be one object again and again,
# with new contents each time.
HELD = (list, tuple, range, dict, set, frozenset, str, bytes)

_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?i?b?)\s*", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


OnError = Literal["raise", "return"]


class PoolOptions(TypedDict, total=False):
    """The keywords that `Executor` and the one-liners hand on to the `Pool` beneath, whose documentation has them."""

    memory_limit: int | str | None
    worker_memory_limit: int | str | None
    spill_dir: str | os.PathLike[str] | None
    inherit: bool | Literal["auto"]
    retries: int
    task_timeout: float | None
    preload: Iterable[str]
    progress: _progress.Progress
    backend: Any


class MapOptions(PoolOptions, total=False):
    """The keywords of the one-liners: those of a pool and those of its `map`."""

    initializer: Callable[..., object] | None
    initargs: Iterable[Any]
    maxtasksperchild: int | None
    context: BaseContext | str | None
    on_error: OnError
    chunksize: int | None
    length: int | None


class Terms(NamedTuple):
    """What holds for one call, where it does not say otherwise what holds for the pool."""

    on_error: OnError
    inherit: bool | Literal["auto"]
    retries: int
    task_timeout: float | None
    progress: _progress.Progress

    def check(self) -> Terms:
        """Check all but `inherit`, which the pool's start method has a say in."""
        choice("on_error", self.on_error, ("raise", "return"))
        if isinstance(self.retries, bool) or not isinstance(self.retries, int):
            raise TypeError(f"retries must be an int, not {type(self.retries).__name__}")
        if not 0 <= self.retries <= RETRIES_MAX:
            raise ValueError(f"retries must be from 0 to {RETRIES_MAX}, not {self.retries}")
        if self.task_timeout is not None:
            if isinstance(self.task_timeout, bool) or not isinstance(self.task_timeout, (int, float)):
                raise TypeError(
                    f"task_timeout must be seconds or None, not {type(self.task_timeout).__name__}"
                )
            if not 0 < self.task_timeout <= TIMEOUT_SECONDS_MAX:
                raise ValueError(
                    f"task_timeout must be a positive number of seconds, not {self.task_timeout!r}"
                )
        _progress.check(self.progress)
        return self

    def limits(self) -> dict[str, Any]:
        """Return what the native pool has to know."""
        return {"retries": self.retries, "task_timeout": self.task_timeout}

    def finish(self, results: list[Any], failures: list[tuple[int, BaseException]]) -> list[Any]:
        """Raise the first failure, or put each in its item's place."""
        if failures and self.on_error == "raise":
            raise failures[0][1]
        for index, error in failures:
            results[index] = error
        return results


def known(caller: str, given: Iterable[str], keywords: Iterable[str]) -> None:
    """Check the names of keywords."""
    for name in given:
        if name not in keywords:
            raise TypeError(
                f"{caller} got an unexpected keyword argument {name!r}; its options are {', '.join(keywords)}"
            )


def processes(number: int) -> int:
    """Check a number of workers. NumPy's integers are numbers too, as for the standard library."""
    if not hasattr(number, "__index__"):
        raise TypeError(f"processes must be an int or None, not {type(number).__name__}")
    number = operator.index(number)
    if number < 1:
        raise ValueError("Number of processes must be at least 1")
    if number > PROCESSES_MAX:
        raise ValueError(f"Number of processes must be at most {PROCESSES_MAX}, not {number}")
    return number


def tasks(number: int | None) -> int | None:
    """Check `maxtasksperchild`."""
    if number is None:
        return None
    if not isinstance(number, int) or number <= 0:
        raise ValueError("maxtasksperchild must be a positive int or None")
    return min(number, COUNT_MAX)


def size(name: str, value: int | str) -> int:
    """Read a size: bytes, or text such as "2GB" (decimal) or "2GiB" (binary)."""
    found: float | None = None
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match:
            found = min(float(match[1]), COUNT_MAX) * _UNITS.get(match[2].lower().removesuffix("b"), 0)
    elif isinstance(value, int) and not isinstance(value, bool):
        found = value
    if not found or found < 1:
        raise ValueError(
            f'{name} must be a positive number of bytes or a text such as "2GB" or "512MiB", not {value!r}'
        )
    return min(int(found), COUNT_MAX)


def patience(timeout: float | None) -> float | None:
    """Check a time to wait. Less than nothing is nothing, and what is endless is what the system can wait."""
    if timeout is None:
        return None
    if not (hasattr(timeout, "__float__") or hasattr(timeout, "__index__")):
        raise TypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__}")
    try:
        seconds = float(timeout)
    except OverflowError:  # Of an int that no float holds.
        seconds = PATIENCE_SECONDS_MAX if timeout > 0 else 0.0
    if seconds != seconds:
        raise ValueError("timeout must be a number of seconds or None, not nan")
    return min(max(seconds, 0.0), PATIENCE_SECONDS_MAX)


def choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Check a word."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")


def chunks(size: int | None) -> int:
    """Check a chunk size; 0 stands for "chosen while running"."""
    if size is None:
        return 0
    try:
        size = operator.index(size)
    except TypeError:
        raise TypeError(f"chunksize must be an int or None, not {type(size).__name__}") from None
    if size < 1:
        raise ValueError(f"Chunksize must be 1+, not {size:n}")
    return min(size, CHUNKSIZE_MAX)


def buffer(size: int | None) -> int:
    """Check a `buffersize`; 0 stands for none."""
    if size is None:
        return 0
    if not isinstance(size, int):
        raise TypeError("buffersize must be an integer or None")
    if size < 1:
        raise ValueError("buffersize must be None or > 0")
    return min(size, COUNT_MAX)


def items(iterable: Iterable[Any], length: int | None) -> tuple[Iterator[Any], int | None]:
    """Return an iterator, and how many items it will give where that can be told.

    The user's `length` is a hint for progress; only that of a container decides where the end is.
    """
    if length is not None and (not isinstance(length, int) or length < 0):
        raise ValueError(f"length must be the number of items, not {length!r}")
    return iter(iterable), len(iterable) if isinstance(iterable, HELD) else None
