"""Results that are not there yet: `AsyncResult` and the iterators of `imap`."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from forklift import _feeding, _options, _progress

if TYPE_CHECKING:
    from forklift import _native
    from forklift.pool import Pool

T = TypeVar("T")

__all__ = ["ApplyResult", "AsyncResult", "IMapIterator", "IMapUnorderedIterator", "MapResult"]

# Callbacks of one process run one at a time, as with `multiprocessing`, whose users therefore need no locks in them.
_callbacks = threading.RLock()


def _start_anew() -> None:
    """In a fork of this process: another thread of it may have been in a callback."""
    global _callbacks
    _callbacks = threading.RLock()


os.register_at_fork(after_in_child=_start_anew)


def _start(thread: threading.Thread, pool: Pool, job: _native.Job) -> None:
    """Start a thread that feeds a job. Without it the job would never end."""
    pool._threads.add(thread)
    try:
        thread.start()
    except BaseException:
        pool._threads.discard(thread)
        job.cancel()
        raise


def _report(where: str) -> None:
    """Print the exception in flight, which nobody is there to catch. Whatever that brings about, the thread goes on."""
    kind, error, traceback = sys.exc_info()
    if kind is None or error is None:
        return
    try:
        if sys.stderr is not None:
            print(f"forklift: exception in {where}", file=sys.stderr)
        if isinstance(error, SystemExit):  # The hook says nothing of it.
            sys.excepthook(kind, error, traceback)
        else:
            threading.excepthook(
                threading.ExceptHookArgs((kind, error, traceback, threading.current_thread()))
            )
    except BaseException:  # The user's hook, or a standard error that is closed.
        return


class AsyncResult(Generic[T]):
    """The result of `apply_async`, `map_async` or `starmap_async`.

    As `multiprocessing.pool.AsyncResult`: `get`, `wait`, `ready`, `successful`. It differs in that it never waits for
    ever: when the pool is terminated, `get` raises `ForkliftError`.
    """

    def __init__(
        self,
        pool: Pool,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        self._pool: Pool | None = pool
        self._callback = callback
        self._error_callback = error_callback
        self._value: Any = None
        self._error: BaseException | None = None
        # Held while it is said what became of the call, which is not changed afterwards.
        self._lock = threading.Lock()
        self._settled = False
        self._cancelled = False

    def ready(self) -> bool:
        """Whether the call is done, well or not."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call is done, or `timeout` seconds."""
        raise NotImplementedError

    def successful(self) -> bool:
        """Whether the call is done without an exception. Raises `ValueError` if it is not done."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        self._settle()
        return self._error is None

    def get(self, timeout: float | None = None) -> T:
        """Return the result when it is there, or raise the exception of the function.

        `timeout` in seconds; when it passes, `multiprocessing.TimeoutError` is raised and the call goes on.
        """
        timeout = _options.patience(timeout)
        self.wait(timeout)
        if not self.ready():
            from multiprocessing import TimeoutError

            raise TimeoutError
        self._settle()
        if self._error is not None:
            raise self._error
        result: T = self._value
        return result

    def cancel(self) -> bool:
        """Stop the call: what has not begun is dropped, and workers that run some of it are replaced.

        Whether there was anything to stop. `get` then raises `CancelledError`, which is also
        `concurrent.futures.CancelledError`; results that were there already are dropped. Not in `multiprocessing`.
        """
        with self._lock:
            if self._settled or self.ready():
                return False
            self._cancelled = True  # Also if results come before the pool hears of it.
        self._give_up()
        return True

    def _close(self) -> None:
        """Value or error are there, with the lock held."""
        if self._cancelled:
            from forklift._outcome import cancelled

            self._value, self._error = None, cancelled()
        self._settled = True

    def _settle(self) -> None:
        """Make value or error of what has come. Called when ready."""

    def _give_up(self) -> None:
        """Stop the call, if it is not done."""

    def _call_back(self) -> None:
        self._settle()
        self._pool = None
        callback: Callable[[Any], object] | None
        callback, argument = self._callback, self._value
        if self._error is not None:
            callback, argument = self._error_callback, self._error
        if callback is not None:
            with _callbacks:
                try:
                    callback(argument)
                except BaseException:  # In a thread sys.exit() ends nothing, and others wait for it.
                    _report("a callback")


class ApplyResult(AsyncResult[T]):
    """The result of one call. Decoded by the thread that asks for it, so that it costs the others nothing."""

    def __init__(
        self,
        pool: Pool,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        super().__init__(pool, callback, error_callback)
        # None until the call has begun, and for good if it cannot: see `_apply.Line`.
        self._job: _native.Job | None = None
        self._waiting: Waiting | None = None
        # Set when the callback has run; without one there is nothing to wait for but the job.
        self._called_back = threading.Event() if callback or error_callback else None

    def ready(self) -> bool:
        """Whether the call is done, well or not, and its callback has run."""
        if self._called_back is not None:
            return self._called_back.is_set()
        job = self._job
        return self._settled if job is None else job.finished()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call is done, or `timeout` seconds."""
        timeout = _options.patience(timeout)
        if self._called_back is not None:
            if self._job is not None and not self._called_back.is_set():
                self._job.check_ours()  # No thread of a fork will set it.
            self._called_back.wait(timeout)
            return
        if self._waiting is not None:
            begun = time.monotonic()
            self._waiting.over.wait(timeout)
            timeout = None if timeout is None else max(0.0, timeout - (time.monotonic() - begun))
        if self._job is not None:
            self._job.wait(timeout)

    def _give_up(self) -> None:
        """Stop the call, if it is not done."""
        if self._waiting is not None:
            self._waiting.withdrawn = True
        job, pool = self._job, self._pool
        if job is not None:
            if not job.finished():
                job.cancel()
        elif pool is not None:
            pool._line.withdraw(pool, self)

    def _fail(self, error: BaseException) -> None:
        """The call does not begin, or cannot be sent, for this reason."""
        with self._lock:
            self._error, self._pool = error, None
            self._close()

    def _call_back(self) -> None:
        try:
            super()._call_back()
        finally:
            if self._called_back is not None:
                self._called_back.set()

    def _settle(self) -> None:
        with self._lock:
            if self._settled or self._job is None:
                return
            try:
                taken = self._job.take(None, 0)
                if taken:
                    _, values, failures, _ = taken
                    if failures:
                        self._error = failures[0][1]
                    else:
                        self._value = values[0]
            except BaseException as error:
                # It was taken, and will not come again.
                self._error = error
            self._close()
            self._pool = None


class Waiting:
    """What a call is made of for which there is no room yet."""

    __slots__ = ("func", "item", "over", "withdrawn")

    def __init__(self, func: Callable[..., Any], item: object) -> None:
        self.func: Callable[..., Any] | None = func
        self.item = item
        #: Nobody wants it any more.
        self.withdrawn = False
        #: Set when it has begun, or will not.
        self.over = threading.Event()


class MapResult(AsyncResult[list[T]]):
    """The result of many calls, fed and collected by a thread of its own."""

    def __init__(
        self,
        pool: Pool,
        job: _native.Job,
        items: Iterator[Any],
        finish: Callable[[list[Any], list[tuple[int, BaseException]]], list[Any]],
        meter: _progress.Meter | None,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        super().__init__(pool, callback, error_callback)
        self._job = job
        self._done = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(job, items, finish, meter), name="forklift-map", daemon=True
        )
        _start(thread, pool, job)

    def _run(
        self,
        job: _native.Job,
        items: Iterator[Any],
        finish: Callable[[list[Any], list[tuple[int, BaseException]]], list[Any]],
        meter: _progress.Meter | None,
    ) -> None:
        try:
            self._value = finish(*_progress.run(job, items, meter))
        except BaseException as error:
            self._error = error
        with self._lock:
            self._close()
        try:
            self._call_back()
        finally:
            self._done.set()

    def _give_up(self) -> None:
        self._job.cancel()

    def ready(self) -> bool:
        """Whether all calls are done, well or not."""
        return self._done.is_set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all calls are done, or `timeout` seconds."""
        timeout = _options.patience(timeout)
        if not self._done.is_set():
            self._job.check_ours()  # No thread of a fork will set it.
        self._done.wait(timeout)


class _Supply:
    """What the thread that feeds an iterator's job shares with the iterator, without keeping it alive."""

    def __init__(self, job: _native.Job) -> None:
        self.job = job
        self.error: BaseException | None = None

    def feed(self, items: Iterator[Any]) -> None:
        """Feed the job until it is finished. What the iterable raises is kept for the consumer, in its place."""
        try:
            _feeding.feed(self.job, items)
        except BaseException as error:
            self.error = error
            self.job.exhaust()
            _feeding.feed(self.job, iter(()))


class IMapIterator(Generic[T]):
    """The results of `imap`, in order, each as soon as it is there.

    An item that failed raises its exception in its turn, and the iteration goes on after it. Results that wait for the
    consumer are bounded in bytes, and in items by `buffersize`: the iterable is taken no further than that.

    An iterator that is dropped after its first result has been taken cancels what remains; one of which nothing was
    ever taken runs to its end, as with `multiprocessing` (`imap_unordered(...)` for its effects alone). Ctrl-C while
    one waits for a result cancels the call too; what is asked for after it raises `CancelledError`.
    """

    _ordered = True

    def __init__(
        self,
        pool: Pool,
        job: _native.Job,
        items: Iterable[Any],
        on_error: str,
        exact: bool,
        meter: _progress.Meter | None,
    ) -> None:
        self._pool: Pool | None = pool
        self._job = job
        self._on_error = on_error
        self._exact = exact
        self._meter = meter
        self._next = 0
        self._begun = False
        self._over = False
        # Outcomes of the answer in hand: (value, exception or None, bytes to report when it is taken).
        self._ready: deque[tuple[Any, BaseException | None, int]] = deque()
        self._lock = threading.Lock()
        self._supply = _Supply(job)
        thread = threading.Thread(
            target=self._supply.feed, args=(iter(items),), name="forklift-feed", daemon=True
        )
        _start(thread, pool, job)

    def __iter__(self) -> IMapIterator[T]:
        return self

    def next(self, timeout: float | None = None) -> T:
        """Return the next result; wait for it, at most `timeout` seconds, then raise `multiprocessing.TimeoutError`."""
        value, error = self._outcome(_options.patience(timeout))
        if error is not None:
            if self._on_error == "return":
                return error  # type: ignore[return-value]
            raise error
        result: T = value
        return result

    __next__ = next

    def _outcome(self, timeout: float | None) -> tuple[Any, BaseException | None]:
        """Return what became of the next item: its result, or its failure. What this raises is not the item's."""
        self._job.check_ours()  # A thread of the process that this one was forked from may have held the lock.
        with self._lock:
            if not self._ready:
                self._begun = True
                self._refill(timeout)
            value, error, weight = self._ready.popleft()
            if self._exact or not self._ready:
                self._job.consume(1 if self._exact else self._taken, weight)
            if self._meter is not None:
                self._meter(1)
        return value, error

    def _refill(self, timeout: float | None) -> None:
        if self._over:
            raise StopIteration
        try:
            taken = self._job.take(self._next if self._ordered else None, timeout)
        except KeyboardInterrupt:
            # Whoever shows the traceback (a notebook, a debugger) keeps the frames, and with them this iterator: its
            # end would not be that of the call, and the workers would be at it still when the next call comes.
            self._job.cancel()
            raise
        if taken is None:
            from multiprocessing import TimeoutError

            raise TimeoutError
        if not taken:
            self._over = True
            self._pool = None
            if self._meter is not None:
                self._meter.close(self._supply.error is None)
            if self._supply.error is not None:
                raise self._supply.error
            raise StopIteration
        first, values, failures, weight = taken
        errors = dict(failures)
        self._taken = len(values)
        self._next = first + self._taken
        for offset, value in enumerate(values):
            # The weight of an answer is reported with its last item.
            share = weight if offset == self._taken - 1 else 0
            self._ready.append((value, errors.get(first + offset), share))

    def __del__(self) -> None:
        if self._over:
            return
        if self._meter is not None:
            self._meter.close(False)
        if self._begun:
            self._job.cancel()
        else:
            self._job.abandon()


class IMapUnorderedIterator(IMapIterator[T]):
    """The results of `imap_unordered`, each as soon as it is there, in whatever order that is."""

    _ordered = False


def call_back_waiting(
    pool: weakref.ref[Pool], native: _native.Pool, waiting: dict[int, ApplyResult[Any]]
) -> None:
    """Call back when calls are done, until the pool is over and nothing waits: a thread's target."""
    while True:
        job = native.ended(0.5)
        if job is not None:
            result = waiting.pop(job, None)
            if result is not None:
                try:
                    result._call_back()
                except BaseException:
                    _report("the thread that calls back")
        elif native.is_over() or (pool() is None and not waiting):
            return
