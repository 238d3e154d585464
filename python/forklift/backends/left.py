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
from typing import NamedTuple

from forklift import _native
from forklift.backends.agent import Reply
from forklift.errors import ForkliftError

__all__ = ["Absent", "Left", "Outline", "is_outlined", "outlined"]

# Smaller replies come at once: to ask for one costs more.
LEFT_BYTES_MIN = 1 << 20

# So many replies are on their way beyond the one that is being taken.
AHEAD = 2

# How often whoever waits for a reply looks whether it can still come, and how long it waits if its node is lost: the
# engine may have it elsewhere.
LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 20.0


class Outline(NamedTuple):
    """What has come of a reply that stays where it is."""

    reply: Reply
    """With sizes in the place of results."""
    begin: Callable[[], concurrent.futures.Future[Reply]]
    """Has the reply itself sent."""
    lost: Callable[[], str | None]
    """Why its node is no more."""


def outlined(reply: Reply) -> Reply:
    """Return the reply with sizes in the place of results; as it is, if it is small."""
    if sum(outcome.results.nbytes for outcome in reply.outcomes) < LEFT_BYTES_MIN:
        return reply
    return reply._replace(
        outcomes=[outcome._replace(results=outcome.results.nbytes) for outcome in reply.outcomes]
    )


def is_outlined(reply: Reply) -> bool:
    """Whether there are sizes in the place of results."""
    return any(isinstance(outcome.results, int) for outcome in reply.outcomes)


class Whole:
    """A reply that stays where it is until it is fetched."""

    def __init__(self, absent: Absent, job: int, first: int, outline: Outline) -> None:
        self._absent = absent
        self.job = job
        self.first = first
        self.nbytes = sum(outcome.results for outcome in outline.reply.outcomes)
        self._outline = outline
        self._lock = threading.Lock()
        self._coming: concurrent.futures.Future[Reply] | None = None
        self._found: tuple[Reply, _native.Lease | None] | None = None

    def begin(self) -> None:
        """Have it sent, and wait for nothing."""
        with self._lock:
            if self._coming is None:
                self._coming = self._outline.begin()

    def has_begun(self) -> bool:
        """Whether it was sent for."""
        return self._coming is not None

    def fetch(self) -> tuple[Reply, _native.Lease | None]:
        """Return the reply, and what of it may stay where it lies. Raises if it cannot be had any more."""
        self.begin()
        self._absent.look_ahead(self)
        with self._lock:
            if self._found is None:
                reply = self._wait()
                self._found = reply, self._absent.lease(reply)
            return self._found

    def _wait(self) -> Reply:
        assert self._coming is not None
        since: float | None = None
        while True:
            try:
                return self._coming.result(timeout=LOOK_SECONDS)
            except concurrent.futures.TimeoutError:
                reason = self._outline.lost()
                if reason is None:
                    continue
                since = since or time.monotonic()
                if time.monotonic() - since > PATIENCE_SECONDS:
                    self._coming.cancel()
                    raise ForkliftError(reason) from None


class Left:
    """What stands for the results of one outcome of a reply."""

    def __init__(self, whole: Whole, number: int, nbytes: int) -> None:
        self._whole = whole
        self._number = number
        self.nbytes = nbytes

    def fetch(self) -> tuple[_native.Parcel, _native.Lease | None]:
        """Return the results, pickled, and what of them may stay where it lies."""
        reply, lease = self._whole.fetch()
        return reply.outcomes[self._number].results, lease


class Absent:
    """The replies to a pool's calls that stay on the cluster."""

    def __init__(self, lease: Callable[[Reply], _native.Lease | None]) -> None:
        """`lease` says what of a reply may stay where it comes to."""
        self.lease = lease
        #: They are no more than this, and what is under way: what nobody has taken comes here when the pool ends.
        self.bytes_max = 0
        self._lock = threading.Lock()
        self._wholes: weakref.WeakSet[Whole] = weakref.WeakSet()
        #: Bytes of results per item, by job, as of the last reply.
        self._weights: dict[int, float] = {}

    def wholes(self) -> list[Whole]:
        """Return those that somebody may still want."""
        with self._lock:
            return list(self._wholes)

    def weigh(self, job: int, reply: Reply) -> None:
        """A reply has come, or what stands for it."""
        items = sum(outcome.items for outcome in reply.outcomes)
        if items:
            with self._lock:
                self._weights[job] = sum(outcome.results.nbytes for outcome in reply.outcomes) / items

    def may_grow(self, job: int, items: int) -> bool:
        """Say whether the reply to a call for so many items should stay, if it is large. That costs a message more, so
        only one that is likely to be large, as those of the job before it were."""
        with self._lock:
            likely = self._weights.get(job, 0.0) * items
        return likely >= LEFT_BYTES_MIN and likely + sum(w.nbytes for w in self.wholes()) <= self.bytes_max

    def forget(self, job: int) -> None:
        """No call of the job will follow."""
        with self._lock:
            self._weights.pop(job, None)

    def enter(self, job: int, first: int, outline: Outline) -> Reply:
        """The reply to a call for items of the job from `first` on has stayed. Return it with stand-ins for results."""
        whole = Whole(self, job, first, outline)
        with self._lock:
            self._wholes.add(whole)
        outcomes = [
            outcome._replace(results=Left(whole, number, outcome.results))
            for number, outcome in enumerate(outline.reply.outcomes)
        ]
        return outline.reply._replace(outcomes=outcomes)

    def look_ahead(self, taken: Whole) -> None:
        """Have those of the job sent that come next, in the order of their items."""
        others = [whole for whole in self.wholes() if whole.job == taken.job and whole.first > taken.first]
        for whole in sorted(others, key=lambda whole: whole.first)[:AHEAD]:
            with suppress(Exception):  # Whoever wants it is told.
                whole.begin()

    def fetch_all(self) -> None:
        """Have all that somebody may still want here: the cluster is about to be out of reach."""
        wholes = self.wholes()
        for deed in (Whole.begin, Whole.fetch):
            for whole in wholes:
                with suppress(Exception):  # As above.
                    deed(whole)
