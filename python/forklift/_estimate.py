"""What copying items would cost, by a measured sample, and what forking would: for `inherit="auto"`; what items hold.

Only plain data are measured (lists, dicts, tuples, sets of numbers and text, and arrays): their pickling runs no code
but pickle's own, so that a sample is never noticed. Anything else is left to the copying way.
"""

from __future__ import annotations

import _pickle
import array
import itertools
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

#: The least cost of copying, in seconds, for which a fork is considered, and how far above that of forking.
COPYING_SECONDS_MIN = 0.1
MARGIN = 3.0

#: How long a sample may take. A piece of 64 KiB is always finished.
SAMPLE_SECONDS_MAX = 0.005

# Birth of a worker, and copying its page tables: 10 to 40 ms were seen for a gigabyte.
BIRTH_SECONDS = 0.005
FORK_SECONDS_PER_BYTE = 30e-3 / 2**30
COPY_SECONDS_PER_BYTE = 0.25e-9

# Reading an object counts references to it, which makes a worker copy its page: 3 µs for 4 KiB. Small objects take
# about four times the bytes in memory that their pickle has.
TOUCH_SECONDS_PER_BYTE = 4 * 3e-6 / 4096

_CONTAINERS = (list, tuple, dict, set, frozenset)
_NUMBERS = {int, float, bool, type(None), complex}
_SCALARS = {*_NUMBERS, str, bytes}
# Their own word for their size is the interpreter's.
_SIZED = {*_SCALARS, bytearray, range, array.array}
_FIXED_MODULES = {"datetime", "decimal", "fractions"}

# Flat items, up to this length, are judged by it: no more than so many seconds each, and for each of their parts.
_FLAT_LENGTH_MAX = 256
_FLAT_SECONDS, _PART_SECONDS = 1e-6, 0.3e-6
_TEXT_LENGTH_MAX = 256

# The feed packs a list of this many numbers (`standin.rs`), which costs less than pickling it.
_PACKED_LENGTH_MIN = 256
_BATCH = 32

# Items, and parts of one, that are looked at for what they hold: a thousand objects in all, at three depths.
_SEEN_MAX = 16


def may_be_costly(items: Sequence[Any]) -> bool:
    """Say, in a few microseconds, whether a sample is worth taking. All but containers are cheap, or not measured."""
    count = len(items)
    most = 0.0
    for item in (items[0], items[count // 2], items[-1]):
        if type(item) not in _CONTAINERS:
            return False
        flat = len(item) <= _FLAT_LENGTH_MAX and _is_flat(item.values() if type(item) is dict else item)
        most = max(most, _FLAT_SECONDS + _PART_SECONDS * len(item) if flat else COPYING_SECONDS_MIN)
    return most * count >= COPYING_SECONDS_MIN


def _is_flat(parts: Any) -> bool:
    kinds = set(map(type, parts))
    return kinds <= _NUMBERS or (kinds <= _SCALARS and all(map(_is_small, parts)))


def _is_small(part: object) -> bool:
    kind = type(part)
    return kind in _SCALARS and (kind not in (str, bytes) or len(part) <= _TEXT_LENGTH_MAX)  # type: ignore[arg-type]


class _NotPlainError(Exception):
    """Something whose pickling could run code of others."""


class _EnoughError(Exception):
    """The sample has taken its time."""


class _Sampler(_pickle.Pickler):
    """Pickles plain data. Arrays are left out: their bytes are copied, not encoded."""

    def __init__(self, stream: _Stream) -> None:
        super().__init__(stream, 5)
        self.array_bytes = 0

    def reducer_override(self, obj: Any) -> Any:
        kind = obj if isinstance(obj, type) else type(obj)
        if kind.__module__ in _FIXED_MODULES or kind in _SCALARS or kind is range:
            return NotImplemented
        numpy = sys.modules.get("numpy")
        if numpy is not None and type(obj) is numpy.ndarray and not obj.dtype.hasobject:
            self.array_bytes += obj.nbytes
            return int, ()
        raise _NotPlainError(type(obj).__name__)


class _Stream:
    """Keeps a pickle stream until the time is up."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.pieces: list[bytes] = []

    def write(self, piece: Any) -> None:
        self.pieces.append(bytes(piece))
        if time.perf_counter() > self.deadline:
            raise _EnoughError


def copying(items: Sequence[Any], processes: int) -> tuple[float, float, str]:
    """Estimate the seconds of encoding all items here and decoding them in the workers; or say why it cannot be told.

    Encoding is done by one thread, decoding by all workers. The second figure is what the workers would lose by
    reading the items where they are.
    """
    count = len(items)
    deadline = time.perf_counter() + SAMPLE_SECONDS_MAX
    samples: list[tuple[float, float, float]] = []
    size = 1
    for place in (0, count // 2, count - 1, count // 4, 3 * count // 4):
        part = items[place : place + size]
        try:
            out, back, size_of_stream = _sample(part, deadline)
        except _NotPlainError as error:
            return 0.0, 0.0, f"the items hold {error}, which is not plain data"
        except Exception as error:
            return 0.0, 0.0, f"a sample could not be pickled: {type(error).__name__}"
        samples.append((out / len(part), back / len(part), size_of_stream / len(part)))
        if time.perf_counter() > deadline:
            break
        if place == 0 and out < 5e-5 and not _is_packed(part[0]):
            # What a pickle costs by itself would be most of it.
            samples.clear()
            size = _BATCH
    # Not the mean: one place may have been held up by other processes, and the smaller figure is the safer one.
    encoding, decoding, streamed = sorted(samples)[(len(samples) - 1) // 2]
    workers = min(processes, count, _cores())
    touching = streamed * TOUCH_SECONDS_PER_BYTE / workers * count
    return (encoding + decoding / workers) * count, touching, ""


def _sample(part: Sequence[Any], deadline: float) -> tuple[float, float, int]:
    """Measure how long some items take to be encoded and decoded, and how many bytes that makes."""
    if len(part) == 1 and _is_packed(part[0]):
        begin = time.perf_counter()
        packed = array.array("d" if type(part[0][0]) is float else "q", part[0])
        middle = time.perf_counter()
        packed.tolist()
        return middle - begin, time.perf_counter() - middle, packed.itemsize * len(packed)
    stream = _Stream(deadline)
    sampler = _Sampler(stream)
    begin = time.perf_counter()
    try:
        sampler.dump(list(part))
    except _EnoughError:
        # Cut short: what is left of the item is not counted, and decoding is about as slow.
        spent = time.perf_counter() - begin
        return spent, spent, sum(map(len, stream.pieces))
    middle = time.perf_counter()
    data = b"".join(stream.pieces)
    _pickle.loads(data)
    end = time.perf_counter()
    return middle - begin + sampler.array_bytes * COPY_SECONDS_PER_BYTE, end - middle, len(data)


def _is_packed(item: Any) -> bool:
    """Whether the feed packs this item: a long list of floats, or of integers that fit."""
    if type(item) is not list or len(item) < _PACKED_LENGTH_MIN:
        return False
    kinds = set(map(type, item[:_PACKED_LENGTH_MIN]))
    if kinds != {float} and kinds != {int}:
        return False
    kinds = set(map(type, item))
    return kinds == {float} or (kinds == {int} and min(item) >= -(2**63) and max(item) < 2**63)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def held(items: Sequence[Any]) -> int:
    """Estimate the bytes of memory that items hold, from a few of them: for reports.

    No code of others runs: of what is no plain container, number, text or array, only the object itself counts.
    """
    sample = items[:: -(-len(items) // _SEEN_MAX)] if items else ()
    return round(sum(_held(item, _SEEN_MAX) for item in sample) / max(len(sample), 1) * len(items))


def _held(obj: Any, most: int) -> float:
    """Estimate what an object holds, looking at no more than so many of its parts, and at fewer of theirs."""
    kind = type(obj)
    numpy = sys.modules.get("numpy")
    if numpy is not None and kind is numpy.ndarray:
        return float(obj.nbytes)
    if kind not in _CONTAINERS:
        return float(sys.getsizeof(obj) if kind in _SIZED else object.__sizeof__(obj))
    parts: Any = ()
    if kind is list or kind is tuple:
        parts = obj[:: -(-len(obj) // most)] if obj and most else ()
    else:
        parts = list(itertools.islice(obj.items() if kind is dict else obj, most))
    count = len(parts)
    if kind is dict:
        parts = [*itertools.chain.from_iterable(parts)]
    # Most parts of most items are numbers or text: an inherited map begins when this is done.
    kinds = set(map(type, parts))
    inside = (
        sum(map(sys.getsizeof, parts)) if kinds <= _SIZED else sum(_held(part, most // 4) for part in parts)
    )
    return sys.getsizeof(obj) + inside / max(count, 1) * len(obj)


def forking(processes: int) -> float:
    """Estimate the seconds of forking so many workers from this process, one after the other."""
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return processes * (BIRTH_SECONDS + resident * FORK_SECONDS_PER_BYTE)


def forks_may_fail() -> bool:
    """Whether the system refuses forks of processes that hold much memory."""
    try:
        with open("/proc/sys/vm/overcommit_memory") as mode:
            return mode.read().strip() == "2"
    except OSError:
        return True
