"""The desk of an executor: calls that were submitted, the futures that wait for them, and the thread between.

```text
  submit ─▶ waiting ─▶ begun: given to the pool, `BEGUN_PER_WORKER` a worker and one more ─▶ over
```
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures.process import BrokenProcessPool, _RemoteTraceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from forklift import _ends, _native
from forklift._calls import APPLY
from forklift._ends import TERMINATE
from forklift._outcome import undecodable_result
from forklift._pickling import freeze
from forklift.errors import (
    EncodeError,
    RemoteTraceback,
    TaskExit,
    TaskTimeout,
    WorkerDied,
    broken_worker_died,
)
from forklift.pool import RUN, Pool

if TYPE_CHECKING:
    from forklift._streams import Stream, Tap

__all__ = ["AFTER_SHUTDOWN", "Call", "Desk", "presented"]

# Calls that the pool has at one time, for each worker: one at work and one to follow. One more in all fills the gap
# while a result is on its way. What the pool has cannot be cancelled any more.
BEGUN_PER_WORKER = 2

# How often the end of an executor looks for maps that wait for an iterable which gives nothing.
LOOK_SECONDS = 0.2

AFTER_SHUTDOWN = "cannot schedule new futures after shutdown"
AFTER_EXIT = "cannot schedule new futures after interpreter shutdown"
NOT_OURS = "this executor belongs to the process that this one was forked from; make one here"

logger = logging.getLogger("concurrent.futures")


class Call:
    """A call that was submitted. What it was made of is let go of as soon as the pool has it."""

    __slots__ = ("args", "fn", "future", "job", "kwargs", "weight")

    def __init__(
        self, future: Future[Any], fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.future = future
        # It may wait here for a while, and globals count as they are now.
        self.fn: Callable[..., Any] | None = freeze(fn)
        self.args = args
        self.kwargs = kwargs
        self.job: _native.Job | None = None
        self.weight = 0

    def begin(self, pool: Pool) -> _native.Job:
        """Open its job, which nobody feeds yet."""
        assert self.fn is not None
        # Workers are born with the modules of the arguments' types.
        sample = (self.args,)
        job = pool._open(
            self.fn, APPLY, items=1, announce=True, apply=True, sample=sample, **pool._own_terms.limits()
        )
        self.job = job
        return job

    def submit(self) -> int:
        """Encode the arguments, and give them to the job; return what they weigh."""
        assert self.job is not None
        item = (self.args, self.kwargs or None)
        self.fn, self.args, self.kwargs = None, (), {}
        return self.job.submit_one(item)

    def is_over(self) -> bool:
        return self.job is not None and self.job.finished()

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Finish the future. Its callbacks run in this thread."""
        try:
            if error is None:
                self.future.set_result(value)
            else:
                self.future.set_exception(error)
        except InvalidStateError:
            pass  # The user has set it.
        except BaseException:  # Other than an Exception, which the future logs itself.
            with suppress(BaseException):  # A handler of the user's.
                logger.exception("exception calling callback for %r", self.future)


class Desk:
    """What an executor and its thread share. The thread settles futures, and hands over what waits; it keeps this, and
    with it the pool, until all is done, also if the executor was forgotten.

    | a call is | its future | where it is found |
    |---|---|---|
    | waiting | pending, or cancelled | `waiting` |
    | begun | running | with the thread that hands it over, then in `begun`, by the number of its job |
    | over | finished | nowhere |
    """

    def __init__(self, pool: Pool) -> None:
        assert pool._native is not None
        self.pool = pool
        self.native = pool._native
        self.broken: str | None = None
        self.cause: BaseException | None = None
        self.closing = False
        # Reentrant, since a collection may run the user's code anywhere, and that may submit.
        self.lock = threading.RLock()
        self.waiting: deque[Call] = deque()
        self.begun: dict[int, Call] = {}
        self.places = BEGUN_PER_WORKER * pool._processes + 1
        self.places_max = self.places
        self.bytes = 0
        self.bytes_max = pool._plan["memory_limit"] // 2
        self.streams: weakref.WeakSet[Stream[Any]] = weakref.WeakSet()
        self.taps: weakref.WeakSet[Tap] = weakref.WeakSet()
        # Not a daemon: the interpreter's exit waits for what was submitted, as in the standard library.
        self.thread = threading.Thread(target=self.run, name="forklift-executor", daemon=False)
        try:
            self.thread.start()
        except BaseException:
            pool.terminate()
            raise
        _desks.add(self)

    def is_ours(self) -> bool:
        return self.native.is_ours()

    def check(self) -> None:
        """Refuse calls that nobody would make."""
        if not self.native.is_ours():
            raise RuntimeError(NOT_OURS)
        if self.broken is not None:
            raise BrokenProcessPool(self.broken) from self.cause
        if _exiting:
            raise RuntimeError(AFTER_EXIT)
        if self.closing:
            raise RuntimeError(AFTER_SHUTDOWN)

    def accept(self, call: Call) -> None:
        if not self.native.is_ours():
            raise RuntimeError(NOT_OURS)  # Before the lock, which the other process may have held.
        with self.lock:
            self.check()
            self.waiting.append(call)
        self.hand_over()

    def hand_over(self) -> None:
        """Give the pool calls that wait, as far as it has room for them. Any thread may come here."""
        while True:
            with self.lock:
                room = self.places == self.places_max or (self.places > 0 and self.bytes < self.bytes_max)
                if not room or not self.waiting:
                    return
                call = self.waiting.popleft()
                self.places -= 1
            self.begin(call)

    def begin(self, call: Call) -> None:
        number = None
        try:
            if not call.future.set_running_or_notify_cancel():
                self.vacate(None)
                return
            number = call.begin(self.pool).id()
            self.begun[number] = call
            weight = call.submit()
        except BaseException as error:
            # The user's pickling raised, or Ctrl-C came.
            if call.job is not None:
                call.job.cancel()
            if self.vacate(number) is not None or number is None:
                call.settle(None, error if self.pool._state == RUN else self.fault(error))
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is not self.thread:
                raise
            return
        with self.lock:
            if number in self.begun:
                call.weight = weight
                self.bytes += weight
        if call.is_over():
            # It may have ended before it was written down, if the pool is broken.
            self.native.wake()

    def vacate(self, number: int | None) -> Call | None:
        """Take a call off the list, and free its place. None if somebody else did."""
        with self.lock:
            call = None if number is None else self.begun.pop(number, None)
            if call is not None:
                self.bytes -= call.weight
            if call is not None or number is None:
                self.places += 1
        return call

    def run(self) -> None:
        """Serve until the executor is shut down, or forgotten, and everything is done: the thread's target."""
        try:
            self.serve()
        except BaseException as error:
            # Nothing is known to lead here. Whoever waits shall not do so for ever.
            self.give_up(error)
            raise
        finally:
            _desks.discard(self)

    def serve(self) -> None:
        while not self.is_done():
            number = self.native.ended()
            if number is None:
                for ended in [n for n, call in list(self.begun.items()) if call.is_over()]:
                    self.settle(ended)
            else:
                self.settle(number)
            self.hand_over()
        self.pool.close()
        self.native.unbound()
        while not self.native.join(LOOK_SECONDS):
            for tap in list(self.taps):
                tap.end_if_stuck()
        _ends.end(self.native, self.pool._threads)

    def give_up(self, error: BaseException) -> None:
        broken = self.fault(error)
        self.pool.terminate()
        with self.lock:
            calls = [*self.begun.values(), *self.waiting]
            self.begun.clear()
            self.waiting.clear()
        for call in calls:
            call.settle(None, broken)

    def is_done(self) -> bool:
        with self.lock:
            return self.closing and not self.waiting and self.places == self.places_max

    def settle(self, number: int) -> None:
        """Finish the future of a call whose job is over."""
        call = self.vacate(number)
        if call is None or call.job is None:
            return
        value, error = None, None
        try:
            taken = call.job.take(None, 0)
        except Exception as fault:
            error = self.fault(fault)
        except BaseException as fault:
            # The result's own `__reduce__` called sys.exit(), say.
            error = undecodable_result(fault)
        else:
            if taken:
                _, values, failures, _ = taken
                value = values[0]
                error = alone(failures[0][1]) if failures else None
        call.settle(value, error)

    def fault(self, error: BaseException) -> BaseException:
        """Return what futures raise when not their call but the whole pool has failed."""
        if self.pool._state == TERMINATE:
            text = "the executor's workers were killed before this call was done"
        else:
            text = f"no worker can start: {type(error).__name__}: {error}"
            if self.broken is None:
                self.broken, self.cause = text, error
                logger.critical("the workers of %r cannot start", self.pool, exc_info=error)
            self.closing = True
        broken = BrokenProcessPool(text)
        broken.__cause__ = error
        return broken

    # The end -------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """The executor was forgotten. A collection may bring us here in the middle of anything: no lock is taken."""
        if self.native.is_ours():
            self.closing = True
            self.native.wake()

    def close(self, cancel_futures: bool) -> None:
        if not self.native.is_ours():
            return
        with self.lock:
            self.closing = True
            cancelled = list(self.waiting) if cancel_futures else []
            if cancel_futures:
                self.waiting.clear()
        for call in cancelled:
            if call.future.cancel():
                call.future.set_running_or_notify_cancel()  # Or whoever waits for it would go on waiting.
        for stream in list(self.streams):
            stream.close(cancel_futures)
        self.native.wake()

    def join(self) -> None:
        if self.native.is_ours() and self.thread is not threading.current_thread():
            self.thread.join()


# What went wrong --------------------------------------------------------------------------------------------------


def presented(error: BaseException) -> BaseException:
    """Return the exception of an item as programs that know `concurrent.futures` expect it."""
    cause: Any = error.__cause__
    if isinstance(error, TaskExit):
        error = error.original()
        error.__cause__ = cause
    if type(cause) is RemoteTraceback:
        error.__cause__ = _RemoteTraceback(cause.tb)
    elif type(error) is WorkerDied:
        return broken_worker_died(error)
    return error


def alone(error: BaseException) -> BaseException:
    """Return the exception of the only item of a job as that of a call: nobody counts items there."""
    try:
        return _uncounted(error)
    except BaseException:  # What the user's class makes of its attributes is no reason to fail here.
        return error


def _uncounted(error: BaseException) -> BaseException:
    if error.__cause__ is None:
        if type(error) is WorkerDied:
            error = WorkerDied(None, error.pid, error.exitcode, error.reason)
        elif isinstance(error, TaskTimeout):
            error = TaskTimeout(None, error.seconds)
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list) and "forklift: raised for item 0" in notes:
        notes.remove("forklift: raised for item 0")
    if isinstance(error, EncodeError):
        error.index = None
        for item, name in (("items[0][0]", "args"), ("items[0][1]", "kwargs")):
            if error.path.startswith(item):
                error.path = name + error.path.removeprefix(item)
        error.args = (error._text(),)
    return presented(error)


# The end of the process -------------------------------------------------------------------------------------------

_desks: weakref.WeakSet[Desk] = weakref.WeakSet()
_exiting = False


def _at_exit() -> None:
    """Wait for what was submitted, as the standard library does; after Ctrl-C, stop it."""
    global _exiting
    _exiting = True
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")
    desks = [desk for desk in _desks if desk.native.is_ours()]
    for desk in desks:
        desk.close(cancel_futures=interrupted)
        if interrupted:
            desk.pool.terminate()
    for desk in desks:
        desk.join()


# Before the interpreter waits for threads that are no daemons: `atexit` would come after that. The standard library's
# own executors are registered here.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
os.register_at_fork(after_in_child=_desks.clear)
