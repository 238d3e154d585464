"""When the pickled form of a definition may be kept and used again.

Instances of a class of `__main__` ride in every chunk, and their class with them. Taking it apart each time would cost
more than its instances do, so `_pickling.by_value` keeps the bytes, for as long as nothing that went into them changes.
"""

from __future__ import annotations

import sys
from types import CellType, FunctionType
from weakref import ref

from forklift._changes import Digest, digest, frozen, is_special

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, NoReturn

# A form with a larger value in it is not kept: it would ride in every chunk.
VALUE_BYTES_MAX = 64 << 10
TEXT_LENGTH_MAX = 4096

_MISSING = object()


class ByValue(Exception):
    """The fast way cannot send this, the thorough way must try: start again with `cloud_pickler_class()`."""


class Needs:
    """What the pickled form of a definition depends on, so that it can be kept while nothing of that changes.

    Told of every function, class and cell before it goes in. Of a value that can change in place, the digest says
    whether it has. One that is large, or cannot be pickled, makes the form unfit to be kept: `ByValue` is raised,
    before anything large has been copied.
    """

    __slots__ = ("bound", "cells", "fixed", "functions", "held", "mappings", "refused", "registered", "sizes")

    def __init__(self) -> None:
        self.refused = False
        self.clear()

    def clear(self) -> None:
        """Forget what was told, to begin again."""
        self.mappings: list[tuple[Any, str, Any]] = []
        self.sizes: list[tuple[Any, int]] = []
        self.cells: list[tuple[CellType, Any]] = []
        self.functions: list[tuple[Any, ...]] = []
        #: Where a value is bound that may be changed in place, a reference to it, and its digest.
        self.bound: list[tuple[Any, str, Callable[[], Any], Digest]] = []
        #: The same, of values that are no mapping's: defaults, and contents of cells.
        self.held: list[tuple[Any, Digest]] = []
        #: Cells that hold structure.
        self.fixed: list[CellType] = []
        #: How many classes had been registered with abstract ones, if there is one of these here.
        self.registered: int | None = None

    def hold(self) -> bool:
        """Say whether all is as it was. (In loops, which take half the time of `all`: each call comes here.)"""
        for mapping, name, value in self.mappings:
            if mapping.get(name, _MISSING) is not value:
                return False
        for mapping, size in self.sizes:
            if len(mapping) != size:
                return False
        for refer, code, defaults, kwdefaults in self.functions:
            func = refer()
            if func is None or func.__code__ is not code or func.__defaults__ is not defaults:
                return False
            if func.__kwdefaults__ is not kwdefaults:
                return False
        if self.registered is not None and self.registered != _registered():
            return False
        return self._contents_hold()

    def _contents_hold(self) -> bool:
        try:
            for cell, content in self.cells:
                if cell.cell_contents is not content:
                    return False
        except ValueError:  # Emptied.
            return False
        for mapping, name, refer, before in self.bound:
            value = mapping.get(name, _MISSING)
            if value is not refer() or digest(value, VALUE_BYTES_MAX) != before:
                return False
        return not self.held or all(digest(value, VALUE_BYTES_MAX) == before for value, before in self.held)

    def function(self, func: FunctionType, names: list[str]) -> None:
        """A function goes in, which looks up these globals. One that is missing may come to be defined."""
        variables = func.__globals__
        for name in (*names, func.__qualname__):
            self._bound(variables, name, variables.get(name, _MISSING))
        self.functions.append((ref(func), func.__code__, func.__defaults__, func.__kwdefaults__))
        self._attributes(func.__dict__, func.__dict__)
        for value in (*(func.__defaults__ or ()), *(func.__kwdefaults__ or {}).values()):
            self._held(value)

    def type(self, cls: type, attributes: Mapping[str, Any]) -> None:
        """A class goes in, with these attributes."""
        self._attributes(cls.__dict__, attributes)
        if "_abc_impl" in cls.__dict__:
            self.registered = _registered()

    def structure(self, cells: Iterable[CellType]) -> None:
        """These cells are of what evaluates annotations. Nobody changes what is in them."""
        self.fixed.extend(cells)

    def cell(self, cell: CellType, content: Any) -> None:
        """A cell of a method goes in: the class for `super()`, or what made the method put there."""
        if any(cell is fixed for fixed in self.fixed):
            return
        self._held(content)
        self.cells.append((cell, content))

    def _attributes(self, mapping: Any, attributes: Mapping[str, Any]) -> None:
        self.sizes.append((mapping, len(mapping)))
        for name in attributes:
            value = mapping.get(name, _MISSING)
            # Names of Python's own hold structure (annotations, fields, enum tables), which nobody changes.
            if is_special(name):
                self.mappings.append((mapping, name, value))
            else:
                self._bound(mapping, name, value)

    def _bound(self, mapping: Any, name: str, value: Any) -> None:
        if (found := self._look(value)) is None:
            self.mappings.append((mapping, name, value))
        else:
            self.bound.append((mapping, name, _reference(value), found))

    def _held(self, value: Any) -> None:
        if (found := self._look(value)) is not None:
            self.held.append((value, found))

    def _look(self, value: Any) -> Digest | None:
        """Return the digest of a value that may be changed in place; None if its identity says all."""
        if value is _MISSING or type(value) in _TOLD:
            return None
        if type(value) in (list, dict, set) and not value:
            self.sizes.append((value, 0))
            return None
        if frozen(value):
            if type(value) in (str, bytes) and len(value) > TEXT_LENGTH_MAX:
                self._refuse()
            return None
        found = digest(value, VALUE_BYTES_MAX)
        if found is None:
            self._refuse()
        return found

    def _refuse(self) -> NoReturn:
        self.refused = True
        raise ByValue


def _reference(value: Any) -> Callable[[], Any]:
    """Refer to a value without keeping it alive, if that is possible: it may stand for more than it pickles."""
    try:
        return ref(value)
    except TypeError:
        return lambda: value


def _registered() -> int:
    abc: Any = sys.modules["abc"]
    token: int = abc.get_cache_token()
    return token


# What goes in part by part, and is told of in its turn.
_TOLD = (FunctionType, staticmethod, classmethod, property)
