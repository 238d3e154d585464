"""Workers on other machines, by the means of an engine that runs there already: Ray or Dask.

```text
 Pool ── native pool: the same feed, scheduler and supervisor as at home (chunks, windows, retries, deaths)
   │        a channel for each worker
 Relay   a thread that stands in for a worker elsewhere: passes on what comes, unopened     cluster.py, relay.py
   │        the engine's own means: object store, scatter, actors, tasks                    ray.py, dask.py
 Agent   one on each node, with a native pool of its own: its workers call the function     agent.py
```

So a node is a machine as at home: workers come from its own zygote, arguments lie in its shared memory and can be
written to, what is shared lies there once, and a death, a time-out or a leak costs what it costs at home. What the
engine does is what it is for: it finds the nodes, starts one agent on each, carries bytes, and says when one is lost.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from forklift.backends.cluster import Cluster, Engine

__all__ = ["LOCAL", "RELAYS", "check", "connect", "costs"]

LOCAL = "local"

#: The start method of workers elsewhere.
RELAYS = "relays"

_CHOICES = (
    "backend must be 'local', 'ray' or 'ray://host:port', 'dask', 'tcp://host:port' or 'tls://host:port', or a "
    "dask.distributed Client"
)


def check(backend: Any) -> str:
    """Return which engine a backend means: "local", "ray" or "dask"."""
    if isinstance(backend, str):
        scheme, mark, address = backend.partition("://")
        if not mark and backend in (LOCAL, "ray", "dask"):
            return backend
        if mark and address and scheme == "ray":
            return "ray"
        if mark and address and scheme in ("tcp", "tls", "ucx", "ws", "wss"):
            return "dask"
        raise ValueError(f"{_CHOICES}, not {backend!r}")
    if type(backend).__module__.partition(".")[0] == "distributed" and hasattr(backend, "scheduler_info"):
        return "dask"
    raise TypeError(f"{_CHOICES}, not {type(backend).__name__}")


def connect(
    backend: Any, processes: int | None, maxtasksperchild: int | None, worker_memory_limit: int | None
) -> Cluster:
    """Connect to a cluster, for as many workers, or as many as it has cores.

    Raises:
        ImportError: if it is not installed, with the command that does it.
        ForkliftError: if it cannot be reached.
    """
    from forklift.backends.cluster import Cluster

    return Cluster(_engine(backend), processes, (maxtasksperchild, worker_memory_limit))


def _engine(backend: Any) -> Engine:
    if check(backend) == "ray":
        from forklift.backends.ray import RayEngine

        return RayEngine(backend)
    from forklift.backends.dask import DaskEngine

    return DaskEngine(backend)


def costs(cluster: Cluster | None) -> dict[str, Any]:
    """Return what the scheduler has to know of the way to the workers."""
    if cluster is None:
        return {}
    engine = cluster.engine
    return {
        "message_cost": engine.message_cost,
        "seconds_per_byte": engine.seconds_per_byte,
        "chunk_bytes": engine.chunk_bytes,
    }
