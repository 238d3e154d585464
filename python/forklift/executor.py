"""`forklift.Executor`: the pool in the shape of `concurrent.futures`."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor as StandardExecutor
from concurrent.futures import Future
from functools import partial
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, Unpack

from forklift import _births, _calls, _options
from forklift._calls import ONE, STAR
from forklift._desk import Call, Desk
from forklift._streams import Stream, results
from forklift.pool import Pool

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["Executor"]


class Executor(StandardExecutor):
    """A `concurrent.futures.Executor` whose worker processes are those of a `forklift.Pool`.

    ```python
    from forklift import Executor

    with Executor() as executor:
        future = executor.submit(func, large)
        results = list(executor.map(func, items))
    ```

    It can stand in for `concurrent.futures.ProcessPoolExecutor`: `submit`, `map`, `shutdown`, cancellation, `wait`,
    `as_completed` and asyncio's `run_in_executor`. What differs:

    - **A worker that dies costs its own call.** That future raises `WorkerDied`, which is also `BrokenProcessPool`;
      the worker is replaced, other futures go on and the executor takes new calls. It is broken for good, as in the
      standard library, when the initializer raises or no worker can be started.
    - Large parts of arguments and results cross in shared memory, as with `Pool`; lambdas and functions of scripts
      and notebooks travel by value; no `if __name__ == "__main__"` guard is needed.
    - `map` is one job: the function crosses once per worker, `chunksize=None` is chosen while running, and one item's
      failure costs no other item.
    - An argument or result that cannot be rebuilt is a `DecodeError` of its own future.
    - Ctrl-C within the `with` block stops what runs, and cancels what waits.

    Arguments are encoded when the call goes to the pool, which has two calls a worker and one more at a time, and no
    more bytes of them than half of `memory_limit` (but one call of any size). Others wait here as they are, and can be
    cancelled; what is in the pool's hands says `running()`, as in the standard library.

    Args:
        max_workers: how many workers; by default the cores that affinity and cgroup quota leave to this process.
        initializer, initargs: called as `initializer(*initargs)` in each new worker.
        mp_context: a `multiprocessing` context or the name of a start method; see `Pool`.
        max_tasks_per_child: calls after which a worker is replaced; not with the context "fork".
        options: `memory_limit`, `worker_memory_limit`, `spill_dir`, `retries`, `task_timeout`, `preload`, `backend`,
            and for `map` `inherit` and `progress`: see `Pool`.

    Raises:
        ValueError, TypeError: for a bad argument, before any process is started.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        mp_context: BaseContext | str | None = None,
        max_tasks_per_child: int | None = None,
        **options: Unpack[_options.PoolOptions],
    ) -> None:
        _options.known("Executor()", options, _options.PoolOptions.__annotations__)
        if isinstance(initializer, BaseContext):
            raise TypeError("the second argument is the initializer; give the context as mp_context=")
        _check_workers(max_workers)
        _check_tasks(max_tasks_per_child, mp_context)
        pool = Pool(max_workers, initializer, initargs, max_tasks_per_child, mp_context, **options)
        #: Read by dask, among others.
        self._max_workers = pool._processes
        self._desk = Desk(pool)
        weakref.finalize(self, self._desk.leave).atexit = False

    @property
    def _broken(self) -> str | None:
        """Why it takes no calls any more; the standard library's attribute, which others read."""
        return self._desk.broken

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker call `fn(*args, **kwargs)`, and return the `Future` of its result.

        The arguments may be encoded before this returns or later, when there is room for them: leave them as they are
        until the call is done. What cannot be sent is the future's exception (`EncodeError`).

        Raises:
            RuntimeError: after `shutdown`, or when the interpreter exits.
            BrokenProcessPool: if the initializer raised, or workers cannot be started.
        """
        future: Future[T] = Future()
        self._desk.accept(Call(future, fn, args, kwargs))
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over `fn(*arguments)`, in order, for arguments taken from all iterables.

        The iterables are taken at once, and all calls are made whether anyone asks for results or not; but results that
        wait to be taken are bounded by `memory_limit`, and beyond it the calls wait for whoever takes them. With
        `buffersize`, a thread takes items from the iterables as results are taken, at most so many ahead, so that
        they may be endless.

        An iterator that is dropped or ends with an exception after its first result takes no further items; calls that
        have begun go on.

        Args:
            fn: the function; it crosses once per worker, with all it holds.
            iterables: as for the built-in `map`, they end with the shortest.
            timeout: seconds from this call, after which the iterator raises `TimeoutError`; by default no limit.
            chunksize: items that travel together; by default chosen while running, and 1 with `buffersize`.
            buffersize: how many items may be taken ahead of the results; by default all are.

        Raises:
            The exception of an item, in its turn, after which the iterator is over; `RuntimeError` and
            `BrokenProcessPool` as `submit`; `EncodeError` if `fn` cannot be sent.
        """
        timeout = _options.patience(timeout)
        deadline = None if timeout is None else timeout + time.monotonic()
        desk = self._desk
        desk.check()
        shape = ONE if len(iterables) == 1 else STAR
        joined = iterables[0] if shape == ONE else zip(*iterables, strict=False)
        kind: Callable[..., Stream[T]]
        if buffersize is None:
            items = list(joined)
            kind, joined = partial(Stream, desk, None, len(items)), items
        else:
            kind = partial(Stream, desk, self, None)
            # An item may come of the result of the one before, so it does not wait for others to travel with.
            chunksize = 1 if chunksize is None else chunksize
        pool = desk.pool
        try:
            stream = _calls.imap(
                pool, kind, fn, shape, joined, chunksize, buffersize, pool._terms(), length=None
            )
        except ValueError:
            desk.check()  # Another thread may have ended it in the meantime.
            raise
        return results(stream, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; workers leave when those that were made are done.

        Args:
            wait: return only then, when the workers have gone.
            cancel_futures: cancel the calls that have not begun, also those of maps.
        """
        self._desk.close(cancel_futures)
        if wait:
            self._desk.join()

    def terminate_workers(self) -> None:
        """End at once: cancel what has not begun, and kill the workers. What ran raises `BrokenProcessPool`.

        As `ProcessPoolExecutor.terminate_workers` of Python 3.14; here, also for older ones.
        """
        self._desk.close(cancel_futures=True)
        if self._desk.is_ours():
            self._desk.pool.terminate()

    kill_workers = terminate_workers

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            self.terminate_workers()
        self.shutdown(wait=True)


def _check_workers(number: int | None) -> None:
    if number is not None and (isinstance(number, bool) or not hasattr(number, "__index__")):
        raise TypeError(f"max_workers must be an int or None, not {type(number).__name__}")
    if number is not None and number <= 0:
        raise ValueError("max_workers must be greater than 0")


def _check_tasks(number: int | None, context: BaseContext | str | None) -> None:
    if number is None:
        return
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError("max_tasks_per_child must be an integer")
    if number <= 0:
        raise ValueError("max_tasks_per_child must be >= 1")
    if _births.start_method(context) == "fork":
        raise ValueError(
            "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; "
            "leave mp_context out, or give 'forkserver' or 'spawn'"
        )
