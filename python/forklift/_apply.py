"""Calls of one function: `apply_async` begins them at once, or has them wait as they are while there is no room.

What is encoded and not done is bounded in bytes, as for maps: by the pool's window, for all calls of `apply` together.
While they hold as much, further calls stand in line by reference, and a thread of the pool encodes them in order as
others end. So `apply_async` never waits. A map is told by the driver when to encode; to ask it would cost each call,
which mostly finds room, the way to the driver and back.

```text
  apply_async ─▶ there is room, and nobody in line ─▶ begun: encoded, and given to its job
             └─▶ in line ─▶ forklift-apply: there is room ─▶ begun
                        ├─▶ cancelled                     ─▶ failed
                        └─▶ terminated, or not to be sent ─▶ failed
```
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from forklift import _native, _outcome
from forklift._calls import APPLY, begin, collect, note
from forklift._ends import TERMINATE
from forklift.result import ApplyResult, Waiting

if TYPE_CHECKING:
    from forklift.pool import Pool

T = TypeVar("T")

__all__ = ["Line", "apply_async"]

# How often the thread looks whether the pool was ended while it waits for room. An end mostly makes room at once.
LOOK_SECONDS = 0.2


def apply_async(
    pool: Pool,
    func: Callable[..., T],
    args: Iterable[Any],
    kwds: Mapping[str, Any],
    callback: Callable[[T], object] | None,
    error_callback: Callable[[BaseException], object] | None,
) -> ApplyResult[T]:
    """See `Pool.apply_async`."""
    native = pool._check_running()
    item = (tuple(args), dict(kwds) if kwds else None)
    result: ApplyResult[T] = ApplyResult(pool, callback, error_callback)
    if pool._line.is_empty() and native.has_room():
        _begin(pool, native, result, func, item)
    else:
        pool._line.accept(pool, result, Waiting(func, item))
    return result


def _begin(
    pool: Pool, native: _native.Pool, result: ApplyResult[Any], func: Callable[..., Any], item: object
) -> None:
    """Open the call's job, and encode its arguments. What cannot be sent of them is the result's error."""
    announce = result._called_back is not None
    limits = pool._own_terms.limits()
    job = begin(pool, native, func, APPLY, items=1, announce=announce, apply=True, **limits)
    try:
        # A map may have been called since this call was, which is the last then.
        if result._waiting is None or pool._last_call is None or pool._last_call.call == "apply":
            note(pool, "apply", func, job, 0, None)
        result._job = job
        if announce:
            with pool._lock:
                pool._callbacks[job.id()] = result
            collect(pool)
        job.submit_one(item)
    except BaseException:
        job.cancel()  # Nobody will feed it.
        raise


class Line:
    """Calls that wait for room, in the order in which they were made, and the thread that begins them.

    While there is a thread, every call stands in line: what was called first begins first. Callbacks of calls that
    failed are called in a thread of their own, since they may call, and wait for what stands in line.
    """

    def __init__(self) -> None:
        # Reentrant, since a collection may run the user's code anywhere, and that may call.
        self._lock = threading.RLock()
        self._calls: deque[ApplyResult[Any]] = deque()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._failed: deque[ApplyResult[Any]] = deque()
        self._teller: threading.Thread | None = None

    def is_empty(self) -> bool:
        return self._thread is None

    def accept(self, pool: Pool, result: ApplyResult[Any], waiting: Waiting) -> None:
        """Have a call wait for its turn."""
        result._waiting = waiting
        with self._lock:
            pool._check_running()  # Another thread may have closed it in the meantime.
            if self._thread is None:
                # It waits for the lock, and finds the call.
                self._thread = _started(pool, "forklift-apply", self._serve, pool)
            self._calls.append(result)

    def withdraw(self, pool: Pool, result: ApplyResult[Any]) -> None:
        """Nobody wants this call any more. If its turn has come meanwhile, whoever begins it sees that."""
        if pool._native is None or not pool._native.is_ours():
            return  # In a fork: the lock may have been held, by a thread that is not here.
        with self._lock:
            waiting = result._waiting
            if waiting is None or waiting.func is None:
                return
            # It stays in its place, and is passed over. What it was made of goes without the lock: that may run code.
            _kept = waiting.func, waiting.item
            waiting.func = waiting.item = None
        self._fail(pool, result, waiting, _outcome.cancelled())

    def close(self, native: _native.Pool) -> None:
        """No more calls come: close the native pool, now or when the last one in line has begun."""
        with self._lock:
            self._closing = True
            if self._thread is None:
                native.close()

    def _serve(self, pool: Pool) -> None:
        """Begin calls as there is room, until nobody is in line: the thread's target."""
        native = pool._native
        assert native is not None
        while True:
            with self._lock:
                while self._calls and self._calls[0]._waiting.func is None:  # type: ignore[union-attr]
                    self._calls.popleft()
                if not self._calls:
                    self._thread = None
                    if self._closing:
                        native.close()
                    return
            if pool._state == TERMINATE or native.wait_for_room(LOOK_SECONDS):
                self._next(pool, native)

    def _next(self, pool: Pool, native: _native.Pool) -> None:
        """Begin the first call in line, if it is wanted still."""
        with self._lock:
            result = self._calls.popleft()
            waiting = result._waiting
            if waiting is None or waiting.func is None:
                return
            func, item = waiting.func, waiting.item
            waiting.func = waiting.item = None
        try:
            if pool._state == TERMINATE:
                raise _outcome.terminated()
            _begin(pool, native, result, func, item)
        except BaseException as error:
            self._fail(pool, result, waiting, error)
        else:
            waiting.over.set()
            if waiting.withdrawn:
                result._give_up()

    def _fail(self, pool: Pool, result: ApplyResult[Any], waiting: Waiting, error: BaseException) -> None:
        """A call in line comes to nothing, for this reason."""
        result._fail(error)
        waiting.over.set()
        # That of a job is called back when its end is announced.
        if result._called_back is None or result._job is not None:
            return
        with self._lock:
            self._failed.append(result)
            if self._teller is None:
                self._teller = _started(pool, "forklift-callbacks", self._tell)

    def _tell(self) -> None:
        """Call back for the calls that failed: a thread's target."""
        while True:
            with self._lock:
                if not self._failed:
                    self._teller = None
                    return
                result = self._failed.popleft()
            result._call_back()


def _started(pool: Pool, name: str, target: Callable[..., None], *args: Any) -> threading.Thread:
    """Start a thread that ends with the pool."""
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    pool._threads.add(thread)
    thread.start()
    return thread
