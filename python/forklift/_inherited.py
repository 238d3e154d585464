"""In a forked worker: `Shared` objects among what it inherited give way to the values that they stand for.

A pickle would do so wherever one lies. Nothing is pickled here, and to look through everything would copy each page
that is looked at. So it is done where arguments and closures keep things; `Shared` tells where that is.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable
from typing import Any

# Containers with more elements, and those that are nested deeper, are data and not a place for arguments.
ELEMENTS_MAX = 100
DEPTH_MAX = 4


class Stand:
    """Knows which objects stand for which values. What a function holds is replaced in place: nobody else sees that."""

    def __init__(self, shares: Iterable[Any]) -> None:
        self._shares = {id(shared): shared for shared in shares}
        self._seen: set[int] = set()

    def argument(self, obj: Any, depth: int = 0) -> Any:
        """Return the object, or the value it stands for; a tuple, list or dict that holds such an object is a copy."""
        shared = self._shares.get(id(obj))
        if shared is not None:
            return shared._inherited()
        kind = type(obj)
        if depth == DEPTH_MAX or kind not in (tuple, list, dict) or len(obj) > ELEMENTS_MAX:
            return obj
        parts = list(obj.values()) if kind is dict else obj
        found = [self.argument(part, depth + 1) for part in parts]
        if all(part is before for part, before in zip(found, parts, strict=True)):
            return obj
        return dict(zip(obj, found, strict=True)) if kind is dict else kind(found)

    def function(self, obj: Any) -> Any:
        """Return the callable, with values in its closure, defaults, globals, arguments or attributes."""
        if id(obj) in self._shares:
            obj = self.argument(obj)
        if id(obj) in self._seen:
            return obj
        self._seen.add(id(obj))
        if isinstance(obj, functools.partial):
            # The function first: what it holds may change in place, while the arguments are in a tuple.
            function, arguments = self.function(obj.func), self.argument(obj.args)
            state = (function, arguments, self.argument(obj.keywords), vars(obj))
            obj.__setstate__(state)  # type: ignore[attr-defined]
        elif isinstance(obj, types.MethodType):
            self.function(obj.__func__)
            self._attributes(obj.__self__)
        elif isinstance(obj, types.FunctionType):
            self._closure(obj)
        else:
            self._attributes(obj)
        return obj

    def _closure(self, function: types.FunctionType) -> None:
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # Not yet assigned.
                continue
            cell.cell_contents = self.function(content) if callable(content) else self.argument(content)
        function.__defaults__ = self.argument(function.__defaults__)
        function.__kwdefaults__ = self.argument(function.__kwdefaults__)
        for name, value in list(function.__globals__.items()):
            if id(value) in self._shares:
                function.__globals__[name] = self.argument(value)

    def _attributes(self, obj: object) -> None:
        if isinstance(obj, type | types.ModuleType):
            return  # What a class or module holds is everybody's.
        attributes = getattr(obj, "__dict__", None)
        if type(attributes) is dict:
            for name, value in list(attributes.items()):
                attributes[name] = self.argument(value)
