"""When the pickled form of a definition may be kept and used again.

Instances of a class of `__main__` ride in every chunk, and their class with them. Taking it apart each time would cost
more than its instances do, so `_pickling.by_value` keeps the bytes, for as long as nothing that went into them changes.
"""

from __future__ import annotations

from types import CellType, FunctionType, ModuleType

from forklift._byvalue import CachedFunction, is_dynamic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_MISSING = object()


class ByValue(Exception):
    """The fast way cannot send this, the thorough way must try: start again with `cloud_pickler_class()`."""


class Needs:
    """What the pickled form of a definition depends on, so that it can be kept while nothing of that changes.

    Told of every function, class and cell before it goes in. A value that can change in place, or that may be large,
    makes the form unfit to be kept: `ByValue` is raised, before anything large has been copied.
    """

    __slots__ = ("cells", "functions", "mappings", "refused", "sizes")

    def __init__(self) -> None:
        self.refused = False
        self.clear()

    def clear(self) -> None:
        """Forget what was told, to begin again."""
        self.mappings: list[tuple[Any, str, Any]] = []
        self.sizes: list[tuple[Any, int]] = []
        self.cells: list[tuple[CellType, Any]] = []
        self.functions: list[tuple[Any, ...]] = []

    def hold(self) -> bool:
        """Say whether all is as it was."""
        try:
            cells = all(cell.cell_contents is content for cell, content in self.cells)
        except ValueError:  # Emptied.
            cells = False
        return (
            cells
            and all(mapping.get(name, _MISSING) is value for mapping, name, value in self.mappings)
            and all(len(mapping) == size for mapping, size in self.sizes)
            and all(
                f.__code__ is code and f.__defaults__ is defaults and f.__kwdefaults__ is kwdefaults
                for f, code, defaults, kwdefaults in self.functions
            )
        )

    def function(self, func: FunctionType, names: list[str]) -> None:
        """A function goes in, which looks up these globals. One that is missing may come to be defined."""
        variables = func.__globals__
        for name in (*names, func.__qualname__):
            value = variables.get(name, _MISSING)
            self.mappings.append((variables, name, value))
            self._value(value)
        self.functions.append((func, func.__code__, func.__defaults__, func.__kwdefaults__))
        self._attributes(func.__dict__, func.__dict__)
        for value in (*(func.__defaults__ or ()), *(func.__kwdefaults__ or {}).values()):
            self._value(value)

    def type(self, cls: type, attributes: Mapping[str, Any]) -> None:
        """A class goes in, with these attributes."""
        self._attributes(cls.__dict__, attributes)

    def cell(self, cell: CellType, content: Any) -> None:
        """A cell of a method goes in: the class for `super()`, or what made the method put there."""
        self._value(content)
        self.cells.append((cell, content))

    def _attributes(self, mapping: Any, attributes: Mapping[str, Any]) -> None:
        self.sizes.append((mapping, len(mapping)))
        for name, value in attributes.items():
            self.mappings.append((mapping, name, mapping.get(name, _MISSING)))
            # Names of Python's own hold structure (annotations, fields, enum tables), which nobody changes.
            if not (name.startswith("_") and name.endswith("_")) and not hasattr(type(value), "__get__"):
                self._value(value)

    def _value(self, value: Any) -> None:
        if type(value) in (list, dict, set) and not value:
            self.sizes.append((value, 0))  # Steady while it is empty, as the workers' caches are here.
        elif value is not _MISSING and not _is_steady(value):
            self._refuse()

    def _refuse(self) -> None:
        self.refused = True
        raise ByValue


def _is_steady(value: Any) -> bool:
    kind = type(value)
    if kind in _STEADY or isinstance(value, type):
        return True
    if kind in (str, bytes):
        return len(value) <= 4096
    if kind in (tuple, frozenset):
        return len(value) <= 64 and all(map(_is_steady, value))
    if (kind.__module__, kind.__name__) in _STEADY_NAMES or type(kind).__name__ == "EnumType":
        return True
    return isinstance(getattr(value, "__qualname__", None), str) and not is_dynamic(value)


# Functions and caches that are themselves dynamic go in too, and are told of in their turn.
_STEADY = (int, float, complex, bool, type(None), FunctionType, ModuleType, CachedFunction)
_STEADY_NAMES = {
    ("dataclasses", "_MISSING_TYPE"),
    ("dataclasses", "_HAS_DEFAULT_FACTORY_CLASS"),
    ("re", "Pattern"),
    ("logging", "Logger"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
}
