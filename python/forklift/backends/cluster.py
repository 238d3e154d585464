"""A cluster as its pool sees it: nodes, who sits where, what has been sent to whom. And what an engine has to offer."""

from __future__ import annotations

import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from forklift import _births, _native
from forklift.backends.agent import Hello, Reply, Request, Terms, Value, detached, python_version
from forklift.backends.left import Absent, Outline
from forklift.errors import ForkliftError

if TYPE_CHECKING:
    import weakref

__all__ = ["FUNCTION", "Cluster", "Engine", "Lost", "Node", "Remote"]

#: The keys of functions are their jobs' numbers, beside those of shared values.
FUNCTION = 1 << 62

#: A value below this size goes with the calls that need it; a larger one is stored once for all nodes.
STORED_BYTES_MIN = 64 << 10


class Node(NamedTuple):
    """A machine of the cluster, or what its engine takes for one."""

    key: str
    """The engine's name for it."""
    name: str
    """What people call it: host or address."""
    cores: int


class Lost(Exception):
    """A node cannot be reached any more; the text says why."""


class Remote:
    """The agent on a node, as the head reaches it. What an engine's kind of it inherits is bookkeeping."""

    def __init__(self, node: Node) -> None:
        self.node = node
        #: Keys of values that the agent has, for its answers say so.
        self.known: set[int] = set()
        #: Keys of values that it should drop when it is next called.
        self.stale: list[int] = []
        self.lost: str | None = None
        #: The pickled failure of the initializer, if it failed there.
        self.refusal: _native.Parcel | None = None
        #: What to call when it is lost: idle relays have to hear of it.
        self.bells: set[Callable[[], None]] = set()

    def lose(self, reason: str) -> None:
        """The agent or its node is no more."""
        self.lost = self.lost or reason
        for ring in tuple(self.bells):
            ring()

    def call(
        self,
        request: Request,
        parcel: _native.Parcel,
        needs: list[Value],
        done: Callable[[Callable[[], Reply | Outline]], None],
    ) -> None:
        """Begin a call. `done` is called once, in any thread, with what returns the reply or raises, `Lost` perhaps."""
        raise NotImplementedError

    def send(self, method: str, *arguments: Any) -> None:
        """Have the agent do something, and wait for nothing. One that is lost need not."""
        raise NotImplementedError

    def ask(self, method: str) -> Any:
        """Have the agent answer a question. Raises `Lost`."""
        raise NotImplementedError

    def end(self) -> None:
        """Stop the agent. Called once."""
        raise NotImplementedError


class Engine:
    """What carries parcels to nodes: Ray, Dask."""

    name: str
    #: Seconds that a call takes there and back, until it is learnt.
    message_cost: float
    #: Seconds that a byte takes to a node: of a network of 10 Gbit/s, or of a copy or two on one machine.
    seconds_per_byte: float = 1e-9
    #: Payload bytes that a chunk may have: enough that its way is not all overhead.
    chunk_bytes: int = 32 << 20

    def nodes(self) -> list[Node]:
        """Return the nodes that are there now. Raises `ForkliftError` if nobody can tell."""
        raise NotImplementedError

    def start(self, node: Node, processes: int, terms: Terms) -> tuple[Remote, Hello]:
        """Start an agent. Raises `Lost`."""
        raise NotImplementedError

    def store(self, parcel: _native.Parcel) -> Any:
        """Store a value once for all nodes; return what stands for it in calls."""
        raise NotImplementedError

    def lease(self, reply: Reply) -> _native.Lease | None:
        """Return what allows results to stay where they came to, if they can."""
        return None

    def hold_at_most(self, results_bytes: int) -> None:
        """Hear how many bytes of results the pool may hold here."""

    def explain(self, error: Exception) -> ForkliftError:
        """Return the failure of items that could not be carried."""
        return ForkliftError(f"{self.name} could not carry this item: {type(error).__name__}: {error}")

    def close(self) -> None:
        """Let go of the cluster, and stop it if it was started for this."""
        raise NotImplementedError


class _Post:
    """The place of an agent, which is started when the first of its workers is wanted."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.remote: Remote | None = None
        #: How many workers it was told to have.
        self.share = 0

    def is_lost(self) -> bool:
        return self.remote is not None and self.remote.lost is not None


class _Stored:
    """A value for several calls, in the engine's form once it was stored."""

    def __init__(self, key: int, one_object: bool) -> None:
        self.key = key
        self.one_object = one_object
        self.lock = threading.Lock()
        self.value: Value | None = None

    def is_large(self) -> bool:
        return self.value is not None and not isinstance(self.value.parcel, _native.Parcel)


class Limits(NamedTuple):
    """What holds for the items of a job."""

    retries: int
    task_timeout: float | None
    streamed: bool


class Cluster:
    """The nodes of one pool. Its methods are called by relays, each in a thread of its own."""

    def __init__(self, engine: Engine, processes: int | None, terms: tuple[int | None, int | None]) -> None:
        self.engine = engine
        self._lock = threading.Lock()
        self._nodes = {node.key: node for node in engine.nodes()}
        if not self._nodes:
            raise ForkliftError(f"{engine.name} has no node with a core for workers")
        self.cores = sum(node.cores for node in self._nodes.values())
        self.processes = processes or self.cores
        self._seats: list[Node] = []
        self._place(self.processes)
        self._posts: dict[str, _Post] = {}
        self._terms = terms
        self._endings: dict[int, _native.Ending] = {}
        self._limits: dict[int, Limits] = {}
        self.absent = Absent(engine.lease)
        #: By job; those of job 0 are everybody's.
        self._values: dict[int, dict[int, _Stored]] = {}
        self._tickets = itertools.count(1)
        self._closed = False
        self._creator = os.getpid()
        #: Modules that workers should be born with.
        self.modules: set[str] = set()

    def _place(self, processes: int) -> None:
        """Give each seat a node."""
        taken = Counter(node.key for node in self._seats)
        while len(self._seats) < processes:
            self._seats.append(self._roomiest(taken))

    def _roomiest(self, taken: Counter[str]) -> Node:
        """Return the node that has most cores for the seats it would have with one more, and count that."""
        node = min(self._nodes.values(), key=lambda node: (taken[node.key] + 1) / node.cores)
        taken[node.key] += 1
        return node

    def node(self, slot: int) -> Node:
        """Return where a seat is. One on a node that was lost goes to another."""
        with self._lock:
            if slot >= len(self._seats):
                self._place(slot + 1)
            node = self._seats[slot]
            post = self._posts.get(node.key)
            if node.key in self._nodes and (post is None or not post.is_lost()):
                return node
        living = {node.key: node for node in self.engine.nodes()}
        with self._lock:
            lost = {key for key, post in self._posts.items() if post.is_lost()}
            # A node whose agent died may be alive, and is better than none.
            self._nodes = {key: node for key, node in living.items() if key not in lost} or living
            if not self._nodes:
                raise Lost(f"no node of the {self.engine.name} cluster is left")
            self._seats[slot] = self._roomiest(Counter(other.key for other in self._seats))
            return self._seats[slot]

    def counters(self) -> list[dict[str, int]]:
        """Return what each agent's pool has counted."""
        return [remote.ask("counters") for remote in self._remotes()]

    def nodes(self) -> list[str]:
        """Return the names of the seats' nodes, by seat."""
        with self._lock:
            return [node.name for node in self._seats]

    def remote(self, slot: int, initializer: _native.Parcel | None, preparation: bytes) -> Remote:
        """Return the agent of a seat's node; start it if it is the first to be asked for. Raises `Lost`."""
        node = self.node(slot)
        with self._lock:
            post = self._posts.setdefault(node.key, _Post())
            share = sum(other.key == node.key for other in self._seats)
        with post.lock:
            if post.is_lost():
                post.remote = None
            if post.remote is None:
                post.share = share
                terms = Terms(preparation, initializer, *self._terms)
                try:
                    if self._closed:
                        raise Lost("the pool has ended")
                    post.remote, hello = self.engine.start(node, share, terms)
                except Lost:
                    with self._lock:
                        self._nodes.pop(node.key, None)
                    raise
                _check(hello, node)
                post.remote.refusal = hello.refusal
                if self._closed:  # Nobody else would stop it.
                    post.remote.end()
            elif post.share < share:  # Seats have come over from a node that was lost.
                post.share = share
                post.remote.send("resize", share)
            return post.remote

    def lose(self, remote: Remote, reason: str) -> None:
        """A node is no more."""
        remote.lose(reason)
        with self._lock:
            self._nodes.pop(remote.node.key, None)

    def resize(self, processes: int) -> None:
        """Change the number of seats. Nodes that have joined the cluster get some, too."""
        living = {node.key: node for node in self.engine.nodes()}
        with self._lock:
            self._nodes |= {key: node for key, node in living.items() if key not in self._posts}
            self.processes = processes
            del self._seats[processes:]
            self._place(processes)
            for key, post in self._posts.items():
                post.share = sum(node.key == key for node in self._seats)
            remotes = [(post.remote, post.share) for post in self._posts.values()]
        for remote, share in remotes:
            if remote is not None and share:
                remote.send("resize", share)

    # Calls and what they need -------------------------------------------------------------------------------

    def note(self, job: _native.Job, retries: int, task_timeout: float | None, streamed: bool) -> None:
        """A job begins. Those that are over are forgotten: of one that was cancelled no relay may be left to say so."""
        with self._lock:
            over = [number for number, ending in self._endings.items() if ending.has_come()]
            self._endings[job.id()] = job.ending()
            self._limits[job.id()] = Limits(retries, task_timeout, streamed)
        for number in over:
            self.forget(number)

    def limits(self, job: int) -> Limits:
        with self._lock:
            return self._limits.get(job, Limits(0, None, False))

    def ticket(self) -> int:
        """Return a name for a call."""
        return next(self._tickets)

    def keep(self, job: int, key: int, one_object: bool, parcel: _native.Parcel) -> None:
        """Keep a value for calls; the first relay that hears of it stores it, the others wait until it has."""
        with self._lock:
            stored = self._values.setdefault(job, {}).setdefault(key, _Stored(key, one_object))
        with stored.lock:
            if stored.value is None:
                large = parcel.nbytes >= STORED_BYTES_MIN
                form = self.engine.store(parcel) if large else detached(parcel)
                stored.value = Value(key, one_object, form)

    def needs(self, job: int, remote: Remote) -> list[Value]:
        """Return the values that a call of the job may need and the agent may not have."""
        with self._lock:
            kept = [*self._values.get(0, {}).values(), *self._values.get(job, {}).values()]
        return [
            stored.value for stored in kept if stored.value is not None and stored.key not in remote.known
        ]

    def arrived(self, job: int, remote: Remote, values: list[Value]) -> None:
        """An agent has these values. It drops those again that nobody needs any more, since the job was cancelled."""
        remote.known.update(value.key for value in values)
        with self._lock:
            kept = {*self._values.get(0, ()), *self._values.get(job, ())}
        late = [value.key for value in values if value.key not in kept]
        if late:
            remote.known.difference_update(late)
            remote.send("drop", late)

    def forget(self, job: int) -> None:
        """A job is over."""
        self.absent.forget(job)
        with self._lock:
            self._endings.pop(job, None)
            self._limits.pop(job, None)
            gone = list(self._values.pop(job, {}).values())
        self._drop(gone)

    def unshare(self, key: int) -> None:
        """A value that was everybody's is not needed any more."""
        with self._lock:
            known = self._values.get(0, {}).pop(key, None)
        self._drop([] if known is None else [known])

    def _drop(self, gone: list[_Stored]) -> None:
        """Have agents drop values: large ones now, small ones with the next call."""
        for remote in self._remotes() if gone else ():
            known = [stored for stored in gone if stored.key in remote.known]
            remote.known.difference_update(stored.key for stored in known)
            large = [stored.key for stored in known if stored.is_large()]
            if large:
                remote.send("drop", large)
            remote.stale.extend(stored.key for stored in known if not stored.is_large())

    def _remotes(self) -> list[Remote]:
        with self._lock:
            remotes = [post.remote for post in self._posts.values()]
        return [remote for remote in remotes if remote is not None and remote.lost is None]

    # Births and the end -------------------------------------------------------------------------------------

    def serve(
        self,
        native: _native.Pool,
        threads: weakref.WeakSet[threading.Thread],
        modules: set[str],
        results_bytes: int,
    ) -> None:
        """Have relays stand in for workers when the pool wants some: starts a thread.

        Workers are born with the modules, which may grow. `results_bytes` of results may be held here.
        """
        self.modules = modules
        self.engine.hold_at_most(results_bytes)
        self.absent.bytes_max = results_bytes // 2
        from forklift.backends.relay import serve

        _births.import_before_forks()
        thread = threading.Thread(
            target=serve, args=(self, native, threads), name="forklift-births", daemon=True
        )
        threads.add(thread)
        thread.start()

    def close(self) -> None:
        """Stop the agents, and let go of the cluster."""
        if os.getpid() != self._creator:
            return
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        self.absent.fetch_all()
        for remote in self._remotes():
            remote.end()
        self.engine.close()


def _check(hello: Hello, node: Node) -> None:
    """Refuse an agent that would not understand us."""
    if hello.version != _native.VERSION:
        raise Lost(
            f"node {node.name} has forklift {hello.version}, and this process has {_native.VERSION}: "
            "install the same version on both"
        )
    if hello.python != python_version():
        raise Lost(
            f"node {node.name} has {hello.python}, and this process runs {python_version()}: functions that "
            "travel by value need the same on both"
        )
