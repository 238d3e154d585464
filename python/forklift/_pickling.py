"""Turning objects into bytes: what the native code needs of Python for it.

    Pickler            the fast way: C's pickler, arrays always out of band, definitions of `__main__` as small blobs
       │ ByValue, or any exception
    CloudPickler       the thorough way: closures, definitions with large or mutable globals, what only cloudpickle can
       │ any exception
    find_culprit       names the part that cannot be sent (`_failure`)

Both ways write what `_pickle.loads` reads; a worker needs no cloudpickle to read it unless something exotic is in it.
Results go by `ResultPickler` and `cloud_pickler_class(upward=True)`: definitions that came from the receiver are only
named to it.

The native code calls `Pickler(sink, 5, buffer_callback=sink.buffer).dump(obj)`. Both calls of the sink happen while C's
pickler holds references to what it passes; the sink keeps its own.
"""

from __future__ import annotations

import _pickle
import marshal
import os
import sys
from _io import TextIOWrapper
from types import CellType, CodeType, FunctionType, ModuleType
from weakref import ref

from forklift import _bindings, _byvalue, _identities
from forklift._byvalue import MAIN_MODULES, CachedFunction, is_dynamic
from forklift._changes import Moment
from forklift._mapped import reduce_mapped
from forklift._needs import ByValue, Needs
from forklift._reducers import reduce_large

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "ByValue",
    "Frozen",
    "Pickler",
    "ResultPickler",
    "cloud_pickler_class",
    "freeze",
    "override",
    "override_result",
]

# Blobs ride in every chunk that needs them, so a definition that makes a larger one goes out of band instead.
BLOB_BYTES_MAX = 64 << 10
BLOBS_MAX = 256
LOADED_MAX = 1024
PROTOCOL = 5

# By the address of the definition, which is not kept alive: its defaults may hold results of any size.
_blobs: dict[int, tuple[ref[Any], Needs, tuple[Any, ...]]] = {}
_editions = 0
# identity -> edition last read, and what it told of names
_loaded: dict[str, tuple[str, Any]] = {}


# What is in them names the process that made them.
os.register_at_fork(after_in_child=_blobs.clear)


# The fast way ----------------------------------------------------------------------------------------------------


def override(obj: Any) -> Any:
    """Decide how the fast way sends an object: `NotImplemented` leaves it to pickle.

    Called for everything that is not a number, text or plain container, so the usual case has to be short. The native
    code has its own version of this function, with the same meaning; this one is the reference.
    """
    if isinstance(obj, (FunctionType, type)):
        if obj.__module__ in MAIN_MODULES or "<" in obj.__qualname__:
            return by_value(obj)
        return NotImplemented
    if type(obj) is CachedFunction:
        return by_value(obj) if is_dynamic(obj) else NotImplemented
    return array(obj)


def override_result(obj: Any) -> Any:
    """`override` on the way back: what the receiver sent itself goes by its identity."""
    if isinstance(obj, (FunctionType, type)) or type(obj) is CachedFunction:
        identity = _byvalue.upstream_identity(obj)
        if identity is not None:
            return _byvalue.known, (identity,)
    return override(obj)


class Pickler(_pickle.Pickler):
    """The fast way to a worker."""

    reducer_override = staticmethod(override)


class ResultPickler(_pickle.Pickler):
    """The fast way back."""

    reducer_override = staticmethod(override_result)


def by_value(obj: Any) -> tuple[Any, ...]:
    """Send a definition as a blob that is made once and kept while nothing in it changes; else raise `ByValue`.

    The receiver reads a blob once, and knows it again by its edition.
    """
    global _editions
    if isinstance(obj, FunctionType) and obj.__closure__ is not None:
        raise ByValue
    kept = _blobs.get(id(obj))
    if kept is not None and kept[0]() is obj and kept[1].hold():
        return kept[2]
    needs = Needs()
    blob = _definition(obj, needs)
    identity = _identities.identity_of(obj)
    if identity is None or len(blob) > BLOB_BYTES_MAX:
        raise ByValue
    _editions += 1
    reduced = (load, (identity, f"{os.getpid()}:{_editions}", blob))
    while len(_blobs) >= BLOBS_MAX:
        try:
            del _blobs[next(iter(_blobs))]
        except (KeyError, StopIteration, RuntimeError):  # Another thread is at it too.
            break
    address = id(obj)

    def forget(dead: ref[Any], blobs: Any = _blobs) -> None:  # Also when this module's names are gone.
        if (kept := blobs.get(address)) is not None and kept[0] is dead:
            del blobs[address]

    _blobs[address] = (ref(obj, forget), needs, reduced)
    return reduced


def forget_changed() -> None:
    """Let go of kept forms that hold no more. They would keep what a global was before."""
    for address, (refer, needs, _) in list(_blobs.items()):
        try:
            holds = refer() is not None and needs.hold()
        except Exception:  # Of the user's, met while a value was looked at.
            holds = False
        if not holds:
            _blobs.pop(address, None)


class Frozen:
    """A function as it was at some moment, with its globals; it is pickled later, as it was then."""

    __slots__ = ("__func__", "_reduced")

    def __init__(self, func: Any, reduced: tuple[Any, ...]) -> None:
        self.__func__ = func
        self._reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


def freeze(func: Any) -> Any:
    """Keep what a function is now for the time at which it is sent, if it travels by value in a form that is kept.

    Else return the function: its name is enough, or it holds what its owner leaves as it is until the call is done.
    """
    if not isinstance(func, (FunctionType, type)) and type(func) is not CachedFunction:
        return func
    try:
        reduced = override(func)
    except Exception:  # Whoever sends it will hear.
        return func
    return func if reduced is NotImplemented else Frozen(func, reduced)


def load(identity: str, edition: str, blob: bytes) -> Any:
    """Return the object that was sent in the form of a blob; read the blob only if this edition of it is news."""
    found = _byvalue.living(identity)
    if found is not None:
        if _identities.is_ours(identity) or _bindings.has(edition):
            return found
        last, told = _loaded.get(identity, (None, None))
        if last == edition and (told is None or _bindings.adopt(edition, told)):
            return found
    told = None
    if _identities.is_upstream(_identities.sender(edition)):
        former = _bindings.begin()
        try:
            made = _pickle.loads(blob)
        finally:
            told = _bindings.end(edition, former)
    else:
        made = _pickle.loads(blob)
    if len(_loaded) > LOADED_MAX:
        _loaded.clear()  # Costs one more reading of each.
    _loaded[identity] = edition, told
    return made


def _definition(obj: Any, needs: Needs) -> bytes:
    """Pickle a definition on its own, without cloudpickle if possible."""
    sink = _Sink()
    if not isinstance(obj, type):
        try:
            light = _LightPickler(sink, PROTOCOL)
            light.needs = needs
            light.dump(obj)
            return sink.bytes()
        except (ByValue, _NeedsCloud):
            if needs.refused:
                raise ByValue from None
        except Exception:
            pass  # cloudpickle may know better, and if it does not, its error is the one to be told.
        needs.clear()
        sink = _Sink()
    try:
        cloud = cloud_pickler_class()(sink, PROTOCOL)
        cloud.needs = needs
        cloud.dump(obj)
    except Exception:
        raise ByValue from None  # The thorough way will meet the error again, and report it.
    return sink.bytes()


class _Sink:
    """Collects a pickle stream."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, piece: Any) -> None:
        self.pieces.append(bytes(piece))

    def bytes(self) -> bytes:
        return b"".join(self.pieces)


class _NeedsCloud(Exception):
    """Something other than a function without closure is in the definition."""


class _LightPickler(_pickle.Pickler):
    """Sends functions by value without importing cloudpickle; gives up on everything that is less simple."""

    needs: Needs | None = None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type):
            if is_dynamic(obj):
                raise _NeedsCloud
            return NotImplemented
        reduced = _reduce_part(obj, self.needs)
        # A TypeVar or NewType of `__main__` pickles as a name, which would not be found.
        if reduced is NotImplemented and type(obj).__module__ == "typing" and obj.__module__ in MAIN_MODULES:
            raise _NeedsCloud
        return array(obj) if reduced is NotImplemented else reduced


def _reduce_part(obj: Any, needs: Needs | None) -> Any:
    """Reduce what definitions consist of, and what pickle would send as a name that is not to be found."""
    kind = type(obj)
    if kind is FunctionType:
        return _byvalue.reduce_function(obj, needs) if is_dynamic(obj) else NotImplemented
    if kind is CodeType:
        # As `marshal` writes it: both ends are the same interpreter, and it is ten times as fast.
        return marshal.loads, (marshal.dumps(obj),)
    if kind is CellType:
        return _byvalue.reduce_cell(obj, needs)
    if kind is ModuleType and obj.__name__ in sys.modules:
        return import_module, (obj.__name__,)
    if kind is CachedFunction and is_dynamic(obj):
        return _byvalue.reduce_cached(obj, needs)
    if kind.__name__ == "ForwardRef" and kind.__module__ == "annotationlib":
        return _byvalue.reduce_reference(obj)
    if kind.__module__ == "dataclasses" and kind.__name__ == "_MISSING_TYPE":
        return "MISSING"  # Compared by identity there.
    return NotImplemented


def import_module(name: str) -> ModuleType:
    """Return the module of this name, with its parents imported."""
    __import__(name)
    return sys.modules[name]


# The thorough way ------------------------------------------------------------------------------------------------

_cloud_classes: dict[bool, Any] = {}


def cloud_pickler_class(upward: bool = False) -> Any:
    """Return the class of picklers that send everything by value that cannot be imported.

    Made on first use, since it imports cloudpickle. `upward` is for results: what came from the receiver goes by name.
    """
    found = _cloud_classes.get(upward)
    if found is None:
        found = _cloud_classes[upward] = _make_cloud_pickler_class(upward)
    return found


def _make_cloud_pickler_class(upward: bool) -> Any:
    from cloudpickle import cloudpickle

    builtin_classes = cloudpickle._BUILTIN_TYPE_NAMES
    reduce_other = cloudpickle.Pickler.reducer_override

    class CloudPickler(cloudpickle.Pickler):  # type: ignore[misc]
        """cloudpickle's pickler, with functions and classes as `_byvalue` sends them, and arrays as everywhere."""

        needs: Needs | None = None

        def dump(self, obj: Any) -> Any:
            with Moment():
                return super().dump(obj)

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, type):
                if obj in builtin_classes or not obj.__flags__ & _HEAP_TYPE or not is_dynamic(obj):
                    return reduce_other(self, obj)
                reduce: Callable[[], Any] = lambda: _byvalue.reduce_class(obj, self.needs, cloudpickle)  # noqa: E731
            elif isinstance(obj, FunctionType) or type(obj) is CachedFunction:
                if not is_dynamic(obj):
                    return NotImplemented
                reduce = lambda: _reduce_part(obj, self.needs)  # noqa: E731
            else:
                if isinstance(obj, TextIOWrapper) and obj is not sys.stdout and obj is not sys.stderr:
                    # cloudpickle would read the file, and send a copy in memory in its place.
                    raise TypeError("cannot pickle '_io.TextIOWrapper' object")
                reduced = array(obj)
                return _reduce_part(obj, self.needs) if reduced is NotImplemented else reduced
            identity = _byvalue.upstream_identity(obj) if upward else None
            return reduce() if identity is None else (_byvalue.known, (identity,))

    return CloudPickler


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, or at least in that way.


# Parts of functions ------------------------------------------------------------------------------------------------


def find_parts(obj: Any, addresses: set[int], cloud: bool) -> set[int]:
    """Return which of these addresses are those of objects that `obj` refers to, through none of the others."""
    kind = _finder_classes.get(cloud)
    if kind is None:
        kind = _finder_classes[cloud] = _make_finder_class(cloud_pickler_class() if cloud else Pickler)
    finder = kind(_Sink(), PROTOCOL, buffer_callback=lambda _buffer: False)
    finder.addresses = addresses
    finder.found = set()
    finder.dump(obj)
    found: set[int] = finder.found
    return found


_finder_classes: dict[bool, Any] = {}


def _make_finder_class(base: Any) -> Any:
    class Finder(base):  # type: ignore[misc]
        """Writes nothing of what is at one of the addresses, and notes it."""

        addresses: set[int]
        found: set[int]

        def persistent_id(self, obj: Any) -> int | None:
            address = id(obj)
            if address not in self.addresses:
                return None
            self.found.add(address)
            return address

    return Finder


# Arrays ----------------------------------------------------------------------------------------------------------

# Kinds whose bytes are their values. Others (objects, variable-length text, types of other packages) are numpy's own.
_PLAIN_KINDS = "biufcmMSUV"
_PLAIN_NUMBER_MAX = 256


def array(obj: Any) -> Any:
    """Reduce a NumPy array so that its bytes go out of band and it arrives writable, where pickle would not do so.

    Arrays that lie in a file cross as a place in it (`_mapped`), and `_reducers` knows other large types.

    It concerns three more sorts of arrays: read-only ones, which pickle delivers read-only (`multiprocessing` does
    not); those that are no single run of memory in C's or Fortran's order, which pickle copies into the stream; and
    dates, which have no buffer. No bytes are copied here, except for arrays with gaps in memory.
    """
    numpy = sys.modules.get("numpy")
    ndarray: Any = getattr(numpy, "ndarray", ())
    if not isinstance(obj, ndarray) or numpy is None:
        return reduce_large(obj)
    kind: Any = type(obj)
    if (kind is numpy.ndarray or kind is numpy.memmap) and obj.base is not None:
        reduced = reduce_mapped(obj, numpy)
        if reduced is not NotImplemented:
            return reduced
    if kind is not numpy.ndarray:
        return reduce_large(obj)
    flags, dtype = obj.flags, obj.dtype
    if flags.forc and flags.writeable and dtype.kind not in "mM":
        return NotImplemented
    if dtype.hasobject or dtype.kind not in _PLAIN_KINDS or dtype.num >= _PLAIN_NUMBER_MAX or not obj.nbytes:
        return NotImplemented
    axes = None
    dense = obj
    if not flags.forc:
        axes = sorted(range(obj.ndim), key=lambda axis: -obj.strides[axis])
        dense = obj.transpose(axes)
        if not dense.flags.c_contiguous:
            axes, dense = None, obj.copy(order="C")
    order = "C" if dense.flags.c_contiguous else "F"
    data = numpy.asarray(_Memory(dense))
    return build_array, (_pickle.PickleBuffer(data), dtype, dense.shape, order, axes)


class _Memory:
    """The memory of a dense array as writable bytes, whatever the array itself permits.

    Only the pickler sees it, and it only reads; "writable" is what it writes down for the copy that will arrive.
    """

    __slots__ = ("__array_interface__", "owner")

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (owner.nbytes,),
            "data": (owner.__array_interface__["data"][0], False),
        }


def build_array(buffer: Any, dtype: Any, shape: tuple[int, ...], order: Any, axes: list[int] | None) -> Any:
    """Build the array over the buffer. `axes` says how the dense array's axes stood in the one that was sent."""
    import numpy

    dense = numpy.frombuffer(buffer, dtype).reshape(shape, order=order)
    if axes is None:
        return dense
    inverse = [0] * len(axes)
    for position, axis in enumerate(axes):
        inverse[axis] = position
    return dense.transpose(inverse)
