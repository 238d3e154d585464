"""What users pass to pools, checked at once: a bad value is named before anything is started."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# Seats that a pool may have; far above what one machine can use.
PROCESSES_MAX = 10_000

# Chunks are counted in 32 bits.
CHUNKSIZE_MAX = 2**32 - 1

# Containers whose items exist before they are asked for. Of anything else the items may be one object again and again,
# with new contents each time.
HELD = (list, tuple, range, dict, set, frozenset, str, bytes)

_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?i?b?)\s*", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def processes(number: int) -> int:
    """Check a number of workers."""
    if number < 1:
        raise ValueError("Number of processes must be at least 1")
    if number > PROCESSES_MAX:
        raise ValueError(f"Number of processes must be at most {PROCESSES_MAX}, not {number}")
    return number


def tasks(number: int | None) -> None:
    """Check `maxtasksperchild`."""
    if number is not None and (not isinstance(number, int) or number <= 0):
        raise ValueError("maxtasksperchild must be a positive int or None")


def size(name: str, value: int | str) -> int:
    """Read a size: bytes, or text such as "2GB" (decimal) or "2GiB" (binary)."""
    found: float | None = None
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match:
            found = float(match[1]) * _UNITS.get(match[2].lower().removesuffix("b"), 0)
    elif isinstance(value, int) and not isinstance(value, bool):
        found = value
    if not found or found < 1:
        raise ValueError(
            f'{name} must be a positive number of bytes or a text such as "2GB" or "512MiB", not {value!r}'
        )
    return int(found)


def choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Check a word."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")


def chunks(size: int | None) -> int:
    """Check a chunk size; 0 stands for "chosen while running"."""
    if size is None:
        return 0
    if not isinstance(size, int):
        raise TypeError(f"chunksize must be an int or None, not {type(size).__name__}")
    if size < 1:
        raise ValueError(f"Chunksize must be 1+, not {size:n}")
    return min(size, CHUNKSIZE_MAX)


def buffer(size: int | None) -> None:
    """Check a `buffersize`."""
    if size is None:
        return
    if not isinstance(size, int):
        raise TypeError("buffersize must be an integer or None")
    if size < 1:
        raise ValueError("buffersize must be None or > 0")


def items(iterable: Iterable[Any], length: int | None) -> tuple[Iterator[Any], int | None]:
    """Return an iterator, and how many items it will give where that can be told.

    The user's `length` is a hint for progress; only that of a container decides where the end is.
    """
    if length is not None and (not isinstance(length, int) or length < 0):
        raise ValueError(f"length must be the number of items, not {length!r}")
    return iter(iterable), len(iterable) if isinstance(iterable, HELD) else None
