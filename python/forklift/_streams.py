"""Maps of an executor: the stream of results, and how it stops."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError
from multiprocessing.context import TimeoutError as WaitTimeout
from typing import Any, TypeVar

from forklift import _native
from forklift._desk import AFTER_SHUTDOWN, Desk, presented
from forklift._progress import Meter
from forklift.pool import Pool
from forklift.result import IMapIterator

T = TypeVar("T")

__all__ = ["Stream", "Tap", "results"]


class Over(Exception):
    """The end of a stream. Not StopIteration, which the user's function may raise."""


class Tap:
    """The iterables of a map with `buffersize`, as long as somebody wants what comes of them."""

    def __init__(self, items: Iterator[Any], job: _native.Job) -> None:
        self.items = items
        self.job = job
        self.closed = False
        self.exhausted = False

    def __iter__(self) -> Tap:
        return self

    def __next__(self) -> Any:
        if self.closed:
            raise StopIteration
        try:
            item = next(self.items)
        except BaseException:
            self.exhausted = True
            raise
        if self.closed:
            raise StopIteration
        return item

    def end_if_stuck(self) -> None:
        """End the job if only the iterable keeps it open, which may give nothing for ever."""
        if self.closed and not self.exhausted and self.job.answered() >= self.job.submitted():
            self.job.cancel()


class Stream(IMapIterator[T]):
    """The results of a `map`. It stops as executors do: what has begun goes on."""

    def __init__(
        self,
        desk: Desk,
        executor: object,
        length: int | None,
        pool: Pool,
        job: _native.Job,
        items: Iterator[Any],
        on_error: str,
        exact: bool,
        meter: Meter | None,
    ) -> None:
        self._desk = desk
        # A map that has yet to take items keeps its executor from being forgotten.
        self._executor = executor
        self._length = length
        self._cut: Exception | None = None
        self._tap: Tap | None = None
        # Selects the items, in C, until it is cleared.
        self._wanted = bytearray(b"\1") * (length or 0)
        if length is None:
            self._tap = items = Tap(items, job)
            desk.taps.add(self._tap)
        else:
            items = itertools.compress(items, self._wanted)
        super().__init__(pool, job, items, on_error, exact, meter)
        desk.streams.add(self)
        if desk.closing:  # Too early for this to have been seen there.
            self.close(False)

    def result(self, deadline: float | None) -> T:
        """Return the next result, or raise the failure of the next item; `Over` when there is none."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            value, error = self._outcome(left)
        except WaitTimeout:
            raise TimeoutError("the results of the map were not there in time") from None
        if error is not None:
            try:
                raise presented(error)
            finally:
                del error  # It refers to this frame.
        result: T = value
        return result

    def _refill(self, timeout: float | None) -> None:
        try:
            super()._refill(timeout)
        except WaitTimeout:
            raise
        except Exception as error:
            if error is self._supply.error:
                raise
            if not self._over and not self._stuck():
                raise self._desk.fault(error) from error
            self._over = True
            if self._cut is not None and not self._complete():
                raise self._cut from None
            raise Over from None

    def _stuck(self) -> bool:
        return self._tap is not None and self._tap.closed

    def _complete(self) -> bool:
        return self._tap.exhausted if self._tap is not None else self._next == self._length

    def close(self, cancel: bool) -> None:
        """The executor was shut down. A map that has all its items goes on, unless it is to be cancelled."""
        if self._tap is not None or cancel:
            if self._cut is None:
                self._cut = CancelledError() if cancel else RuntimeError(AFTER_SHUTDOWN)
            self._stop_taking()

    def drop(self) -> None:
        """Nobody wants what is left: no more items are taken, and the results of those that were are let go of."""
        if not self._over:
            self._stop_taking()
            self._job.abandon()
            if self._meter is not None:
                self._meter.close(False)

    def _stop_taking(self) -> None:
        self._wanted.clear()
        if self._tap is not None:
            self._tap.closed = True

    def __del__(self) -> None:
        if getattr(self, "_supply", None) is None:
            return
        if not self._begun and self._tap is None:
            self._job.abandon()
            if self._meter is not None:
                self._meter.close(False)
        else:
            self.drop()


def results(stream: Stream[T], deadline: float | None) -> Generator[T, None, None]:
    try:
        while True:
            yield stream.result(deadline)  # Not kept in a variable: the user may want its memory back.
    except Over:
        return
    finally:
        stream.drop()
