"""Arrays that several batches of one call hold: each is sent once, wherever in a batch it stands.

A batch is pickled with references in the place of such arrays. An array is known by its identity, as with joblib's own
back ends: one that is changed between two tasks of a call arrives as it was at first. Every task gets an array of its
own over the one memory, copy-on-write.
"""

from __future__ import annotations

import _pickle
import copy
import functools
import io
import sys
import threading
import weakref
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any

from forklift import _native, _pickling
from forklift._mapped import reduce_mapped

__all__ = ["Once", "Parcel", "Sight"]

# A buffer below this size stays in the stream, as everywhere.
OUT_OF_BAND_BYTES_MIN = 16 << 10

# An array of this size crosses to all workers at its first sight; a smaller one at its second, or at its first if so
# many references to it exist that other tasks surely have some. So an array that a single task has goes the usual way,
# through warm memory, and a large one that all tasks have is never copied twice.
SHARED_AT_ONCE_BYTES = 32 << 20
REFERENCES_MANY = 10

# Arrays that were seen once are forgotten when there are more than this and they have died.
SIGHTS_MAX = 1000


class Parcel:
    """A batch, pickled. In the worker it is the batch."""

    __slots__ = ("buffers", "stream")

    def __init__(self, stream: bytes, buffers: list[_pickle.PickleBuffer]) -> None:
        self.stream = stream
        self.buffers = buffers

    def __reduce__(self) -> Any:
        return rebuild, (self.stream, self.buffers)


def rebuild(stream: bytes, buffers: list[Any]) -> Any:
    """Build what was pickled, over received memory."""
    return _pickle.loads(stream, buffers=buffers)


def perform(stream: bytes, buffers: list[Any]) -> Any:
    """Build a task when its turn comes, and do it. What it was built of is gone before the next one is built."""
    return conclude(*_pickle.loads(stream, buffers=buffers))


def conclude(func: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Do a task. Its result is what it is now, whatever a later task of the batch does to it."""
    kept = [func(*arguments, **options)]
    if _native.holds_alone(kept):
        return kept.pop()
    for thorough in (False, True):
        kind = _pickling.cloud_pickler_class(upward=True) if thorough else _pickling.ResultPickler
        file = io.BytesIO()
        try:
            kind(file, _pickling.PROTOCOL).dump(kept)
        except Exception:
            continue
        return Result(file.getvalue())
    return kept.pop()  # It will be pickled with the others, and the error told.


def _is_plain(func: Callable[..., Any]) -> bool:
    """Say whether a function has no variables of its own that one task could leave to another."""
    return isinstance(func, BuiltinFunctionType) or (isinstance(func, FunctionType) and not func.__closure__)


class Result:
    """The result of a task, pickled. In the caller's process it is the result."""

    __slots__ = ("stream",)

    def __init__(self, stream: bytes) -> None:
        self.stream = stream

    def __reduce__(self) -> Any:
        return rebuild_result, (self.stream,)


def rebuild_result(stream: bytes) -> Any:
    """Build the result of a task."""
    return _pickle.loads(stream)[0]


class Sight:
    """What is known of an array: which it is, its key once it was sent, and how many batches refer to it now."""

    __slots__ = ("array", "key", "users")

    def __init__(self, array: Any) -> None:
        self.array = weakref.ref(array)
        self.key: int | None = None
        self.users = 0


class Once:
    """What has crossed in one call. One thread pickles; any may release."""

    def __init__(self, pool: _native.Pool, bytes_min: int | None, bytes_max: int) -> None:
        self._pool = pool
        self._bytes_min = sys.maxsize if bytes_min is None else max(1, bytes_min)
        self._bytes_left = bytes_max
        self._sights: dict[int, Sight] = {}
        self._sent: list[Sight] = []
        self._lock = threading.Lock()

    def pickle(self, batch: Any) -> tuple[Parcel, list[Sight]]:
        """Pickle a batch; also return what it refers to, to be released when its tasks are done.

        Raises `EncodeError`, with the path to what cannot be sent.
        """
        used: list[Sight] = []
        try:
            return self._dump_batch(_pickling.Pickler, batch, used), used
        except Exception:
            self.release(used)
            used.clear()
        try:
            return self._dump_batch(_pickling.cloud_pickler_class(), batch, used), used
        except Exception as error:
            self.release(used)
            from forklift._failure import refusal

            raise refusal(getattr(batch, "items", batch), "tasks", error)  # noqa: B904

    def release(self, used: list[Sight]) -> None:
        """Count off the references of a batch; drop what has died and is referred to no longer."""
        gone = []
        with self._lock:
            for sight in used:
                sight.users -= 1
            for sight in list(self._sent):
                if not sight.users and sight.array() is None:
                    self._sent.remove(sight)
                    gone.append(sight)
        self._drop(gone)

    def close(self) -> None:
        """Drop all that was sent."""
        with self._lock:
            gone, self._sent = self._sent, []
            self._sights.clear()
        self._drop(gone)

    def _drop(self, sights: list[Sight]) -> None:
        for sight in sights:
            if sight.key is not None and self._pool.is_ours():
                self._pool.unshare(sight.key)

    def _dump_batch(self, kind: Any, batch: Any, used: list[Sight]) -> Parcel:
        if len(batch) < 2:
            return self._dump(kind, batch, lambda array: self._reference(array, used))
        apart = copy.copy(batch)
        arguments = [(arguments, options) for _, arguments, options in batch.items]
        if all(_is_plain(func) for func, _, _ in batch.items) and _native.are_separate(arguments):
            apart.items = [(conclude, task, {}) for task in batch.items]
            try:
                return self._dump(kind, apart, _set_apart)
            except _Apart:
                pass
        # Built together, its tasks would have objects together as well, and see what another of them wrote.
        parcels = [self._dump(kind, task, lambda array: self._reference(array, used)) for task in batch.items]
        apart.items = [(perform, (parcel.stream, parcel.buffers), {}) for parcel in parcels]
        return self._dump(kind, apart, _set_apart)

    def _dump(self, kind: Any, obj: Any, reference: Callable[[Any], Any]) -> Parcel:
        pieces: list[bytes] = []
        buffers: list[_pickle.PickleBuffer] = []

        class Sink:
            @staticmethod
            def write(piece: Any) -> None:
                pieces.append(bytes(piece))

        def offered(buffer: _pickle.PickleBuffer) -> bool:
            if memoryview(buffer).nbytes < OUT_OF_BAND_BYTES_MIN:
                return True
            buffers.append(buffer)
            return False

        pickler = _referring(kind)(Sink, _pickling.PROTOCOL, buffer_callback=offered)
        pickler.reference = reference
        pickler.bytes_min = self._bytes_min
        pickler.dump(obj)
        return Parcel(b"".join(pieces), buffers)

    def _reference(self, array: Any, used: list[Sight]) -> Any:
        """Reduce an array to its key, if it is one that crosses once; send it, if it has not been."""
        if array.dtype.hasobject:
            return NotImplemented
        if array.base is not None:
            mapped = reduce_mapped(array, sys.modules["numpy"])
            if mapped is not NotImplemented:
                return mapped
        sight = self._sights.get(id(array))
        first = sight is None or sight.array() is not array
        if sight is None or first:
            sight = self._note(array)
        if sight.key is None:
            many = array.nbytes >= SHARED_AT_ONCE_BYTES or sys.getrefcount(array) >= REFERENCES_MANY
            if array.nbytes > self._bytes_left or (first and not many):
                return NotImplemented
            sight.key = self._pool.share(array, False)
            self._bytes_left -= array.nbytes
            with self._lock:
                self._sent.append(sight)
        with self._lock:
            sight.users += 1
        used.append(sight)
        return _native.fetch, (sight.key,)

    def _note(self, array: Any) -> Sight:
        if len(self._sights) > SIGHTS_MAX:
            self._sights = {key: sight for key, sight in self._sights.items() if sight.array() is not None}
        sight = self._sights[id(array)] = Sight(array)
        return sight


class _Apart(Exception):
    """There is a large array in a batch of several tasks."""


def _set_apart(array: Any) -> Any:
    raise _Apart


@functools.cache
def _referring(kind: Any) -> Any:
    """Make a class of picklers that ask for references to large arrays before they do what `kind` does."""
    # One is a static method, the other is not.
    reduce_other = kind.reducer_override
    plain = kind is _pickling.Pickler

    class Pickler(kind):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if (
                type(obj).__name__ == "ndarray"
                and type(obj).__module__ == "numpy"
                and obj.nbytes >= self.bytes_min
            ):
                reduced = self.reference(obj)
                if reduced is not NotImplemented:
                    return reduced
            return reduce_other(obj) if plain else reduce_other(self, obj)

    return Pickler
