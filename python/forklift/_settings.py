"""Whether two calls ask for the same workers: what they say of them, as it would be pickled.

Workers are kept for calls with equal settings. Objects are no measure of that: one that was changed is equal to
itself, `1` is equal to `True`, an array is equal to nothing, and what a user's `__eq__` says is not what an initializer
sees. So what would cross is compared. What cannot be pickled, and what is pickled in another way each time, is never
the same.
"""

from __future__ import annotations

from multiprocessing.context import BaseContext
from types import CodeType
from typing import TYPE_CHECKING, Any

from forklift import _pickling, _reducers
from forklift._changes import digest_by, number_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

__all__ = ["key"]

#: Compared as they are, with their type: nothing else has the same pickle.
_PLAIN = (int, str, bool, type(None))

#: Settings that say where workers come from; what stands for that (a context, a client) is no value.
PLACES = ("context", "backend")


def key(settings: Mapping[str, Any]) -> tuple[Hashable, ...] | None:
    """Return what equal settings have in common, and others have not; None for settings that are equal to none.

    It holds for as long as the objects among `PLACES` live.
    """
    plain: list[Hashable] = []
    pickled = []
    for name in sorted(settings):
        value = settings[name]
        if type(value) in _PLAIN:
            plain.append((name, type(value), value))
        elif name in PLACES and (isinstance(value, BaseContext) or name == "backend"):
            plain.append((name, id(value)))
        else:
            pickled.append((name, value))
    if pickled:
        found = _digest(pickled)
        if found is None:
            return None
        plain.append(found)
    return tuple(plain)


def _digest(pickled: list[tuple[str, Any]]) -> Hashable | None:
    # Nothing is set aside for a worker that may never come: what can be sent only once is refused.
    asking, _reducers.asking.whether = getattr(_reducers.asking, "whether", False), True
    try:
        return digest_by((lambda: _pickling.Pickler, _thorough_pickler), pickled)
    finally:
        _reducers.asking.whether = asking


_picklers: list[Any] = []


def _thorough_pickler() -> Any:
    """Return the class of picklers for closures and the like, which writes the same for the same code.

    (`marshal` does not: it writes down what else refers to a constant.)
    """
    if not _picklers:
        cloud: Any = _pickling.cloud_pickler_class()

        class Pickler(cloud):  # type: ignore[misc]
            def reducer_override(self, obj: Any) -> Any:
                if type(obj) is CodeType:
                    return str, (number_of(obj),)
                return cloud.reducer_override(self, obj)

        _picklers.append(Pickler)
    return _picklers[0]
