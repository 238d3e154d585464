"""A relay: the thread that stands in for a worker on another machine.

To the pool it is a worker like any other: it takes orders from a channel, and answers pieces in order. It passes the
pieces on to the node's agent as they come, two at a time at most, and answers when the first of them is done.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from forklift import _births, _native, _zygote
from forklift.backends.agent import Outcome, Reply, Request, Value, failures
from forklift.backends.cluster import FUNCTION, Cluster, Lost, Remote
from forklift.backends.left import Outline
from forklift.errors import ForkliftError

__all__ = ["serve"]

# What a call with `task_timeout` may take beyond the sum of its items' limits before its node is given up.
PATIENCE_SECONDS = 60.0


def serve(cluster: Cluster, native: _native.Pool, threads: weakref.WeakSet[threading.Thread]) -> None:
    """Have a relay begin whenever the pool wants a worker, until the pool is over: a thread's target."""
    while (order := native.fork_order(0.5)) is not False:
        if order is None:
            continue
        slot, _generation, channel, life = order
        os.close(life)  # It ends with the channel.
        try:
            relay = Relay(cluster, slot, channel)
        except (
            Exception
        ):  # No descriptor. The channel is closed with it, so the pool knows, and says so in the end.
            continue
        thread = threading.Thread(target=relay.run, name=f"forklift-relay-{slot}", daemon=True)
        try:
            thread.start()
        except Exception as error:  # No thread, either by a limit or at the interpreter's end.
            relay.refuse(str(error))
            continue
        threads.add(thread)  # The pool's end waits for those that it finds here.
    cluster.close()


class _Piece:
    """A call that was passed on."""

    __slots__ = (
        "answered",
        "begun",
        "chunk",
        "deadline",
        "job",
        "needs",
        "request",
        "result",
        "sent",
        "waited",
    )

    def __init__(self, job: int, chunk: int, request: Request, begun: int, waited: float) -> None:
        self.job = job
        self.chunk = chunk
        self.request = request
        self.answered = 0
        self.begun = begun
        self.waited = waited
        self.sent = time.monotonic()
        limit = request.task_timeout
        self.deadline = None if limit is None else self.sent + limit * request.items + PATIENCE_SECONDS
        #: Values that went along.
        self.needs: list[Value] = []
        #: What returns the reply, or raises, once it is there.
        self.result: Callable[[], Reply | Outline] | None = None


class Departed(Exception):
    """The worker elsewhere is no more, and the pool knows."""


class Relay:
    """Stands in for the worker in one seat."""

    def __init__(self, cluster: Cluster, slot: int, channel: int) -> None:
        self._cluster = cluster
        self._slot = slot
        self._end = _native.Relay(channel)
        self._remote: Remote | None = None
        self._pieces: deque[_Piece] = deque()
        #: When the last piece was answered.
        self._answered = 0.0

    def refuse(self, reason: str) -> None:
        """Let the pool know that there will be no worker here."""
        with suppress(Departed, EOFError):
            self._depart(None, reason)
        self._end.close()

    def run(self) -> None:
        """Serve until the pool has done with this worker, or its node is lost: a thread's target."""
        try:
            self._serve()
        except (EOFError, Departed):
            pass
        finally:
            if self._pieces and self._remote is not None and self._remote.lost is None:
                self._remote.send("cancel", [piece.request.ticket for piece in self._pieces])
            self._pieces.clear()
            if self._remote is not None:
                self._remote.bells.discard(self._end.ring)
            self._end.close()

    def _serve(self) -> None:
        while True:
            order = self._end.next()
            if order is not None:
                self._obey(*order)
            while self._pieces and self._pieces[0].result is not None:
                self._answer(self._pieces[0])
            if self._remote is not None and self._remote.lost is not None and not self._pieces:
                self._depart(None, self._remote.lost)
            self._look_at_time()

    def _obey(self, kind: str, *details: object) -> None:
        cluster = self._cluster
        if kind == "start":
            self._start(*details)  # type: ignore[arg-type]
        elif kind == "call":
            self._call(*details)  # type: ignore[arg-type]
        elif kind == "share":
            cluster.keep(*details)  # type: ignore[arg-type]
        elif kind == "unshare":
            cluster.unshare(*details)  # type: ignore[arg-type]
        elif kind == "forget":
            cluster.forget(*details)  # type: ignore[arg-type]
        elif kind == "stop":
            raise EOFError

    def _start(self, initializer: _native.Parcel | None) -> None:
        try:
            preparation = _zygote.preparation(sorted(self._cluster.modules))
            remote = self._cluster.remote(self._slot, initializer, preparation)
        except (Lost, ForkliftError) as error:
            self._depart(None, str(error))
        except Exception as error:
            self._depart(None, f"{self._cluster.engine.name}: {type(error).__name__}: {error}")
        if remote.refusal is not None:
            self._end.refuse(remote.refusal)
            raise EOFError
        self._remote = remote
        remote.bells.add(self._end.ring)
        self._end.ready()

    def _call(
        self,
        job: int,
        chunk: int,
        first: int,
        skip: int,
        items: int,
        retained: bool,
        function: _native.Parcel | None,
        parcel: _native.Parcel,
        begun: int,
        waited: float,
    ) -> None:
        cluster, remote = self._cluster, self._remote
        assert remote is not None
        retries, task_timeout, streamed = cluster.limits(job)
        request = Request(
            ticket=cluster.ticket(),
            function=FUNCTION | job,
            modules=_births.pickled_names(cluster.modules),
            first=first + skip,
            skip=skip,
            items=items,
            retained=retained,
            retries=retries,
            task_timeout=task_timeout,
            apart=streamed and cluster.absent.may_grow(job, items),
            stale=_taken(remote.stale),
        )
        if remote.lost is not None:
            self._depart(None, remote.lost)
        # While another piece is under way, nothing waits.
        piece = _Piece(job, chunk, request, begun, 0.0 if self._pieces else waited)
        self._pieces.append(piece)
        self._note()
        try:
            if function is not None:
                cluster.keep(job, FUNCTION | job, True, function)
            piece.needs = cluster.needs(job, remote)

            def done(result: Callable[[], Reply | Outline]) -> None:
                piece.result = result
                self._end.ring()

            def kept(result: Callable[[], Reply | Outline]) -> None:
                cluster.arrived(job, remote, piece.needs)
                done(result)

            remote.call(request, parcel, piece.needs, kept if piece.needs else done)
        except Lost as error:
            # It has not left: no item is blamed for it.
            cluster.lose(remote, str(error))
            self._depart(None, str(error))
        except Exception as error:
            # The engine could not take it: no room in its store, say. These items fail, and others need not.
            reply = _refused(cluster, error, request)
            piece.result = lambda: reply

    def _answer(self, piece: _Piece) -> None:
        assert piece.result is not None
        try:
            reply = piece.result()
        except Lost as error:
            assert self._remote is not None
            self._cluster.lose(self._remote, str(error))
            self._depart(piece, str(error))
        except Exception as error:
            assert self._remote is not None
            # The values may not have arrived either: they go along once more.
            self._remote.known.difference_update(value.key for value in piece.needs)
            reply = _refused(self._cluster, error, piece.request)
        lease = None
        if isinstance(reply, Outline):
            reply = self._cluster.absent.enter(piece.job, piece.request.first, reply)
        else:
            lease = self._cluster.engine.lease(reply)
        now = time.monotonic()
        crossing = max(0.0, now - max(piece.sent, self._answered) - reply.seconds)
        self._answered = now
        self._cluster.absent.weigh(piece.job, reply)
        for outcome in reply.outcomes:
            piece.answered += outcome.items
            self._end.answer(
                piece.chunk,
                outcome.items,
                outcome.failed,
                piece.answered == piece.request.items,
                outcome.results,
                outcome.seconds,
                piece.begun,
                piece.waited,
                crossing,
                lease,
            )
            piece.waited = crossing = 0.0  # Told once.
        if reply.fault is not None:
            self._depart(piece, reply.fault)
        if piece.answered < piece.request.items:
            if not reply.unreadable:
                self._depart(piece, "its agent has answered only a part of a call")
            self._end.give_back(piece.chunk)
        self._pieces.popleft()
        self._note()

    def _note(self) -> None:
        """Show onlookers the piece that has been under way for longest."""
        piece = self._pieces[0] if self._pieces else None
        self._end.note(None if piece is None else (piece.job, piece.request.first))

    def _look_at_time(self) -> None:
        """Give up a node that does not keep time limits: it is stopped, or out of reach."""
        piece = self._pieces[0] if self._pieces else None
        if piece is not None and piece.deadline is not None and time.monotonic() > piece.deadline:
            assert self._remote is not None
            reason = (
                f"node {self._remote.node.name} has not answered for {time.monotonic() - piece.sent:.0f} s"
            )
            self._cluster.lose(self._remote, reason)
            self._depart(piece, reason)

    def _depart(self, piece: _Piece | None, reason: str) -> None:
        """Tell the pool that this worker is no more. Of a piece that it had, the first open item is the one it was at:
        how far it had come, nobody knows."""
        at = None if piece is None else (piece.job, piece.request.first + piece.answered)
        self._end.depart(at, reason)
        raise Departed


def _taken(keys: list[int]) -> list[int]:
    """Empty a list that other relays may fill."""
    return [keys.pop() for _ in range(len(keys))]


def _refused(cluster: Cluster, error: Exception, request: Request) -> Reply:
    """Return the reply to a call that the engine did not carry: a failure for each item."""
    failure = cluster.engine.explain(error)
    results = failures(failure, request.items)
    return Reply([Outcome(request.items, request.items, results, (0.0, 0.0, 0.0))], False, 0.0, None)
