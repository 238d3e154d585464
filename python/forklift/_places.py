"""Arrays that cross as a place: a part of shared memory or of a file that the receiver is shown as it lies.

    parent   place(array, writable)      a `Place` that stands for the array in an item, or None: it lies elsewhere
    pickle                               a loan of its bytes (`_native.Lent`), or where they are in the file
    worker   open_lent, open_mapped      the array itself
             Writer(func)(block, part)   calls the function, and fills the part of `out` that is the block's

Arrays in shared memory are found by the pickler anyway (`Sink.pack`), but only where they are one run of memory. And
that a receiver is to change the very bytes, and not its own copy of the pages, only a call can know: `map_blocks`,
which gives each part of its `out` to one worker at a time.
"""

from __future__ import annotations

import _pickle
import sys
from functools import partial

from forklift._mapped import extent, open_mapped, place_of
from forklift._native import Lent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Place", "Writer", "fill", "open_lent", "place"]


class Place:
    """Stands for an array in an item: arrives as the array."""

    __slots__ = ("reduced",)

    def __init__(self, reduced: tuple[Any, ...]) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def place(array: Any, writable: bool) -> Place | None:
    """Return what stands for an array that lies in shared memory, or (if it is to be written to) in a mapped file.

    None for any other array, and for one that is not made of plain values.
    """
    import numpy

    if array.dtype.hasobject or not array.size:
        return None
    first, low, high = extent(array)
    lent = Lent.of(numpy.asarray(_Run(array, low, high)), writable)
    if lent is not None:
        form = (array.dtype, array.shape, array.strides, first - low)
        return Place((open_lent, (_pickle.PickleBuffer(lent), *form, writable)))
    found = place_of(array, numpy) if writable else None
    if found is None:
        return None
    return Place((open_mapped, (found, False, array.dtype, array.shape, array.strides, first - low, True)))


def place_in_file(array: Any) -> Any:
    """Return the file that an array shows (device, inode), and its first and last byte there; None if it shows none."""
    import numpy

    found = place_of(array, numpy) if array.size else None
    return None if found is None else (found[1:3], found[3], found[3] + found[4])


def overlap_in_file(one: Any, other: Any) -> bool:
    """Return whether two arrays show the same part of a file, each by a mapping of its own."""
    first = place_in_file(one)
    second = None if first is None else place_in_file(other)
    if second is None:
        return False
    return bool(first[0] == second[0] and first[1] < second[2] and second[1] < first[2])


class _Run:
    """The run of memory that an array lies in, with what is between its elements, as bytes."""

    __slots__ = ("__array_interface__", "owner")

    def __init__(self, owner: Any, low: int, high: int) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (high - low,),
            "data": (low, False),
        }


def open_lent(
    memory: Any, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...], first: int, writable: bool
) -> Any:
    """Build the array over the lent bytes; `first` is where its first element lies."""
    import numpy

    array = numpy.ndarray(shape, dtype, memory, first, strides)
    if writable and array.flags.forc:
        memory.populate()  # All of it is about to be written.
    return array


class Writer(partial):  # type: ignore[type-arg]
    """Calls `func` for a block, and puts the result where it belongs: `Writer(func)(block, part of out or None)`.

    A `partial`, so that whoever looks through it for the user's function knows how.
    """

    casting = "same_kind"

    def __call__(self, block: Any, part: Any) -> Any:
        """Return None if the result was put into the part, else the result."""
        if part is None:
            return self.func(block)
        if _fills(self.func, block, part):
            self.func(block, out=part)
        else:
            fill(part, self.func(block), self.casting)
        return None


class SafeWriter(Writer):
    """For an array that nobody chose the type of: whichever block was first did, and none may lose anything by it."""

    casting = "safe"


def _fills(func: Any, block: Any, part: Any) -> bool:
    """Whether a ufunc would make exactly what belongs into the part, so that it can be told to make it there."""
    numpy = sys.modules["numpy"]
    if type(func) is not numpy.ufunc or func.nin != 1 or func.nout != 1 or func.signature is not None:
        return False
    if type(block) not in (numpy.ndarray, numpy.memmap) or block.shape != part.shape:
        return False
    try:
        return bool(func.resolve_dtypes((block.dtype, None))[-1] == part.dtype)
    except (TypeError, AttributeError):  # The function itself will say; or a NumPy that cannot tell.
        return False


def fill(part: Any, result: Any, casting: Any) -> None:
    """Put a block's result into the part of `out` that is the block's.

    `casting` is NumPy's word for what may become of its values: "same_kind" also cuts texts and rounds.
    """
    import numpy

    if not isinstance(result, numpy.ndarray):
        raise TypeError(
            f"out= needs arrays: the function returned {type(result).__name__} for a block whose part of out has "
            f"shape {part.shape}"
        )
    if result.shape != part.shape:
        raise ValueError(
            f"the function returned an array of shape {result.shape} for a block whose part of out has shape "
            f"{part.shape}"
        )
    if not numpy.can_cast(result.dtype, part.dtype, casting):
        advice = ", the type of the first result: give an array as out" if casting == "safe" else ""
        raise TypeError(
            f"the function returned an array of {result.dtype} for a block whose part of out is of {part.dtype}{advice}"
        )
    if type(result) is not numpy.ndarray and numpy.ma.is_masked(result):
        raise TypeError("the function returned an array with masked values, and out has no room for a mask")
    numpy.copyto(part, result, casting=casting)
