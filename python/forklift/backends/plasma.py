"""Ray's object store on this node, found in this process's memory so that it can be lent on without a copy.

Ray's own library maps the store's file, closes its descriptor, and offers no way to another mapping. But the raylet
of the node, which owns the store and belongs to the same user, has the file open for as long as it lives, and the
kernel shows a process's descriptors to its user. Where that is not so (another user's Ray, a process of another
container, a client server), nothing is found, and everything is copied.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import suppress

from forklift import _native

__all__ = ["Plasma"]

# Where Ray keeps the store, unless there is too little room: files elsewhere are on a disk.
SHARED_MEMORY = "/dev/shm/"

#: Of the store this part is held at most: what is held cannot be evicted, and calls need room in it.
HELD_PART = 4

# So many times it is looked for, in values of this size. Smaller ones Ray may have sent in a message; larger ones can
# lie elsewhere, too: on a disk, if the store is full.
ATTEMPTS = 16
SOUGHT_BYTES_MIN = 256 << 10


#: By address, device and inode: pools of one process share what may be held of a store. One that no pool uses is let go
#: of, or its memory would outlive its Ray.
_stores: weakref.WeakValueDictionary[tuple[int, int, int], _native.Store] = weakref.WeakValueDictionary()
#: Stores that are detached when Ray is shut down, or of which that cannot be promised.
_watched: weakref.WeakSet[_native.Store] = weakref.WeakSet()
_lock = threading.Lock()


class Plasma:
    """The store of this node, once a value in it was seen."""

    def __init__(self) -> None:
        self._store: _native.Store | None = None
        self._attempts = 0

    def lease(self, parcels: list[_native.Parcel], keep: bool = False) -> _native.Lease | None:
        """Return what allows these, which came together, to be lent where they lie; None if they have to be copied.

        `keep`: for values of this process itself, which may outlive its connection to Ray.
        """
        store = self._store or self._sought(parcels)
        if store is None:
            return None
        if keep and store not in _watched:
            with _lock:
                if store not in _watched:
                    _watched.add(store)
                    if _watch(store):
                        store.begin_to_keep()
        return store.lease(sum(parcel.nbytes for parcel in parcels))

    def _sought(self, parcels: list[_native.Parcel]) -> _native.Store | None:
        for parcel in parcels:
            address = 0 if self._attempts >= ATTEMPTS else _native.place_of(parcel, SOUGHT_BYTES_MIN)
            if address:
                with _lock:
                    if self._store is None and self._attempts < ATTEMPTS:
                        self._attempts += 1
                        self._store = _found(address)
        return self._store

    def held_bytes(self) -> int:
        """Return how much of the store is held by this."""
        return 0 if self._store is None else self._store.held_bytes


class _Farewell:
    """Ends when this process lets go of the store, by whatever way, and before it does."""

    def __init__(self, store: _native.Store) -> None:
        self._store = store

    def __del__(self) -> None:
        self._store.detach()


def _watch(store: _native.Store) -> bool:
    """Have the store detached when Ray is shut down; whether that can be promised.

    For a process that is no client any more the store keeps nothing, and gives its memory to others. Ray tells nobody
    beforehand; but it clears a table of its own, first of all.
    """
    import ray

    table = getattr(ray._private.worker.global_worker, "serialization_context_map", None)
    if not isinstance(table, dict):
        return False
    table["forklift"] = _Farewell(store)
    return True


def _found(address: int) -> _native.Store | None:
    """Return the store that has this address."""
    try:
        mapping = _mapping(address)
        if mapping is None:
            return None
        store = _stores.get(mapping)
        if store is None:
            start, device, inode = mapping
            descriptor = _descriptor(device, inode)
            if descriptor is None:
                return None
            limit = os.fstat(descriptor).st_size // HELD_PART
            store = _stores[mapping] = _native.Store(descriptor, start, limit)
        return store
    except (OSError, ValueError):
        return None


def _mapping(address: int) -> tuple[int, int, int] | None:
    """Return the start, the device and the inode of what is mapped there, if it is a whole file of shared memory."""
    with open("/proc/self/maps", errors="surrogateescape") as maps:
        for line in maps:
            span, flags, offset, device, inode, *path = line.split(maxsplit=5)
            start, end = (int(bound, 16) for bound in span.split("-"))
            if start <= address < end:
                shared = flags[3] == "s" and int(offset, 16) == 0
                if not shared or not path or not path[0].startswith(SHARED_MEMORY):
                    return None
                major, minor = (int(part, 16) for part in device.split(":"))
                return start, os.makedev(major, minor), int(inode)
    return None


def _descriptor(device: int, inode: int) -> int | None:
    """Return a descriptor of a file that a raylet of this user has open."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        folder = f"/proc/{process}"
        try:
            if os.stat(folder).st_uid != os.getuid():
                continue
            with open(f"{folder}/comm", errors="replace") as comm:
                if comm.read().strip() != "raylet":
                    continue
            names = os.listdir(f"{folder}/fd")
        except OSError:
            continue  # It has ended, or is not ours to look at.
        for name in names:
            with suppress(FileNotFoundError):  # A raylet closes others all the time.
                status = os.stat(f"{folder}/fd/{name}")
                if (status.st_dev, status.st_ino) == (device, inode):
                    # To read it is enough: what is written goes to pages of one's own.
                    return os.open(f"{folder}/fd/{name}", os.O_RDONLY | os.O_CLOEXEC)
    return None
