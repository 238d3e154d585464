"""Arrays that lie in a file: they cross as the file's name and a place in it, and no byte of them is copied.

The receiver maps the file copy-on-write: it may write, and what it writes reaches neither the file nor anybody else.
Taken for this are `numpy.memmap` and all views of one, if the mapping shows what the file holds (a private mapping,
mode "c", does not) and the file still has its name. Everything else is copied as any array is. Only where a call says
so (`map_blocks(out=)`) is the file mapped so that it can be written to.
"""

from __future__ import annotations

import os
import weakref

from forklift._native import departing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # Path, device, inode, offset in bytes, length in bytes.
    Place = tuple[str, int, int, int, int]

__all__ = ["extent", "open_mapped", "place_of", "reduce_mapped"]

# Linux's number for it on these machines; Python 3.11 has no name for it.
MAP_NORESERVE = 0x4000 if os.uname().machine in ("x86_64", "aarch64", "riscv64") else 0

# Opening and mapping a file costs about what copying this much does.
MAPPED_BYTES_MIN = 64 << 10


class Mapping:
    """One line of /proc/self/maps that shows a file. (Not a `NamedTuple`: workers shall not import `typing` for it.)"""

    __slots__ = ("end", "inode", "offset", "path", "start")

    def __init__(self, start: int, end: int, offset: int, inode: int, path: str) -> None:
        self.start, self.end, self.offset, self.inode, self.path = start, end, offset, inode, path


# By the mapping object. None: not one whose contents are those of a file that has a name.
_mappings: weakref.WeakKeyDictionary[Any, Mapping | None] = weakref.WeakKeyDictionary()


def reduce_mapped(obj: Any, numpy: Any) -> Any:
    """Reduce a `numpy.memmap`, or an array that is a view of one, to its place in the file; else `NotImplemented`."""
    # Another machine has no such file, or another one of this name.
    place = place_of(obj, numpy) if obj.nbytes >= MAPPED_BYTES_MIN and not departing() else None
    if place is None:
        return NotImplemented
    first, low, _ = extent(obj)
    return open_mapped, (place, type(obj) is numpy.memmap, obj.dtype, obj.shape, obj.strides, first - low)


def extent(array: Any) -> tuple[int, int, int]:
    """Return the addresses of an array's first element, of its lowest byte, and of what follows its highest one."""
    first: int = array.__array_interface__["data"][0]
    steps = [(length - 1) * stride for length, stride in zip(array.shape, array.strides, strict=True)]
    low = first + sum(step for step in steps if step < 0)
    return first, low, first + sum(step for step in steps if step > 0) + array.itemsize


def place_of(obj: Any, numpy: Any) -> Place | None:
    """Find the place in a file that an array shows, from its lowest to its highest byte."""
    root = obj
    while isinstance(root.base, numpy.ndarray):
        root = root.base
    if not isinstance(root, numpy.memmap) or obj.dtype.hasobject:
        return None
    _, low, high = extent(obj)
    mapping = _mapping_of(root.base, low, high)
    if mapping is None:
        return None
    try:
        now = os.stat(mapping.path)
    except OSError:
        return None
    if now.st_ino != mapping.inode:
        return None
    # Whether it is still long enough is for the receiver to see: a file that has shrunk cannot be copied either.
    return (mapping.path, now.st_dev, now.st_ino, mapping.offset + low - mapping.start, high - low)


def _mapping_of(owner: Any, low: int, high: int) -> Mapping | None:
    """Find the shared mapping of a file that holds these addresses; `owner` is what keeps it alive."""
    try:
        known = _mappings[owner]
        if known is None or (known.start <= low and high <= known.end):
            return known  # Else it was resized, and has moved.
    except (KeyError, TypeError):
        pass
    found = _look_up(low, high)
    try:
        _mappings[owner] = found
    except TypeError:  # Nothing to refer to weakly, so it is looked up each time.
        pass
    return found


def _look_up(low: int, high: int) -> Mapping | None:
    try:
        with open("/proc/self/maps", "rb") as maps:
            for line in maps:
                fields = line.split(None, 5)
                start, end = (int(address, 16) for address in fields[0].split(b"-"))
                if not start <= low < end:
                    continue
                if len(fields) < 6 or high > end or fields[1][3:] != b"s":
                    return None
                path = os.fsdecode(fields[5].rstrip(b"\n").replace(rb"\012", b"\n"))
                return Mapping(start, end, int(fields[2], 16), int(fields[4]), path)
    except OSError:
        pass
    return None


def open_mapped(
    place: Place,
    is_memmap: bool,
    dtype: Any,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    first: int,
    writable: bool = False,
) -> Any:
    """Map the place in the file copy-on-write and return the array over it; `first` is where its first element lies.

    With `writable`, what is written to the array is written to the file.

    Raises `OSError` if the file is gone, was replaced or has become shorter since the array was sent: touching what a
    file no longer holds would kill the process.
    """
    import mmap

    import numpy

    path, device, inode, offset, length = place
    try:
        file = open(path, "r+b" if writable else "rb")  # noqa: SIM115
    except OSError as error:
        raise type(error)(
            error.errno,
            f"the file of an array that was sent by reference cannot be opened: {error.strerror}",
            path,
        ) from None
    with file:
        now = os.fstat(file.fileno())
        if (now.st_dev, now.st_ino) != (device, inode):
            raise OSError(f"the file of an array that was sent by reference has been replaced: {path!r}")
        if now.st_size < offset + length:
            raise OSError(
                f"the file of an array that was sent by reference has shrunk to {now.st_size} bytes, and the array "
                f"ends at byte {offset + length}: {path!r}"
            )
        # As `numpy.memmap` maps, but without a promise of memory for the pages that could be copied: the kernel refuses
        # to make one for more than there is.
        skipped = offset % mmap.ALLOCATIONGRANULARITY
        memory = mmap.mmap(
            file.fileno(),
            length + skipped,
            flags=mmap.MAP_SHARED if writable else mmap.MAP_PRIVATE | MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
            offset=offset - skipped,
        )
    if not is_memmap:
        return numpy.ndarray(shape, dtype, memory, skipped + first, strides)
    array: Any = numpy.ndarray.__new__(numpy.memmap, shape, dtype, memory, skipped + first, strides)
    array._mmap, array.filename, array.offset, array.mode = memory, os.path.abspath(path), offset, "c"
    return array
