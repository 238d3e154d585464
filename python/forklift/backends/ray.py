"""Ray as the engine: an actor on each node, large values in its object store.

What a call has to carry goes as an argument: above 100 KB Ray puts it into its object store, where an agent reads it
without a copy. Values for several calls are put there once, and come to each node once. Arguments and results stay
there, mapped once more for whoever may write to them: see `plasma`.
"""

from __future__ import annotations

import _pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

from forklift import _native
from forklift.backends.agent import Agent, Hello, Reply, Request, Terms, Value
from forklift.backends.cluster import Engine, Lost, Node, Remote
from forklift.backends.left import Outline, is_outlined, outlined
from forklift.backends.plasma import Plasma
from forklift.errors import ForkliftError, MemoryLimitExceeded, bounded_text

try:
    import ray
except ImportError as error:
    raise ImportError(
        "backend='ray' needs Ray, which is not installed: pip install 'forklift[ray]'"
    ) from error

__all__ = ["RayEngine"]

# How long an agent may take to start: its node may have to start a process first, and cores may be taken.
START_SECONDS = 60.0

# How often an agent looks, if nothing is given back.
LET_GO_SECONDS = 10.0

# What an agent's calls may be at one time: two for each worker, and some that are no calls.
CALLS_PER_WORKER = 2
OTHER_CALLS = 8

# Up to so many bytes, what crosses is made bytes of here. Ray would pickle each part by itself, in Python, which takes
# a fifth of a call there and back.
PACKED_BYTES_MAX = 64 << 10


class RayEngine(Engine):
    """A running Ray, found by its own rules, or started on this machine and stopped with this process."""

    name = "Ray"
    message_cost = 4e-3
    # With half as much, what Ray itself takes for a call shows beside arrays of which little comes back.
    chunk_bytes = 64 << 20

    def __init__(self, backend: str) -> None:
        self._plasma = Plasma()
        address = backend if backend != "ray" else None
        if ray.is_initialized():
            from ray.util import client

            if address is not None and not client.ray.is_connected():
                raise ForkliftError(
                    f"this process is connected to a Ray already, and cannot be to {address} too: call "
                    "ray.shutdown() first, or say backend='ray' to use the one that it has"
                )
            return
        try:
            ray.init(address=address, configure_logging=False, log_to_driver=True)
        except Exception as error:
            place = address or "a cluster, or a Ray of its own on this machine"
            raise ForkliftError(
                f"Ray cannot reach {place}: {type(error).__name__}: {bounded_text(str(error))}"
            ) from error

    def nodes(self) -> list[Node]:
        try:
            known: list[dict[str, Any]] = ray.nodes()
        except Exception as error:
            raise ForkliftError(f"Ray cannot tell its nodes: {type(error).__name__}: {error}") from error
        living = [node for node in known if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        hosts = Counter(node["NodeManagerHostname"] for node in living)
        nodes = []
        for node in living:
            name, key = node["NodeManagerHostname"], node["NodeID"]
            if hosts[name] > 1:
                name += f"/{key[:6]}"
            nodes.append(Node(key, name, int(node["Resources"]["CPU"])))
        return nodes

    def start(self, node: Node, processes: int, terms: Terms) -> tuple[Remote, Hello]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = ray.remote(RayAgent).options(
            num_cpus=min(processes, node.cores),
            max_concurrency=CALLS_PER_WORKER * processes + OTHER_CALLS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.key, soft=False),
        )
        handle = actor.remote(node.name, processes, terms)
        try:
            hello = ray.get(handle.hello.remote(), timeout=START_SECONDS)
        except ray.exceptions.GetTimeoutError:
            ray.kill(handle)
            raise Lost(
                f"Ray has not started an agent on node {node.name} within {START_SECONDS:.0f} s: "
                f"the {min(processes, node.cores)} cores that it needs are taken, perhaps by another pool"
            ) from None
        except Exception as error:
            raise Lost(_in_words(error, node)) from error
        return RayRemote(node, handle), hello

    def store(self, parcel: _native.Parcel) -> Any:
        return [ray.put(parcel)]  # In a list, or it would be fetched before a call begins.

    def lease(self, reply: Reply) -> _native.Lease | None:
        return self._plasma.lease([outcome.results for outcome in reply.outcomes], keep=True)

    def explain(self, error: Exception) -> ForkliftError:
        if isinstance(error, (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError)):
            return MemoryLimitExceeded(0, 0, f"Ray's object store, which is full: {bounded_text(str(error))}")
        return super().explain(error)

    def close(self) -> None:
        # Ray stays: other code may use it, and starting it anew takes seconds. It ends with this process.
        return


class RayRemote(Remote):
    """An actor."""

    def __init__(self, node: Node, handle: Any) -> None:
        super().__init__(node)
        self._handle = handle
        self._ended = False
        # It answers when the agent is no more.
        handle.stay.remote().future().add_done_callback(self._left)

    def _left(self, future: Any) -> None:
        if not self._ended:
            error = future.exception()
            self.lose(
                f"node {self.node.name} has no agent any more"
                if error is None
                else _in_words(error, self.node)
            )

    def call(
        self,
        request: Request,
        parcel: _native.Parcel,
        needs: list[Value],
        done: Callable[[Callable[[], Reply | Outline]], None],
    ) -> None:
        #: What has a reply sent that stays where it is, and keeps it there. It is taken out, for Ray keeps what is
        #: called below for longer than it needs it.
        stays: list[Any] = []
        try:
            if request.apart:
                reference, whole = self._handle.call_apart.options(num_returns=2).remote(
                    request, parcel, needs
                )
                stays.append(whole.future)
                del whole
            elif all(map(_is_small, (parcel, *(value for _, _, value in needs)))):
                reference = self._handle.call_packed.remote(_pickle.dumps((request, parcel, needs), 5))
            else:
                reference = self._handle.call.remote(request, parcel, needs)
        except ray.exceptions.RayActorError as error:
            raise Lost(_in_words(error, self.node)) from error

        def settle(future: Any) -> None:
            def result() -> Reply | Outline:
                try:
                    answer = future.result()
                except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
                    raise Lost(_in_words(error, self.node)) from error
                reply: Reply = _pickle.loads(answer) if type(answer) is bytes else answer
                begin = stays.pop() if stays else None
                if begin is None or not is_outlined(reply):
                    return reply
                return Outline(reply, begin, lambda: self.lost)

            done(result)

        reference.future().add_done_callback(settle)

    def send(self, method: str, *arguments: Any) -> None:
        try:
            getattr(self._handle, method).remote(*arguments)
        except Exception:
            return  # A node that is lost shows in its calls.

    def ask(self, method: str) -> Any:
        try:
            return ray.get(getattr(self._handle, method).remote(), timeout=START_SECONDS)
        except Exception as error:
            raise Lost(_in_words(error, self.node)) from error

    def end(self) -> None:
        self._ended = True
        try:
            ray.kill(self._handle)
        except Exception:
            return  # It is gone, or Ray is.


class RayAgent(Agent):
    """An agent as an actor."""

    def __init__(self, node: str, processes: int, terms: Terms) -> None:
        self._plasma = Plasma()
        super().__init__(node, processes, terms)

    def lease(self, parcel: _native.Parcel) -> _native.Lease | None:
        return self._plasma.lease([parcel])

    def counters(self) -> dict[str, int]:
        return super().counters() | {"bytes_held_in_store": self._plasma.held_bytes()}

    def stay(self) -> None:
        """Return never: the engine tells who waits for it when the actor is dead.

        Meanwhile the engine is told what workers have given back of its store, for it has no room otherwise.
        """
        while True:
            _native.let_go(LET_GO_SECONDS)

    def call(self, request: Request, parcel: _native.Parcel, needs: list[Value]) -> Reply:
        """See `Agent.run`."""
        self.keep(needs, _read)
        return self.run(request, parcel)

    def call_packed(self, packed: bytes) -> Reply | bytes:
        """As `call`, with little to carry there, and perhaps back."""
        reply = self.call(*_pickle.loads(packed))
        small = all(_is_small(outcome.results) for outcome in reply.outcomes)
        return _pickle.dumps(reply, 5) if small else reply

    def call_apart(
        self, request: Request, parcel: _native.Parcel, needs: list[Value]
    ) -> tuple[Reply, Reply | None]:
        """As `call`, but a large reply is one object, and what crosses at once is its outline."""
        reply = self.call(request, parcel, needs)
        outline = outlined(reply)
        return outline, None if outline is reply else reply


def _is_small(value: Any) -> bool:
    return type(value) is _native.Parcel and not value.buffers and value.nbytes <= PACKED_BYTES_MAX


def _read(stored: Any) -> _native.Parcel:
    parcel: _native.Parcel = ray.get(stored[0]) if isinstance(stored, list) else stored
    return parcel


def _in_words(error: Exception, node: Node) -> str:
    """Say what Ray says of a node or actor that is lost."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        f"node {node.name} was lost, says Ray: {type(error).__name__}: {bounded_text(' '.join(lines), 600)}"
    )
