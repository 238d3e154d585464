"""Functions that the tests of clusters have workers call."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np


def double_in_place(array: np.ndarray) -> np.ndarray:
    array *= 2
    return array


def total_of_pair(pair: tuple[int, np.ndarray]) -> float:
    number, array = pair
    array += number  # Its own copy.
    return float(array.sum())


def scaled(number: float, array: np.ndarray) -> float:
    return float(number * array[-1])


def slow_square(number: int) -> int:
    time.sleep(0.05)
    return number * number


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_once(where: tuple[str, int]) -> int:
    """Die at the first attempt at each even number, which leaves a mark."""
    folder, number = where
    mark = Path(folder) / str(number)
    if number % 2 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def sleep_at_two(number: int) -> int:
    if number == 2:
        time.sleep(600)
    return number


def seat(_: Any) -> tuple[str, int]:
    return os.environ.get("FORKLIFT_NODE", ""), os.getpid()


def wait_for(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.01)
    return path


class Unreadable:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> Any:
        return raise_value_error, ("not in this world",)


def raise_value_error(text: str) -> None:
    raise ValueError(text)


def remember(number: int) -> None:
    global remembered
    remembered = number


def recall(_: Any) -> int:
    return remembered


def fail(text: str) -> None:
    raise LookupError(text)


def row_sums(block: np.ndarray) -> np.ndarray:
    return block.sum(axis=1)


def squares(block: np.ndarray) -> np.ndarray:
    return block * block


def blob(number: int) -> np.ndarray:
    return np.full(250_000, float(number))


def filled_with_sum(array: np.ndarray) -> np.ndarray:
    """Write to all of it, and return it."""
    array[:] = array.sum()
    return array


_kept: list[np.ndarray] = []


def keep(array: np.ndarray) -> int:
    array *= -1
    _kept.append(array)
    return os.getpid()


def kept(_: Any) -> tuple[int, list[float]]:
    """Return what this process has kept, each by its value."""
    assert all((array == array[0]).all() for array in _kept)
    return os.getpid(), [float(array[0]) for array in _kept]


def forget(_: Any) -> tuple[int, None]:
    _kept.clear()
    return os.getpid(), None


#: The item whose result cannot be rebuilt.
UNREADABLE = 20


def blob_or_unreadable(number: int) -> tuple[np.ndarray, Any]:
    return blob(number), Unreadable() if number == UNREADABLE else None
