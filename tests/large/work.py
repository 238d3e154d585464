"""What the workers do with large objects."""

from __future__ import annotations

import hashlib
import pickle
import zlib
from typing import Any

import numpy as np

KEPT: list[tuple[Any, Any]] = []
TOTAL: dict[str, np.ndarray] = {}


def identity(x: Any) -> Any:
    return x


def describe(array: np.ndarray) -> dict[str, Any]:
    """What a worker sees of an array; writes into it, which must succeed."""
    seen = {
        "type": type(array).__name__,
        "dtype": array.dtype,
        "shape": array.shape,
        "writeable": array.flags.writeable,
        "aligned": array.flags.aligned,
        "c": array.flags.c_contiguous,
        "f": array.flags.f_contiguous,
        "crc": checksum(array),
    }
    if array.size:
        array[...] = array.flat[0]
    return seen


def checksum(array: np.ndarray) -> int:
    if array.dtype.hasobject:
        return zlib.crc32(pickle.dumps(array.tolist()))
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1) if array.size else b"")


def fill_with(array: np.ndarray, value: Any) -> float:
    """Overwrite, and return the sum of what was there."""
    before = float(array.sum())
    array[...] = value
    return before


def double(array: np.ndarray) -> np.ndarray:
    return array * 2


def double_in_place(array: np.ndarray) -> np.ndarray:
    array *= 2
    return array


def make(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.int64)


def make_pattern(job: tuple[int, int]) -> np.ndarray:
    size, value = job
    return np.full(size, value, np.float64)


def total(array: np.ndarray) -> float:
    return float(array.sum())


def keep_and_check(job: tuple[np.ndarray, int]) -> int:
    """Keep the argument for ever; return how many of those kept before are not what they were."""
    array, value = job
    wrong = sum(1 for kept, was in KEPT if not (kept == was).all())
    KEPT.append((array, value))
    return wrong


def keep_slice_and_check(job: tuple[np.ndarray, int]) -> int:
    """Keep only a view of the argument: the memory must stay as long as the view."""
    array, value = job
    return keep_and_check((array[:: max(1, len(array) // 10)], value))


def keep_buffer_and_check(job: tuple[bytearray, int]) -> int:
    """Keep a memoryview of the argument."""
    view = memoryview(job[0])[100:-100]
    wrong = sum(1 for kept, was in KEPT if any(b != was for b in kept[::997]))
    KEPT.append((view, job[1]))
    return wrong


def forget(_: Any) -> int:
    count = len(KEPT)
    KEPT.clear()
    return count


def accumulate(array: np.ndarray) -> np.ndarray:
    """Return an array that lives on in the worker and changes with the next item."""
    if "sum" not in TOTAL:
        TOTAL["sum"] = np.zeros_like(array)
    TOTAL["sum"] += array
    return TOTAL["sum"]


def make_views(size: int) -> dict[str, Any]:
    base = np.arange(size, dtype=np.float64)
    grid = base.reshape(4, -1)
    return {
        "base": base,
        "reversed": base[::-1],
        "every third": base[::3],
        "transposed": grid.T,
        "column": grid[:, 5],
        "broadcast": np.broadcast_to(base[:1000], (3, 1000)),
        "read-only": read_only(base),
        "again": base,
    }


def read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def same(pair: tuple[Any, Any]) -> tuple[bool, tuple[Any, Any]]:
    """Whether both parts are one object here, and both parts back."""
    return pair[0] is pair[1], pair


def add_and_sum(array: np.ndarray, value: float) -> float:
    """Write into what other items hold too: each must see its own copy only."""
    array += value
    return float(array.sum())


def digest(data: bytes | bytearray | str) -> str:
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return hashlib.sha256(raw).hexdigest()


def change_bytearray(data: bytearray) -> bytearray:
    data[0] = 7
    data.append(9)
    return data


def change_frame(frame: Any) -> Any:
    """Write into a frame in place."""
    frame.iloc[0, 0] = frame.iloc[1, 0]
    frame["added"] = 1
    return frame


def scale_sparse(matrix: Any) -> Any:
    matrix.data *= 2
    return matrix


def sum_parts(parts: Any) -> float:
    values = parts.values() if isinstance(parts, dict) else parts
    return float(sum(part.sum() for part in values))


def make_ones(size: int) -> np.ndarray:
    return np.ones(size, np.uint8)


class Blob:
    """A class that hands its memory to pickle out of band, as NumPy does."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:
        return Blob, (pickle.PickleBuffer(self.data),)


def look_at_blob(blob: Blob) -> tuple[bool, str, int]:
    view = memoryview(blob.data)
    return view.readonly, hashlib.sha256(view).hexdigest(), view.nbytes
