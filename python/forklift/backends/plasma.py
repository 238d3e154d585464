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

from forklift import _native

__all__ = ["Plasma"]

# Where Ray keeps the store, unless there is too little room: files elsewhere are on a disk.
SHARED_MEMORY = "/dev/shm/"

#: Of the store this part is held at most: what is held cannot be evicted, and calls need room in it.
HELD_PART = 4

# So many times it is looked for. Values can lie elsewhere at first: of a store that is full, on a disk.
ATTEMPTS = 8


#: By address, device and inode: pools of one process share what may be held of a store. One that no pool uses is let go
#: of, or its memory would outlive its Ray.
_stores: weakref.WeakValueDictionary[tuple[int, int, int], _native.Store] = weakref.WeakValueDictionary()
_lock = threading.Lock()


class Plasma:
    """The store of this node, once a value in it was seen."""

    def __init__(self) -> None:
        self._store: _native.Store | None = None
        self._attempts = 0

    def store(self, parcel: _native.Parcel) -> _native.Store | None:
        """Return the store from which this may be lent; None if there is none to be had."""
        if self._store is None and self._attempts < ATTEMPTS and (address := _native.place_of(parcel)):
            with _lock:
                if self._store is None and self._attempts < ATTEMPTS:
                    self._attempts += 1
                    self._store = _found(address)
        return self._store

    def held_bytes(self) -> int:
        """Return how much of the store is held by this."""
        return 0 if self._store is None else self._store.held_bytes


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
    with open("/proc/self/maps") as maps:
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
            with open(f"{folder}/comm") as comm:
                if comm.read().strip() != "raylet":
                    continue
            for name in os.listdir(f"{folder}/fd"):
                status = os.stat(f"{folder}/fd/{name}")
                if (status.st_dev, status.st_ino) == (device, inode):
                    # To read it is enough: what is written goes to pages of one's own.
                    return os.open(f"{folder}/fd/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # It has ended, or is not ours to look at.
    return None
