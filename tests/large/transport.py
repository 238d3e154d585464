"""What the workers do where it matters whose memory something lies in."""

from __future__ import annotations

import contextvars
import ctypes
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np

N = 100_000  # 800 kB of floats
CACHE: dict[str, np.ndarray] = {}


def fresh(i: int) -> np.ndarray:
    return np.full(N, float(i))


def argument(array: np.ndarray) -> np.ndarray:
    return array


def view_of_argument(array: np.ndarray) -> np.ndarray:
    return array[10:-10]


def cached(i: int) -> np.ndarray:
    return CACHE.setdefault("all", np.arange(N, dtype=float))


def slice_of_cached(i: int) -> np.ndarray:
    return cached(i)[i : N - i]


def small_slice_of_fresh(i: int) -> np.ndarray:
    return np.full(10 * N, float(i))[:N]


def large_slice_of_fresh(i: int) -> np.ndarray:
    return np.full(N, float(i))[100:]


def same_twice(i: int) -> list[np.ndarray]:
    array = np.full(N, float(i))
    return [array, array]


def two_views(i: int) -> tuple[np.ndarray, np.ndarray]:
    array = np.full(N, float(i))
    return array[: N - 1], array[1:]


def nested(i: int) -> dict[str, Any]:
    return {"a": [np.full(N, float(i)), ("b", np.full((N, 2), i, dtype=np.int32))], "n": i}


def kept_by_thread(i: int) -> np.ndarray:
    array = np.zeros(N)
    begun = threading.Event()

    def write() -> None:
        begun.set()
        for value in range(1, 50):
            array[:] = value

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait(120)
    return array


def made_by_thread(i: int) -> np.ndarray:
    made: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: made.append(np.full(N, float(i))))
    thread.start()
    thread.join()
    return made.pop()


def resized(i: int) -> np.ndarray:
    array = np.full(N, float(i))
    array.resize(2 * N, refcheck=False)
    array[N:] = -1
    array.resize(3 * N // 2, refcheck=False)
    return array


def shrunk(i: int) -> np.ndarray:
    array = np.full(N, float(i))
    array.resize(10, refcheck=False)
    return array


def zeros(i: int) -> np.ndarray:
    np.full(N, 7.0)  # leaves its memory full of sevens
    return np.zeros(N)


def structured(i: int) -> np.ndarray:
    array = np.zeros(N, dtype=[("a", "f8"), ("b", "i4")])
    array["a"], array["b"] = i, i + 1
    return array


def masked(i: int) -> Any:
    return np.ma.masked_equal(np.arange(N, dtype=float), float(i))


def frame(i: int) -> Any:
    import pandas

    return pandas.DataFrame(np.full((N, 3), float(i)), columns=list("abc"))


def write_and_tell(array: np.ndarray, i: int) -> float:
    found = float(array[0])
    array[:] = i + 1000
    return found


def first(array: np.ndarray) -> float:
    return float(array[0])


def total(array: np.ndarray) -> float:
    return float(array.sum())


def table_row(row: dict[str, Any]) -> float:
    found = float(row["table"][row["i"]])
    row["table"][row["i"]] = -1.0
    return found


def change_list(values: list[int], i: int) -> int:
    values.append(i)
    return len(values)


def same_object(a: Any, b: Any) -> bool:
    return a is b


def length(values: Any, i: int) -> int:
    return len(values)


def forked_child_writes(array: np.ndarray, by_c: bool) -> tuple[float, float]:
    """What an argument and an array of the worker's own hold after a forked child wrote to both."""
    own = np.full(N, 5.0)
    child = ctypes.PyDLL(None).fork() if by_c else os.fork()
    if child == 0:
        array[0] = own[0] = -1.0
        np.full(N, 8.0)  # must not be placed in the parent's memory
        os._exit(0)
    os.waitpid(child, 0)
    return float(array[0]), float(own[0])


def await_a_writer(array: np.ndarray, there: Path, back: Path) -> int:
    """Tell where the middle of the array lies, wait until told to go on, and return what is found there."""
    there.write_text(f"{os.getpid()} {array.ctypes.data + array.nbytes // 2}")
    back.read_text()
    return int(array.view(np.uint8)[array.nbytes // 2])


def lock_memory(locked: bool) -> bool:
    """Lock all pages of this process in memory, now and later, or none; return whether that was possible."""
    libc = ctypes.CDLL(None)
    return (libc.mlockall(3) if locked else libc.munlockall()) == 0


def forks_beside_threads(array: np.ndarray) -> list[int]:
    """How forks end that let go of arrays, while threads do as well."""
    over = threading.Event()

    def work() -> None:
        own = np.ones(N)
        while not over.is_set():
            parts = [own + value for value in range(3)]
            del parts

    # In a context of its own a thread's arrays would be the C library's.
    threads = [threading.Thread(target=contextvars.copy_context().run, args=(work,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    ends = [_fork_and_drop(array) for _ in range(30)]
    over.set()
    for thread in threads:
        thread.join()
    return ends


def _fork_and_drop(array: np.ndarray) -> int:
    made = [np.full(N, 5.0), np.full(N, 6.0)]
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        array[:] = -1.0
        try:
            made[0].resize(2 * N, refcheck=False)
            made[0].resize(N // 2, refcheck=False)
            right = (made[0] == 5.0).all()
            made.clear()
            del array
        except MemoryError:
            right = True
        os._exit(0 if right else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if made[1][0] == 6.0 else -1


KEPT = []


def double_and_return(array, *_):
    array *= 2
    return array


def double_and_keep(array, *_):
    """The argument is alive when the next item comes."""
    array *= 2
    KEPT.append(array)
    return float(array[1])


def kept_values(_):
    kept, KEPT[:] = {float(value) for array in KEPT for value in array[:2]}, []
    return tuple(kept)


def mappings_and_write(row):
    first = float(row.max())
    row += 1
    with open("/proc/self/maps") as lines:
        return sum("forklift" in line for line in lines), first
