"""Results that stay on the cluster until somebody wants them: those of iterators, whose consumers may be slow.

What has come of a call is one reply, which stays where it is as a whole; of it, only its size crosses. The pool passes
on what stands for its parts, and weighs it as the results that it stands for. Whoever takes one has the reply fetched,
and the next few on their way: then a consumer that is not slow waits for none.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress

from forklift import _native
from forklift.backends.agent import Reply
from forklift.errors import ForkliftError

__all__ = ["LEFT_BYTES_MIN", "Absent", "Left", "Whole", "is_outline", "outlined", "stood_for"]

# Smaller replies come at once: to ask for one costs more.
LEFT_BYTES_MIN = 1 << 20

# So many replies are on their way beyond the one that is being taken.
AHEAD = 2

# How often whoever waits for a reply looks whether it can still come, and how long it waits if its node is lost: the
# engine may have it elsewhere.
LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 20.0


def outlined(reply: Reply) -> Reply:
    """Return the reply with sizes in the place of results; as it is, if it is small."""
    if sum(outcome.results.nbytes for outcome in reply.outcomes) < LEFT_BYTES_MIN:
        return reply
    return reply._replace(
        outcomes=[outcome._replace(results=outcome.results.nbytes) for outcome in reply.outcomes]
    )


def is_outline(reply: Reply) -> bool:
    """Whether the reply itself has stayed where it is."""
    return any(isinstance(outcome.results, int) for outcome in reply.outcomes)


class Whole:
    """A reply that stays where it is."""

    def __init__(
        self,
        begin: Callable[[], concurrent.futures.Future[Reply]],
        lease: Callable[[Reply], _native.Lease | None],
        lost: Callable[[], str | None],
    ) -> None:
        """`begin` has it sent, `lease` says what of it may stay where it comes to, `lost` why its node is no more."""
        self._begin = begin
        self._lease = lease
        self._lost = lost
        self._lock = threading.Lock()
        self._coming: concurrent.futures.Future[Reply] | None = None
        self._found: tuple[Reply, _native.Lease | None] | None = None
        #: The job, and the index of the first item that it is the reply for.
        self.place = (0, 0)
        #: Told when it is fetched.
        self.taken: Callable[[int, int], None] = lambda job, first: None

    def begin(self) -> None:
        """Have it sent, and wait for nothing."""
        with self._lock:
            if self._coming is None:
                self._coming = self._begin()

    def fetch(self) -> tuple[Reply, _native.Lease | None]:
        """Return the reply, and what of it may stay where it lies. Raises if it cannot be had any more."""
        self.begin()
        self.taken(*self.place)
        with self._lock:
            if self._found is None:
                reply = self._wait()
                self._found = reply, self._lease(reply)
            return self._found

    def _wait(self) -> Reply:
        assert self._coming is not None
        since: float | None = None
        while True:
            try:
                return self._coming.result(timeout=LOOK_SECONDS)
            except concurrent.futures.TimeoutError:
                reason = self._lost()
                if reason is None:
                    continue
                since = since or time.monotonic()
                if time.monotonic() - since > PATIENCE_SECONDS:
                    self._coming.cancel()
                    raise ForkliftError(reason) from None


class Left:
    """What stands for the results of one outcome of a reply."""

    def __init__(self, whole: Whole, number: int, nbytes: int) -> None:
        self.whole = whole
        self._number = number
        self.nbytes = nbytes

    def fetch(self) -> tuple[_native.Parcel, _native.Lease | None]:
        """Return the results, pickled, and what of them may stay where it lies."""
        reply, lease = self.whole.fetch()
        return reply.outcomes[self._number].results, lease


def stood_for(outline: Reply, whole: Whole) -> Reply:
    """Return the reply with what stands for its results."""
    outcomes = [
        outcome._replace(results=Left(whole, number, outcome.results))
        for number, outcome in enumerate(outline.outcomes)
    ]
    return outline._replace(outcomes=outcomes)


class Absent:
    """The replies to a pool's calls that stay on the cluster."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wholes: weakref.WeakSet[Whole] = weakref.WeakSet()
        #: Bytes of results per item, by job, as of the last reply.
        self._weights: dict[int, float] = {}

    def weigh(self, job: int, reply: Reply) -> None:
        """A reply has come, or its outline."""
        items = sum(outcome.items for outcome in reply.outcomes)
        if items:
            total = sum(getattr(outcome.results, "nbytes", 0) for outcome in reply.outcomes)
            with self._lock:
                self._weights[job] = total / items

    def weight(self, job: int) -> float:
        """Return how many bytes the results of an item are likely to have; 0 while nobody knows."""
        with self._lock:
            return self._weights.get(job, 0.0)

    def forget(self, job: int) -> None:
        """No call of the job will follow."""
        with self._lock:
            self._weights.pop(job, None)

    def enter(self, job: int, first: int, whole: Whole) -> None:
        """A reply to a call for items of the job from `first` on is left where it is."""
        whole.place = (job, first)
        whole.taken = self._look_ahead
        with self._lock:
            self._wholes.add(whole)

    def _look_ahead(self, job: int, first: int) -> None:
        """Have those of the job sent that come next, in the order of their items."""
        with self._lock:
            others = [whole for whole in self._wholes if whole.place[0] == job and whole.place[1] > first]
        for whole in sorted(others, key=lambda whole: whole.place)[:AHEAD]:
            with suppress(Exception):  # Whoever wants it is told.
                whole.begin()

    def fetch_all(self) -> None:
        """Have all that somebody may still want here: the cluster is about to be out of reach."""
        with self._lock:
            wholes = list(self._wholes)
        for deed in (Whole.begin, Whole.fetch):
            for whole in wholes:
                with suppress(Exception):  # As above.
                    deed(whole)
