"""The kinds of large objects that `map_blocks` cuts, and how the results of blocks are joined.

    NumPy arrays                         along any axis; blocks are views, what lies in shared memory or a file is lent
    pandas, polars, pyarrow              rows
    bytes, bytearray, str                lines: cut after a line end ("\\n"), sizes are approximate
    list, tuple                          elements

A result is joined by its own type, which need not be that of the blocks.
"""

from __future__ import annotations

import _pickle
import operator
import sys
from collections.abc import Sequence
from itertools import chain
from typing import Any

from forklift import _places

__all__ = ["Cut", "cut", "join"]

SUPPORTED = (
    "NumPy arrays, pandas and polars frames and series, pyarrow tables, batches and arrays, "
    "bytes, bytearray, str, list and tuple"
)

_PANDAS, _POLARS = ("DataFrame", "Series"), ("DataFrame", "Series")
_ARROW = ("Table", "RecordBatch", "Array", "ChunkedArray")


class Cut:
    """An object and how it is cut: `length` elements, of about `element_bytes` each."""

    unit = "elements"

    def __init__(self, obj: Any, length: int, bytes_in_all: float) -> None:
        self.obj = obj
        self.length = length
        self.element_bytes = bytes_in_all / length if length else 0.0

    def end(self, start: int, size: int) -> int:
        """Return where a block of this size (or about this size) ends that begins at `start`."""
        return min(start + size, self.length)

    def block(self, start: int, stop: int) -> Any:
        """Return the block, or what arrives as it."""
        return self.obj[start:stop]


class Elements(Cut):
    """Of a list or tuple, whose first element stands for all."""

    def __init__(self, obj: Any) -> None:
        first = obj[0] if obj else None
        each = getattr(first, "nbytes", None)
        each = each if isinstance(each, int) else sys.getsizeof(first)
        super().__init__(obj, len(obj), each * len(obj))


class Lines(Cut):
    """Of bytes or text. A block ends with a line, so it may be longer than was asked for."""

    def __init__(self, obj: Any) -> None:
        super().__init__(obj, len(obj), len(obj))
        self.unit = "characters" if isinstance(obj, str) else "bytes"
        self._line_end: Any = "\n" if isinstance(obj, str) else b"\n"
        self._view = None if isinstance(obj, str) else memoryview(obj)

    def end(self, start: int, size: int) -> int:
        found = self.obj.find(self._line_end, start + size - 1)
        return self.length if found < 0 else int(found) + 1

    def block(self, start: int, stop: int) -> Any:
        if self._view is None:
            return self.obj[start:stop]
        # Its bytes go out of band, straight from the object.
        kind = bytearray if isinstance(self.obj, bytearray) else bytes
        return _places.Place((kind, (_pickle.PickleBuffer(self._view[start:stop]),)))


class Rows(Cut):
    """Of a frame, series, table or Arrow array."""

    unit = "rows"

    def __init__(self, obj: Any, bytes_in_all: float) -> None:
        super().__init__(obj, len(obj), bytes_in_all)

    def block(self, start: int, stop: int) -> Any:
        if hasattr(self.obj, "iloc"):
            return self.obj.iloc[start:stop]
        return self.obj.slice(start, stop - start)


class Array(Cut):
    """Of a NumPy array, along an axis."""

    unit = "rows"

    def __init__(self, obj: Any, axis: int) -> None:
        super().__init__(obj, obj.shape[axis], obj.nbytes)
        self._before = (slice(None),) * axis
        self._lent = type(obj) is sys.modules["numpy"].ndarray and _places.place(obj, False) is not None

    def block(self, start: int, stop: int) -> Any:
        part = self.obj[(*self._before, slice(start, stop))]
        # The pickler by itself lends only what is one run of memory.
        standin = _places.place(part, False) if self._lent and not part.flags.forc else None
        return part if standin is None else standin


def cut(obj: Any, axis: int) -> tuple[Cut, int]:
    """Return how an object is cut, and the axis as a number from 0.

    Raises `TypeError` for a kind that cannot be cut, `ValueError` for an axis that it does not have (NumPy's
    `AxisError`, for arrays).
    """
    try:
        axis = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be an int, not {type(axis).__name__}") from None
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(obj, numpy.ndarray):
        if obj.ndim == 0:
            raise ValueError("an array of 0 dimensions has no axis to cut it along")
        if not -obj.ndim <= axis < obj.ndim:
            raise numpy.exceptions.AxisError(axis, obj.ndim)
        return Array(obj, axis % obj.ndim), axis % obj.ndim
    found = _other(obj)
    if found is None:
        kind = type(obj)
        raise TypeError(f"map_blocks cannot cut {kind.__module__}.{kind.__qualname__}: it cuts {SUPPORTED}")
    if axis != 0:
        raise ValueError(
            f"axis must be 0 for {type(obj).__name__}, which is cut into {found.unit}, not {axis}"
        )
    return found, 0


def _other(obj: Any) -> Cut | None:
    if isinstance(obj, (bytes, bytearray, str)):
        return Lines(obj)
    if isinstance(obj, (list, tuple)):
        return Elements(obj)
    if _is(obj, "pandas", _PANDAS):
        usage = obj.memory_usage(index=True)
        return Rows(obj, float(usage if isinstance(usage, int) else usage.sum()))
    if _is(obj, "polars", _POLARS):
        return Rows(obj, float(obj.estimated_size()))
    if _is(obj, "pyarrow", _ARROW):
        return Rows(obj, float(obj.nbytes))
    return None


def _is(obj: object, package: str, names: Sequence[str]) -> bool:
    """Whether an object is of one of a package's classes. Nothing is imported for it."""
    module = sys.modules.get(package)
    return module is not None and isinstance(obj, tuple(getattr(module, name) for name in names))


def join(results: list[Any], axis: int) -> Any:
    """Put the results of all blocks together, in order. The results themselves may be used up."""
    first = results[0]
    kinds = {type(result) for result in results}
    if len(kinds) > 1 and not all(issubclass(kind, type(first)) for kind in kinds):
        names = " and ".join(sorted(kind.__qualname__ for kind in kinds))
        raise TypeError(f"the function returned {names}, which combine='concat' cannot join")
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(first, numpy.ndarray) and first.ndim > axis:
        if len(results) == 1:
            return first
        masked = any(isinstance(result, numpy.ma.MaskedArray) for result in results)
        return (numpy.ma if masked else numpy).concatenate(results, axis=axis)
    joined = _join_other(first, results) if axis == 0 else NotImplemented
    if joined is NotImplemented:
        shape = f" of shape {first.shape}" if numpy is not None and isinstance(first, numpy.ndarray) else ""
        raise TypeError(
            f"the function returned {type(first).__qualname__}{shape} for the first block, which combine='concat' "
            f"cannot join along axis {axis}: use combine='list', or a function of two results such as operator.add"
        )
    return joined


def _join_other(first: Any, results: list[Any]) -> Any:
    if isinstance(first, (bytes, bytearray, str)):
        return type(first)().join(results)
    if isinstance(first, list):
        return list(chain.from_iterable(results))
    if type(first) is tuple:
        return tuple(chain.from_iterable(results))
    if _is(first, "pandas", _PANDAS):
        return first if len(results) == 1 else sys.modules["pandas"].concat(results)
    if _is(first, "polars", _POLARS):
        return sys.modules["polars"].concat(results, rechunk=False)
    if not _is(first, "pyarrow", _ARROW):
        return NotImplemented
    arrow = sys.modules["pyarrow"]
    if isinstance(first, arrow.Table):
        return arrow.concat_tables(results)
    if isinstance(first, arrow.RecordBatch):
        batches = arrow.Table.from_batches(results).combine_chunks().to_batches()
        return batches[0] if batches else first
    if isinstance(first, arrow.ChunkedArray):
        return arrow.chunked_array(chain.from_iterable(result.chunks for result in results), first.type)
    return arrow.concat_arrays(results)
