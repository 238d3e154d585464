"""Who works in a pool: what `Pool.workers` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from forklift import _native

if TYPE_CHECKING:
    from forklift.backends.cluster import Cluster

_RSS = {"RssAnon:": 0, "RssFile:": 1, "RssShmem:": 2}


class Worker(NamedTuple):
    """One worker of a pool, at the moment of the question."""

    slot: int
    """Its seat, from 0."""
    pid: int | None
    """None while it is being born."""
    state: str
    """"starting", "idle", "busy" or "leaving"."""
    tasks: int
    """Calls of functions that it has answered."""
    private_bytes: int
    """Resident memory that is its own."""
    shared_bytes: int
    """Resident memory that it has in common with others: payload, results, libraries."""
    node: str = ""
    """Of a worker on another machine, which: then its pid and its memory are not known here."""


def workers(native: _native.Pool, cluster: Cluster | None = None) -> list[Worker]:
    """Return the workers of a pool, by seat. Those that are leaving are listed beside their successors."""
    found = []
    nodes = [] if cluster is None else cluster.nodes()
    for slot, _generation, pid, state, tasks, _held in native.staff():
        private, file, shmem = (0, 0, 0) if pid is None else resident(pid)
        node = nodes[slot] if slot < len(nodes) else ""
        found.append(Worker(slot, pid, state, tasks, private, file + shmem, node))
    return found


def resident(pid: int) -> tuple[int, int, int]:
    """Return the bytes of resident memory of a process: anonymous, of files, shared. Zeros if it has gone."""
    sizes = [0, 0, 0]
    try:
        with open(f"/proc/{pid}/status", errors="replace") as status:
            for line in status:
                name, *rest = line.split()
                if name in _RSS:
                    sizes[_RSS[name]] = int(rest[0]) * 1024
    except OSError:
        pass
    return sizes[0], sizes[1], sizes[2]
