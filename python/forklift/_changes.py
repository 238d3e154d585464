"""What has changed since it was last sent: the versions of globals, attributes of classes and functions, and defaults.

A name has a new version when it is bound to another object, or when what it is bound to has been changed in place. The
first is seen by identity. For the second there is no other proof than the value itself: it is pickled, and the digest
compared with that of the last time. What cannot change in any depth is `frozen`, and is not looked at again.

A digest sees what the value's own pickle holds. Definitions within it stand there by their identity only, for their
names have versions of their own; but a closure, which has no identity, is looked through. Large arrays are digested
where they lie, without a copy; those that lie in a file are taken for their place in it, as they cross.
"""

from __future__ import annotations

import _pickle
import os
import sys
from _blake2 import blake2b
from _functools import _lru_cache_wrapper  # type: ignore[import-not-found]
from _thread import _local, allocate_lock
from types import CellType, CodeType, FunctionType, ModuleType
from weakref import WeakKeyDictionary, ref

from forklift import _identities
from forklift._identities import MAIN_MODULES, identity_of, is_dynamic, next_serial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    # By name: the version and the value; the version alone for a name that is bound no more.
    Versions = dict[str, tuple[int, Any] | tuple[int]]

__all__ = [
    "Digest",
    "Moment",
    "digest",
    "digest_by",
    "frozen",
    "gone",
    "number_of",
    "take_stamps",
    "versions",
]

CachedFunction: Any = _lru_cache_wrapper  # What `functools.lru_cache` makes.

PROTOCOL = 5
# A longer tuple is pickled rather than walked through, each time: that is faster.
ELEMENTS_MAX = 64
# Above it, a buffer's contents are condensed at the speed of memory before they are digested.
CONDENSED_BYTES_MIN = 64 << 10

# Digest, and how many bytes it is made of. None: the value cannot be pickled, so nothing is known of it.
Digest = tuple[bytes, int]


class _Moments(_local):
    """By thread: which pickle is being made, if it is one in which all values are those of one moment."""

    now = 0


_moments = _Moments()


class Moment:
    """A context in which a value is looked at once, however many definitions refer to it."""

    def __enter__(self) -> None:
        self.former, _moments.now = _moments.now, next_serial()

    def __exit__(self, *exc: object) -> None:
        _moments.now = self.former


class _Stamp:
    """What a name was bound to when it was last sent."""

    __slots__ = ("_hard", "_weak", "moment", "proof", "version")

    def __init__(self, version: int, value: Any, proof: Digest | bool | None) -> None:
        self.version = version
        #: The value's digest; True for one that cannot change, None for one of which nothing is known.
        self.proof = proof
        #: When it was last proven.
        self.moment = _moments.now
        try:
            self._weak: Any = ref(value)
            self._hard = None
        except TypeError:  # Numbers, texts, lists, dicts: kept alive, or an address could be mistaken.
            self._weak, self._hard = None, value

    def is_of(self, value: Any) -> bool:
        if self._weak is None:
            return self._hard is value
        return value is not None and self._weak() is value  # None is what a reference to the dead returns.

    def is_certain(self) -> bool:
        """Whether no look at the value is needed to say that it has not changed."""
        return self.proof is True or (self.proof is not None and self.moment == _moments.now != 0)

    def holds(self) -> bool:
        """Whether it keeps the value alive."""
        return self._weak is None

    def is_proven(self, value: Any, looking: bool) -> bool:
        """Whether this value is what was sent. `looking`: also if that can only be said after a look at all of it."""
        if not self.is_of(value):
            return False
        return self.proof is True or (looking and self.proof is not None and digest(value) == self.proof)


class _Gone(_Stamp):
    """The name was sent, and has been deleted since."""

    def __init__(self, version: int) -> None:
        super().__init__(version, None, None)

    def is_of(self, value: Any) -> bool:
        return False

    def holds(self) -> bool:
        return False


# owner -> name -> stamp. The owner is a namespace or an identity; see `_identities.owned`.
_stamps: dict[str, dict[str, _Stamp]] = {}
_lock = allocate_lock()
_identities.forgetting.append(lambda owner: (_stamps.pop(owner, None), None)[1])


def _after_fork() -> None:
    global _lock
    _lock = allocate_lock()


os.register_at_fork(after_in_child=_after_fork)


def versions(owner: str, values: Mapping[str, Any], structure: bool = False) -> Versions:
    """Put to each value the version of its name: the old one if nothing has changed, else a new one.

    `structure`: names of Python's own (annotations, fields, enum tables) hold what nobody changes in place.
    """
    found: Versions = {}
    if not values:
        return found
    table = _stamps.setdefault(owner, {})
    for name, value in values.items():
        stamp = table.get(name)
        if stamp is None or not stamp.is_of(value) or not stamp.is_certain():
            stamp = _stamp(table, name, value, structure and is_special(name))
        found[name] = (stamp.version, value)
    return found


def _stamp(table: dict[str, _Stamp], name: str, value: Any, is_fixed: bool) -> _Stamp:
    # No lock is held here: this may run code of the user's.
    proof: Digest | bool | None = True
    if not frozen(value) and (not is_fixed or type(value) in _METHODS):
        proof = digest(value)
    with _lock:
        stamp = table.get(name)
        if stamp is not None and stamp.is_of(value) and proof is not None and stamp.proof == proof:
            stamp.moment = _moments.now
            return stamp
        # Numbered within the lock, so that the newest stamp has the highest version.
        stamp = table[name] = _Stamp(next_serial(), value, proof)
        return stamp


def gone(
    owner: str, values: Mapping[str, Any], names: Mapping[str, Any] | list[str] | None = None
) -> Versions:
    """List names (of these, or of all) that were sent for this owner and are bound no more.

    Also lets go of objects that are no longer bound to the name they were sent under.
    """
    table = _stamps.get(owner)
    if not table:
        return {}
    found: Versions = {}
    with _lock:
        for name, stamp in list(table.items()):
            if name in values:
                if stamp.holds() and not stamp.is_of(values.get(name)):
                    del table[name]
            elif names is None or name in names:
                if type(stamp) is not _Gone:
                    stamp = table[name] = _Gone(next_serial())
                found[name] = (stamp.version,)
            elif stamp.holds():
                table[name] = _Gone(next_serial())
    return found


def take_stamps() -> dict[str, dict[str, _Stamp]]:
    """Take all stamps: owner -> name -> stamp. A forked worker asks, which has inherited the values."""
    found = {owner: table.copy() for owner, table in _stamps.items()}
    _stamps.clear()
    return found


# What cannot change -----------------------------------------------------------------------------------------------


def is_special(name: str) -> bool:
    return name.startswith("_") and name.endswith("_")


def frozen(value: Any) -> bool:
    """Say whether the pickled form of a value is the same for ever, apart from definitions within it.

    A closure is no such definition: its cells may be given other contents.
    """
    kind = type(value)
    if kind in _FROZEN or isinstance(value, type):
        return True
    if kind is FunctionType:
        return value.__closure__ is None or not is_dynamic(value)
    if kind in (tuple, frozenset):
        return len(value) <= ELEMENTS_MAX and all(map(frozen, value))
    if kind in (staticmethod, classmethod):
        return frozen(value.__func__) and not value.__dict__.keys() - _WRAPPED
    if kind is property:
        return frozen(value.fget) and frozen(value.fset) and frozen(value.fdel)
    if kind is ModuleType:
        return sys.modules.get(value.__name__) is value
    if (kind.__module__, kind.__name__) in _FROZEN_NAMES or type(kind).__name__ == "EnumType":
        return True
    return isinstance(getattr(value, "__qualname__", None), str) and not is_dynamic(value)


_METHODS = (FunctionType, staticmethod, classmethod, property)
_FROZEN = (int, float, complex, bool, type(None), str, bytes, range, type(...), CachedFunction)
_FROZEN_NAMES = {
    ("dataclasses", "_MISSING_TYPE"),
    ("dataclasses", "_HAS_DEFAULT_FACTORY_CLASS"),
    ("re", "Pattern"),
    ("logging", "Logger"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
}
# What the wrappers of methods copy of the function.
_WRAPPED = {
    "__module__",
    "__name__",
    "__qualname__",
    "__doc__",
    "__annotations__",
    "__wrapped__",
    "__annotate__",
}


# Digests ---------------------------------------------------------------------------------------------------------


def digest(value: Any, bytes_max: int | None = None) -> Digest | None:
    """Digest the pickled form of a value; None if it has none, of which whoever sends it will hear, or a larger one."""
    return digest_by((lambda: _Reader, _cloud_reader), value, bytes_max)


def digest_by(kinds: Iterable[Callable[[], Any]], value: Any, bytes_max: int | None = None) -> Digest | None:
    """Digest what the first of these classes of picklers writes that can pickle the value; None if none can."""
    for kind in kinds:
        sink = _Sink(bytes_max)
        try:
            return _digest(kind(), value, sink)
        except Exception:
            if sink.is_full:
                return None
    return None


def _digest(kind: Any, value: Any, sink: _Sink) -> Digest:
    kind(sink, PROTOCOL, buffer_callback=sink.buffer).dump(value)
    return sink.hash.digest(), sink.bytes


class _Sink:
    """Digests a pickle stream and the buffers that it refers to, as they come."""

    def __init__(self, bytes_max: int | None) -> None:
        self.hash = blake2b(digest_size=20)
        self.bytes = 0
        self.bytes_max = sys.maxsize if bytes_max is None else bytes_max
        self.is_full = False

    def write(self, piece: Any) -> None:
        self.count(len(piece))
        self.add(piece, len(piece))

    def count(self, more: int) -> None:
        self.bytes += more
        if self.bytes > self.bytes_max:
            self.is_full = True
            raise ValueError("it is larger than asked for")

    def buffer(self, offered: Any) -> None:
        memory = offered.raw()
        self.count(memory.nbytes)
        # Its length before it, so that two buffers are not taken for two others of the same bytes.
        self.hash.update(memory.nbytes.to_bytes(8, "little"))
        self.add(memory, memory.nbytes)

    def add(self, data: Any, size: int) -> None:
        if size >= CONDENSED_BYTES_MIN:
            from forklift._native import condense

            self.hash.update(size.to_bytes(8, "little"))
            data = condense(data)
        self.hash.update(data)


class _Reader(_pickle.Pickler):
    """Pickles for a digest, without cloudpickle."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type):
            return _named(obj) if obj.__flags__ & _HEAP_TYPE and is_dynamic(obj) else NotImplemented
        return _reduce(obj)


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, or at least in that way.
_cloud_readers: list[Any] = []


def _cloud_reader() -> Any:
    """Return the class of picklers that digest what needs cloudpickle. Made on first use, since it imports that."""
    if not _cloud_readers:
        from cloudpickle import cloudpickle

        class CloudReader(cloudpickle.Pickler):  # type: ignore[misc]
            def reducer_override(self, obj: Any) -> Any:
                if isinstance(obj, type):
                    by_value = obj.__flags__ & _HEAP_TYPE and is_dynamic(obj)
                    reduced = _named(obj) if by_value else NotImplemented
                else:
                    reduced = _reduce(obj)
                if reduced is NotImplemented:
                    reduced = cloudpickle.Pickler.reducer_override(self, obj)
                return reduced

        _cloud_readers.append(CloudReader)
    return _cloud_readers[0]


def _named(obj: Any) -> Any:
    identity = identity_of(obj)
    return NotImplemented if identity is None else (str, (identity,))


def _reduce(obj: Any) -> Any:
    """Reduce what is not to be looked into, or is looked into in another way than to be sent."""
    kind: Any = type(obj)
    if kind is FunctionType:
        if not is_dynamic(obj):
            return NotImplemented
        if obj.__closure__ is None:
            return _named(obj)
        # In two steps, as what it closes over may lead back to it.
        parts = (obj.__code__, obj.__defaults__, obj.__kwdefaults__, obj.__dict__, obj.__closure__)
        return object, (), {"function": parts}
    if kind is CodeType:
        return str, (number_of(obj),)
    if kind is CellType:
        try:
            return object, (), {"cell": obj.cell_contents}
        except ValueError:
            return object, ()
    if isinstance(obj, ModuleType) and sys.modules.get(obj.__name__) is obj:
        return str, (obj.__name__,)
    if kind is CachedFunction and is_dynamic(obj):
        return _named(obj)
    module = kind.__module__
    if (module, kind.__name__) in _HANDED_OVER:
        return str, (number_of(obj),)
    if module == "typing" and getattr(obj, "__module__", None) in MAIN_MODULES:
        return str, (number_of(obj),)
    # Imported by whoever sends, and not by each worker at its birth.
    from forklift._mapped import reduce_mapped
    from forklift._reducers import reduce_large

    numpy = sys.modules.get("numpy")
    ndarray: Any = getattr(numpy, "ndarray", ())
    if isinstance(obj, ndarray) and obj.base is not None:
        return reduce_mapped(obj, numpy)
    return reduce_large(obj)


# Each pickle of one sets a duplicate of its descriptor aside; and a TypeVar is pickled by a name that is not found.
_HANDED_OVER = {
    ("multiprocessing.connection", "Connection"),
    ("socket", "socket"),
    ("annotationlib", "ForwardRef"),
}

_numbers: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def number_of(obj: Any) -> str:
    """Return a text that stands for this object, and for those that are equal to it for ever."""
    number = _numbers.get(obj)
    if number is None:
        number = _numbers[obj] = f"{type(obj).__name__} {next_serial()}"
    return number
