"""Dask as the engine: an agent in each of its workers' processes, calls as tasks that are bound to it.

What a call has to carry is sent straight to its worker (`scatter`), out of band, and what it gives is fetched from
there: the scheduler only hears of it. Values for several calls are scattered to all workers once.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import os
import pickle
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from forklift import _native
from forklift.backends.agent import Agent, Hello, Reply, Request, Terms, Value, detached
from forklift.backends.cluster import Engine, Lost, Node, Remote
from forklift.backends.left import Outline, is_outlined, outlined
from forklift.errors import ForkliftError, MemoryLimitExceeded, bounded_text

try:
    import dask.sizeof
    import distributed
except ImportError as error:
    raise ImportError(
        "backend='dask' needs dask.distributed, which is not installed: pip install 'forklift[dask]'"
    ) from error

__all__ = ["DaskEngine"]

# How long a scheduler may take to answer a new client.
CONNECT_SECONDS = 10.0

# How long an agent may take to start: all threads of its worker may be taken by other tasks.
START_SECONDS = 60.0

# How long the scheduler may be out of reach before all is taken for lost.
SILENCE_SECONDS = 20.0

# How often it is asked which workers there are. Dask tells nobody that a worker is gone whom a task was bound to.
LOOK_SECONDS = 0.5

# An agent that hears nothing for so long ends: its head was killed, and Dask keeps what it left.
LEASE_SECONDS = 60.0

# What is smaller goes with the task, by way of the scheduler, which is one message less. It is a copy that goes: Dask
# keeps its latest messages.
SCATTERED_BYTES_MIN = 32 << 10

# Results stay in the memory that they came into, up to one part in so many of what results may hold; from there they
# cannot be moved to a disk.
RESULTS_PART = 2

# Less is copied sooner than looked at.
KEPT_BYTES_MIN = 64 << 10


@dask.sizeof.sizeof.register(_native.Parcel)  # type: ignore[untyped-decorator, unused-ignore]
def _parcel_bytes(parcel: _native.Parcel) -> int:
    return parcel.nbytes


class DaskEngine(Engine):
    """A cluster of Dask: the user's client, one for an address, or a cluster of its own on this machine."""

    name = "Dask"
    message_cost = 10e-3

    def __init__(self, backend: Any) -> None:
        self._cluster: Any = None
        self._owned = True
        try:
            self._client = self._connect(backend)
        except ForkliftError:
            raise
        except Exception as error:
            place = backend if backend != "dask" else "a cluster of its own on this machine"
            text = bounded_text(str(error))
            raise ForkliftError(f"Dask cannot reach {place}: {type(error).__name__}: {text}") from error
        self._pool = f"forklift-{uuid.uuid4().hex}"
        self._names = itertools.count(1)
        self._remotes: dict[str, DaskRemote] = {}
        self._closing = threading.Event()
        #: Whether workers can be reached from here without the scheduler.
        self.direct = True
        self._watcher: threading.Thread | None = None
        self._room: _native.Room | None = None

    def _connect(self, backend: Any) -> Any:
        if not isinstance(backend, str):
            if getattr(backend, "asynchronous", False):
                raise ForkliftError("backend needs a Client that is not asynchronous")
            self._owned = False
            return backend
        if backend == "dask":
            try:
                client = distributed.get_client()
                if not client.asynchronous:
                    self._owned = False
                    return client
            except ValueError:
                pass  # There is none.
            # Within this process: it only carries parcels, and processes of its own would need a guarded script.
            self._cluster = distributed.LocalCluster(
                n_workers=1,
                threads_per_worker=_native.cores(),
                processes=False,
                protocol="inproc://",
                # Nobody beyond this machine has any business here; by default a worker's pages are for everybody.
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
            )
            backend = self._cluster
        return distributed.Client(
            backend, set_as_default=False, direct_to_workers=True, timeout=CONNECT_SECONDS
        )

    def nodes(self) -> list[Node]:
        try:
            workers: dict[str, int] = self._client.sync(self._client.scheduler.ncores)
        except Exception as error:
            raise ForkliftError(f"Dask cannot tell its workers: {type(error).__name__}: {error}") from error
        return [Node(address, address, threads) for address, threads in workers.items() if threads > 0]

    def name_call(self) -> str:
        return f"{self._pool}-{next(self._names)}"

    def start(self, node: Node, processes: int, terms: Terms) -> tuple[Remote, Hello]:
        future = self._client.submit(
            _start,
            self._pool,
            node.name,
            processes,
            pickle.dumps(terms, 5),
            workers=[node.key],
            key=self.name_call(),
            pure=False,
        )
        try:
            hello = self._wait(future, node)
        except Lost:
            future.cancel()
            raise
        except Exception as error:
            raise Lost(_in_words(error, node)) from error
        remote = DaskRemote(node, self, self._client, self._pool)
        self._remotes[node.key] = remote
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="forklift-dask", daemon=True)
            self._watcher.start()
        return remote, hello

    def _wait(self, future: Any, node: Node) -> Hello:
        """Wait for an agent to start. Dask would wait for ever for a worker that is gone."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                hello: Hello = future.result(timeout=2 * LOOK_SECONDS)
            except TimeoutError:
                if node.key not in self._client.sync(self._client.scheduler.ncores):
                    raise Lost(f"node {node.name} was lost before it had an agent") from None
            else:
                return hello
        raise Lost(
            f"Dask has not started an agent on {node.name} within {START_SECONDS:.0f} s: its threads are taken"
        )

    def _watch(self) -> None:
        """Look which workers there are, and let agents know that they are wanted: a thread's target."""
        heard = told = time.monotonic()
        while not self._closing.wait(LOOK_SECONDS):
            try:
                living = self._client.sync(
                    self._client.scheduler.ncores, callback_timeout=SILENCE_SECONDS / 4
                )
                heard = time.monotonic()
                for key, remote in list(self._remotes.items()):
                    if key not in living:
                        del self._remotes[key]
                        remote.lose(
                            f"node {key} was lost: the scheduler of Dask has removed this worker, whose process or "
                            "machine is gone"
                        )
                if heard - told > LEASE_SECONDS / 4:
                    told = heard
                    self._client.run(
                        _touch, self._pool, workers=list(self._remotes), on_error="ignore", wait=False
                    )
            except BaseException as error:  # asyncio's cancellation is no Exception.
                if self._closing.is_set():
                    return
                closed = getattr(self._client, "status", "") == "closed"
                if closed or time.monotonic() - heard > SILENCE_SECONDS:
                    for remote in self._remotes.values():
                        remote.lose(
                            f"the scheduler of Dask cannot be reached: {type(error).__name__}: {error}"
                        )
                    return

    def store(self, parcel: _native.Parcel) -> Any:
        return self.scatter(parcel, None)

    def scatter(self, parcel: _native.Parcel, worker: str | None) -> Any:
        """Send a value to a worker, or to all; return its future."""
        where = {"broadcast": True} if worker is None else {"workers": [worker]}
        if self.direct:
            try:
                return self._client.scatter(parcel, direct=True, hash=False, **where)
            except (OSError, TimeoutError):
                if worker is not None and worker not in self._client.sync(self._client.scheduler.ncores):
                    raise
                # The scheduler reaches workers that we do not, behind a gateway or the like.
                self.direct = False
        return self._client.scatter(parcel, direct=False, hash=False, **where)

    def hold_at_most(self, results_bytes: int) -> None:
        self._room = _native.Room(results_bytes // RESULTS_PART)

    def lease(self, reply: Reply) -> _native.Lease | None:
        # Dask reads each large buffer into an array of its own, and hands it over.
        total = sum(outcome.results.nbytes for outcome in reply.outcomes)
        return None if self._room is None or total < KEPT_BYTES_MIN else self._room.lease(total)

    def explain(self, error: Exception) -> ForkliftError:
        if isinstance(error, MemoryError):
            return MemoryLimitExceeded(0, 0, f"a worker of Dask: {error}")
        return super().explain(error)

    def close(self) -> None:
        self._closing.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join(LOOK_SECONDS * 4)
        try:
            if self._remotes:
                self._client.run(_end, self._pool, workers=list(self._remotes), on_error="ignore")
        except Exception:
            pass  # Workers that are gone have no agents.
        self._remotes.clear()
        if self._owned:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()


class DaskRemote(Remote):
    """An agent in a worker's process."""

    def __init__(self, node: Node, engine: DaskEngine, client: Any, pool: str) -> None:
        super().__init__(node)
        self._engine = engine
        self._client = client
        self._pool = pool
        self._lock = threading.Lock()
        #: What waits for an answer, by the name of its task.
        self._waiting: dict[str, Callable[[Callable[[], Reply | Outline]], None]] = {}

    def call(
        self,
        request: Request,
        parcel: _native.Parcel,
        needs: list[Value],
        done: Callable[[Callable[[], Reply | Outline]], None],
    ) -> None:
        name = self._engine.name_call()
        with self._lock:
            if self.lost is not None:
                raise Lost(self.lost)
            self._waiting[name] = done
        try:
            sent = (
                detached(parcel)
                if parcel.nbytes < SCATTERED_BYTES_MIN
                else self._engine.scatter(parcel, self.node.key)
            )
            reply = self._client.submit(
                _call,
                self._pool,
                pickle.dumps(request, 5),
                [(value.key, value.one_object) for value in needs],
                sent,
                *[value.parcel for value in needs],
                workers=[self.node.key],
                key=name,
                pure=False,
                retries=0,
            )
            if request.apart:
                self._leave(name, reply)
            else:
                reply.add_done_callback(lambda future: self._settle(name, lambda: self._result(future)))
        except Exception as error:
            with self._lock:
                self._waiting.pop(name, None)
            raise Lost(_in_words(error, self.node)) from error

    def _leave(self, name: str, reply: Any) -> None:
        """Have only the outline of a reply sent, if it is large."""
        outline = self._client.submit(
            outlined, reply, workers=[self.node.key], key=self._engine.name_call(), pure=False, retries=0
        )

        def result(outline: Any) -> Reply | Outline:
            found = self._result(outline)
            return (
                Outline(found, lambda: self._fetch(reply), lambda: self.lost) if is_outlined(found) else found
            )

        outline.add_done_callback(lambda future: self._settle(name, lambda: result(future)))

    def _fetch(self, future: Any) -> concurrent.futures.Future[Reply]:
        return asyncio.run_coroutine_threadsafe(
            self._client.gather(future, direct=self._engine.direct, asynchronous=True),
            self._client.loop.asyncio_loop,
        )

    def _result(self, future: Any) -> Reply:
        # Of a worker that dies now Dask would have the task done again, and wait for ever: it is bound to that worker.
        fetch = self._fetch(future)
        while self.lost is None:
            try:
                reply: Reply = fetch.result(timeout=LOOK_SECONDS)
            except concurrent.futures.TimeoutError:
                continue
            except Exception as error:
                raise Lost(_in_words(error, self.node)) from error
            return reply
        fetch.cancel()
        raise Lost(self.lost)

    def _settle(self, name: str, result: Callable[[], Reply | Outline]) -> None:
        with self._lock:
            done = self._waiting.pop(name, None)
        if done is not None:
            done(result)

    def lose(self, reason: str) -> None:
        """The worker is gone."""

        def result() -> Reply:
            raise Lost(reason)

        with self._lock:
            super().lose(reason)
            waiting = list(self._waiting)
        for name in waiting:
            self._settle(name, result)

    def send(self, method: str, *arguments: Any) -> None:
        try:
            self._client.run(
                _do, self._pool, method, arguments, workers=[self.node.key], wait=False, on_error="ignore"
            )
        except Exception:
            return  # A worker that is lost shows in its calls.

    def ask(self, method: str) -> Any:
        try:
            return self._client.run(_do, self._pool, method, (), workers=[self.node.key])[self.node.key]
        except Exception as error:
            raise Lost(_in_words(error, self.node)) from error

    def end(self) -> None:
        return  # All of them are ended together.


# On the node ------------------------------------------------------------------------------------------------------


class _Lease:
    """An agent, for as long as somebody wants it."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.touched = time.monotonic()
        self.over = threading.Event()
        threading.Thread(target=self._keep, name="forklift-lease", daemon=True).start()

    def _keep(self) -> None:
        while not self.over.wait(LEASE_SECONDS / 4):
            if time.monotonic() - self.touched > LEASE_SECONDS:
                break
        self.agent.end()


#: The agents of this process, by pool.
_leases: dict[str, _Lease] = {}


def _start(pool: str, node: str, processes: int, terms: bytes) -> Hello:
    lease = _leases[pool] = _Lease(Agent(node, processes, pickle.loads(terms)))
    return lease.agent.hello()


def _call(
    pool: str, request: bytes, kept: list[tuple[int, bool]], parcel: _native.Parcel, *values: _native.Parcel
) -> Reply:
    lease = _leases[pool]
    lease.touched = time.monotonic()
    lease.agent.keep(
        [Value(key, one, value) for (key, one), value in zip(kept, values, strict=True)], lambda value: value
    )
    try:
        return lease.agent.run(pickle.loads(request), parcel)
    finally:
        lease.touched = time.monotonic()


async def _do(pool: str, method: str, arguments: tuple[Any, ...]) -> Any:
    lease = _leases.get(pool)
    return None if lease is None else getattr(lease.agent, method)(*arguments)


async def _touch(pool: str) -> None:
    if pool in _leases:
        _leases[pool].touched = time.monotonic()


def _end(pool: str) -> int:
    lease = _leases.pop(pool, None)
    if lease is not None:
        lease.over.set()
    return os.getpid()


def _in_words(error: Exception, node: Node) -> str:
    """Say what Dask says of a worker that is lost."""
    text = f"{type(error).__name__}: {bounded_text(str(error), 600)}"
    if isinstance(error, ImportError):
        return (
            f"an agent cannot start on node {node.name}: {text}; what it needs has to be installed there too"
        )
    return f"node {node.name} was lost, says Dask: {text}"
