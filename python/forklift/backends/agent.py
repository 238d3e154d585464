"""The agent: what runs on a node of a cluster, with a native pool of its own.

It passes on what comes without looking inside: a chunk arrives pickled, lies down in the node's shared memory, is read
by one of the node's workers, and their pickled results go back as they are. A call is one job of one chunk, so that it
can be cancelled by itself, and one function serves all of them, under a key.
"""

from __future__ import annotations

import _pickle
import os
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from forklift import _births, _budget, _native
from forklift._failure import pack_exception
from forklift._outcome import Failure
from forklift.errors import WorkerDied

__all__ = ["Agent", "Hello", "Outcome", "Reply", "Request", "Terms", "Value", "detached", "failures"]

# How long the other workers of a node may take to start when the first has. Later ones need not be waited for.
BIRTHS_SECONDS = 20.0

#: The variable by which a node's workers know its name.
NODE = "FORKLIFT_NODE"


class Terms(NamedTuple):
    """What an agent is started with."""

    preparation: bytes
    """What workers have to know of the user's process; see `_zygote.preparation`."""
    initializer: _native.Parcel | None
    maxtasksperchild: int | None
    worker_memory_limit: int | None


class Hello(NamedTuple):
    """What an agent says of itself."""

    version: str
    python: str
    pid: int
    refusal: _native.Parcel | None = None
    """The pickled failure of the initializer, if it failed."""


class Value(NamedTuple):
    """A value that several calls need."""

    key: int
    one_object: bool
    parcel: Any
    """The pickled value, or what the engine has in its place."""


class Request(NamedTuple):
    """A call: of the chunk's items, those after the first `skip` are to be done."""

    ticket: int
    function: int
    """The key of the function."""
    modules: bytes
    """Names of modules to import before workers are born, pickled."""
    first: int
    """The index of the first item that is to be done."""
    skip: int
    items: int
    retained: bool
    retries: int
    task_timeout: float | None
    apart: bool
    """Whether the reply, if it is large, is to stay on the cluster."""
    stale: list[int]
    """Keys of values that are not needed any more."""


class Outcome(NamedTuple):
    """What became of some items."""

    items: int
    failed: int
    results: Any
    """A pickled list, a parcel. Of a reply that stays on the cluster: the bytes of one, or what stands for it."""
    seconds: tuple[float, float, float]
    """Of decoding, calling, encoding."""


class Reply(NamedTuple):
    """The answer to a call."""

    outcomes: list[Outcome]
    """In the order of items. Fewer than were asked for if `unreadable`."""
    unreadable: bool
    """The rest has to come in another form: its items cannot be decoded together."""
    seconds: float
    """From the call's arrival to this."""
    fault: str | None
    """Why this node can do nothing more."""


def failures(error: BaseException, count: int) -> _native.Parcel:
    """Return pickled results in which this stands for each item."""
    return _native.Parcel(_pickle.dumps([Failure(pack_exception(error))] * count, 5), [])


def detached(parcel: _native.Parcel) -> _native.Parcel:
    """Return a copy in ordinary memory, for an engine that may keep it for longer than it needs to."""
    return _native.Parcel(bytes(parcel.stream), [bytearray(buffer) for buffer in parcel.buffers])


class Agent:
    """A node's pool. Its methods are called by the engine, from several threads at a time."""

    def __init__(self, node: str, processes: int, terms: Terms) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._jobs: dict[int, _native.Job] = {}
        #: The last calls that were cancelled while they were not here. Most had ended; some have yet to come.
        self._cancelled: deque[int] = deque(maxlen=1000)
        self._known: set[int] = set()
        self._modules = b""
        self._refusal: _native.Parcel | None = None
        environment = [*_births.environment(processes), (NODE, node)]
        self._native = _native.Pool(
            processes=processes,
            origin="zygote",
            command=_births.command("zygote"),
            environment=environment,
            preparation=_prepared(terms.preparation),
            initializer=terms.initializer,
            maxtasksperchild=terms.maxtasksperchild,
            worker_memory_limit=terms.worker_memory_limit,
            **_budget.shares(processes, None, None),
        )
        if terms.initializer is not None:
            self._try(processes)

    def _try(self, processes: int) -> None:
        """Have all workers born: the initializer runs in each, also if nothing ever comes; or it fails."""
        job = self._native.open((os.getpid, 2), items=1, apply=True)
        job.submit_one(((), None))
        try:
            job.take()
        except Exception as error:
            self._refusal = _native.Parcel(_pickle.dumps(Failure(pack_exception(error)), 5), [])
            return
        deadline = time.monotonic() + BIRTHS_SECONDS
        while time.monotonic() < deadline:
            states = [state for _, _, _, state, _, _ in self._native.staff()]
            if len(states) >= processes and "starting" not in states:
                return
            time.sleep(0.005)

    def lease(self, parcel: _native.Parcel) -> _native.Lease | None:
        """Return what allows a parcel to be lent to workers from the engine's store, if it lies in one."""
        return None

    def hello(self) -> Hello:
        """Return what the head looks at before it sends any call."""
        return Hello(_native.VERSION, python_version(), os.getpid(), self._refusal)

    def counters(self) -> dict[str, int]:
        """Return what this node's pool has counted: births, bytes by the way they took."""
        return self._native.counters()

    def values(self) -> int:
        """Return how many values are kept for calls to come."""
        return len(self._known)

    def keep(self, values: Iterable[Value], read: Callable[[Any], _native.Parcel]) -> None:
        """Keep values for calls to come. `read` makes a parcel of what the engine has in its place."""
        for key, one_object, parcel in values:
            with self._lock:
                if key not in self._known:
                    value = read(parcel)
                    self._native.share(value, one_object, key, self.lease(value))
                    self._known.add(key)

    def drop(self, keys: Iterable[int]) -> None:
        """Drop values that no call needs any more."""
        with self._lock:
            for key in keys:
                if key in self._known:
                    self._known.discard(key)
                    self._native.unshare(key)

    def run(self, request: Request, parcel: _native.Parcel) -> Reply:
        """Do a call."""
        begun = time.monotonic()
        self.drop(request.stale)
        outcomes: dict[int, Outcome] = {}
        unreadable, fault = False, None
        try:
            if request.modules != self._modules:
                self._modules = request.modules
                self._native.preload(request.modules)
            job = self._native.open(
                _native.Reference(request.function),
                items=request.items,
                chunksize=request.items,
                retries=request.retries,
                task_timeout=request.task_timeout,
                sharing=False,
            )
            self._enter(request.ticket, job)
            try:
                retained = request.retained and request.items > 1
                lease = self.lease(parcel)
                job.submit_parcel(parcel, request.first, request.items, request.skip, retained, lease)
                del lease  # Or all would be held as long as a part is kept by this alone.
                while taken := job.take_parcel(parcel):
                    first, items, failed, outcome, seconds = taken
                    if isinstance(outcome, BaseException):
                        outcome = failures(self._located(outcome), items)
                    outcomes[first] = Outcome(items, failed, outcome, seconds)
                unreadable = taken is False
            finally:
                self._leave(request.ticket, job)
        except Exception as error:
            fault = f"the workers on node {self._node} have failed: {type(error).__name__}: {error}"
        ordered = [outcomes[first] for first in sorted(outcomes)]
        return Reply(ordered, unreadable, time.monotonic() - begun, fault)

    def _located(self, error: BaseException) -> BaseException:
        """Say where a worker died."""
        if type(error) is WorkerDied:
            return WorkerDied(
                error.index, error.pid, error.exitcode, f"{error.reason} (on node {self._node})"
            )
        return error

    def _enter(self, ticket: int, job: _native.Job) -> None:
        with self._lock:
            self._jobs[ticket] = job
            cancelled = ticket in self._cancelled
        if cancelled:
            job.cancel()

    def _leave(self, ticket: int, job: _native.Job) -> None:
        with self._lock:
            self._jobs.pop(ticket, None)
        if not job.finished():
            job.cancel()

    def cancel(self, tickets: Iterable[int]) -> None:
        """Stop calls: workers that are at them are replaced. One that has not arrived is not begun."""
        for ticket in tickets:
            with self._lock:
                job = self._jobs.get(ticket)
                if job is None:
                    self._cancelled.append(ticket)
            if job is not None:
                job.cancel()

    def resize(self, processes: int) -> None:
        """Change the number of workers."""
        self._native.resize(processes)

    def end(self) -> None:
        """Kill the workers. What is under way fails."""
        self._native.terminate()
        self._native.join(5.0)


def python_version() -> str:
    """Return what has to be the same on both sides, since code crosses."""
    return f"{platform.python_implementation()} {sys.version_info.major}.{sys.version_info.minor}"


def _prepared(preparation: bytes) -> bytes:
    """Make of what the head's workers would have to know what this node's have to.

    Folders of the head's that exist here too (the same machine, a shared file system) are looked through for modules
    after this node's own.
    """
    facts = _pickle.loads(preparation)
    own = [path for path in sys.path if path]
    facts["path"] = own + [path for path in facts["path"] if path not in own and os.path.isdir(path)]
    facts["pid"] = os.getpid()
    if facts["cwd"] is None or not os.path.isdir(facts["cwd"]):
        facts["cwd"] = os.getcwd()
    facts["pycache_prefix"] = sys.pycache_prefix
    return _pickle.dumps(facts, 5)
