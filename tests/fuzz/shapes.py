"""The shape of a graph of objects: all that can be told of it, as text, so that two graphs can be compared.

It has a line for each mutable object, numbered in the order in which they are found: its type, its plain values where
they stand, and the numbers of other objects. Two graphs have one shape if types and values are equal, what is one
object in one of them is one object in the other, and arrays share memory in the one where they do in the other. Which
object an immutable value is cannot be told by a function that behaves, so it is not in the shape.
"""

from __future__ import annotations

import array
import sys
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["extents", "mutables", "shape"]

#: Plain values that are longer than this are told by their hash.
TEXT_MAX = 40

PLAIN = (int, float, complex, bool, type(None), str, bytes, np.generic)


def shape(*roots: Any) -> str:
    """The shape of what these refer to, together."""
    return _Survey().of(roots)


def mutables(*roots: Any) -> list[Any]:
    """The mutable objects that these refer to, in an order that follows from their shape."""
    survey = _Survey()
    survey.of(roots)
    return survey.found


def extents(*roots: Any) -> list[tuple[int, int]]:
    """Where the memory of arrays lies: (first address, one past the last)."""
    return [_extent(found) for found in mutables(*roots) if isinstance(found, np.ndarray) and found.size]


class _Survey:
    """One walk."""

    def __init__(self) -> None:
        self.found: list[Any] = []  # which also keeps them alive, so that no number is given twice
        self.numbers: dict[int, int] = {}
        self.lines: list[str] = []
        self.memory: list[tuple[int, int, int]] = []

    def of(self, roots: tuple[Any, ...]) -> str:
        tops = [self.told(root) for root in roots]
        return "\n".join([" ".join(tops), *self.lines])

    def told(self, value: Any) -> str:
        """A plain value as it is, an object by its number."""
        if isinstance(value, PLAIN):
            return plain(value)
        if type(value) in (tuple, frozenset):
            parts = [self.told(part) for part in value]
            return f"{type(value).__name__}({', '.join(parts if type(value) is tuple else sorted(parts))})"
        if callable(value) and hasattr(value, "__qualname__"):
            return f"<{value.__qualname__}>"
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.found)
            self.found.append(value)
            self.lines.append("")
            parts = [name + self.told(part) for name, part in parts_of(value)]
            self.lines[number] = f"#{number} {self.kind(value, number)} {' '.join(parts)}".rstrip()
        return f"#{number}"

    def kind(self, value: Any, number: int) -> str:
        """The type of an object, and what it holds beside other objects."""
        name = type(value).__qualname__
        if isinstance(value, np.ndarray):
            return f"{name} {_array(value)}{self.shared(value, number)}"
        if isinstance(value, (bytearray, array.array)):
            return f"{name} {getattr(value, 'typecode', '')}{_digest(bytes(value))}"
        if _is_frame(value):
            return f"{name} {_frame(value)}"
        return name

    def shared(self, value: np.ndarray, number: int) -> str:
        """The numbers of arrays whose memory overlaps."""
        if not value.size:
            return ""
        first, end = _extent(value)
        others = [f"~#{other}" for low, high, other in self.memory if low < end and first < high]
        self.memory.append((first, end, number))
        return " ".join(["", *others])


def parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a mutable object, each with what comes before it in a line."""
    kind = type(value)
    if _is_frame(value) or kind in (bytearray, array.array):
        return
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            yield from (("", part) for part in value.ravel().tolist())
    elif isinstance(value, list):
        if len(value) > TEXT_MAX:
            yield "numbers=", repr([part for part in value if type(part) in (int, float)])
            others = ((index, part) for index, part in enumerate(value) if type(part) not in (int, float))
            yield from ((f"{index}:", part) for index, part in others)
        else:
            yield from (("", part) for part in value)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield "key=", key
            yield "=", part
    elif isinstance(value, set):
        yield "", frozenset(value)
    if kind.__module__ not in ("builtins", "numpy"):
        yield from attributes(value)


def attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object of a user's class, by name."""
    held = dict(getattr(value, "__dict__", ()))
    for kind in type(value).__mro__:
        slots = getattr(kind, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                held[name] = getattr(value, name)
    for name in sorted(held):
        yield f"{name}=", held[name]


def plain(value: Any) -> str:
    if isinstance(value, (str, bytes)) and len(value) > TEXT_MAX:
        text = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value)
        return f"{type(value).__name__}:{_digest(text)}"
    return repr(value) if type(value) in PLAIN else f"{type(value).__name__}:{value!r}"


def _array(value: np.ndarray) -> str:
    flags = value.flags
    # How an array that is no single run of memory arrives is not promised.
    order = (
        ("C" if flags.c_contiguous else "") + ("F" if flags.f_contiguous else "") if value.ndim < 3 else ""
    )
    held = "objects" if value.dtype.hasobject else _digest(value.tobytes())
    return f"{value.dtype.str}{value.shape}{order or '?'}{'w' if flags.writeable else 'r'} {held}"


def _is_frame(value: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, (pandas.DataFrame, pandas.Series))


def _frame(value: Any) -> str:
    columns = value.items() if value.ndim == 2 else [(value.name, value)]
    told = [f"{name}:{part.dtype}:{_digest(repr(part.tolist()).encode())}" for name, part in columns]
    return f"{list(value.index[:3])}{len(value)} {' '.join(told)}"


def _extent(value: np.ndarray) -> tuple[int, int]:
    from numpy.lib.array_utils import byte_bounds

    first, end = byte_bounds(value)
    return int(first), int(end)


def _digest(data: bytes) -> str:
    return data.hex() if len(data) <= 8 else f"{len(data)}:{zlib.crc32(data):08x}"
