"""`forklift.Pool`: what users hold."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, Literal, NoReturn, TypeVar

from forklift import _births, _native, _options
from forklift.result import ApplyResult, AsyncResult, IMapIterator, IMapUnorderedIterator, MapResult

S = TypeVar("S")
T = TypeVar("T")
OnError = Literal["raise", "return"]

__all__ = ["Pool"]

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"

# How an item becomes arguments: func(item), func(*item), func(*item[0], **item[1]). Shared with the native worker.
ONE, STAR, APPLY = 0, 1, 2

# Payload in flight that a pool keeps warm for each worker, and at least: enough for a few items of several megabytes.
WINDOW_BYTES_PER_WORKER = 32 << 20
WINDOW_BYTES_MIN = 64 << 20

# Without a limit of the user's, a pool may hold this share of the memory that it finds.
MEMORY_SHARE = 0.25

# A thread that is still in the user's iterable when its pool ends is not waited for: it can be there for ever.
THREADS_SECONDS = 1.0

# How long `terminate` and the interpreter's exit wait for workers that were sent SIGKILL.
END_SECONDS = 10.0


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """A pool of worker processes: `multiprocessing.Pool`, made for large items.

    ```python
    from forklift import Pool

    with Pool() as pool:
        results = pool.map(func, items)
    ```

    Every method of `multiprocessing.Pool` is here with its signature, defaults and behaviour. What differs:

    - Large parts of items and results (arrays, bytes, frames) cross in shared memory, copied once each way. In the
      worker an argument is its own writable memory; in the parent a result is a writable view that outlives the pool.
    - Workers are forked from a clean process, not from yours: no `if __name__ == "__main__"` guard is needed, and
      functions, lambdas and classes of scripts and notebooks travel by value.
    - `chunksize=None` means chosen while running, also for `imap`; `maxtasksperchild` counts calls, not chunks.
    - Iterables are taken as room appears; `imap` does not run ahead of its consumer without bound.
    - A worker that dies costs its item (`WorkerDied`), not the call, and is replaced. Nothing waits for ever.

    Args:
        processes: how many workers; by default the cores that affinity and cgroup quota leave to this process.
        initializer: called as `initializer(*initargs)` in each new worker. If it raises, every call on the pool does.
        initargs: its arguments; they cross once per worker.
        maxtasksperchild: calls of the function after which a worker is replaced; by default never.
        context: a `multiprocessing` context or the name of a start method. "fork" and "spawn" are honoured; by default,
            and for "forkserver", workers come from forklift's own fork server. Locks, queues and the like of
            `multiprocessing` among `initargs` can only be inherited: with them, the default is "fork".
        memory_limit: bytes, or text such as "2GB": payload in flight plus results of `imap` not yet consumed. By
            default a quarter of the memory of the machine or cgroup. When it is reached, the pool waits.
        on_error: "raise": `map` raises the first failure in order of items; "return": the exception stands in its
            item's place.
        preload: names of modules to import once, before any worker is forked.

    Raises:
        ValueError, TypeError: for a bad argument, before any process is started.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | str | None = None,
        *,
        memory_limit: int | str | None = None,
        on_error: OnError = "raise",
        preload: Iterable[str] = (),
    ) -> None:
        self._state = RUN
        self._native: _native.Pool | None = None
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        processes = _native.cores() if processes is None else _options.processes(processes)
        _options.tasks(maxtasksperchild)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        _options.choice("on_error", on_error, ("raise", "return"))
        modules = _births.module_names(preload)
        method = _births.start_method(context)
        start = None if initializer is None else (initializer, tuple(initargs))
        if start is not None and context is None and _births.must_be_inherited(start):
            method = "fork"
        if start is not None and method == "fork":
            start = _births.inherited(self, start)
        limit = (
            int(_native.memory_total() * MEMORY_SHARE)
            if memory_limit is None
            else _options.size("memory_limit", memory_limit)
        )
        window = min(max(WINDOW_BYTES_MIN, WINDOW_BYTES_PER_WORKER * processes), max(limit // 2, 1))
        self._processes = processes
        self._on_error = on_error
        self._preload = set(modules)
        self._collector: threading.Thread | None = None
        self._callbacks: dict[int, ApplyResult[Any]] = {}
        self._lock = threading.Lock()
        self._native = self._start(
            start,
            processes=processes,
            origin=method,
            command=_births.command(method),
            environment=_births.environment(processes),
            preparation=_births.preparation(modules),
            maxtasksperchild=maxtasksperchild,
            window_bytes=window,
            stream_bytes=window,
        )
        _pools.add(self)
        if method == "fork":
            _births.serve_forks(self._native)
        if initializer is not None:
            self._native.want()

    def _start(self, start: tuple[Any, ...] | None, **options: Any) -> _native.Pool:
        try:
            return _native.Pool(initializer=start, **options)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            from forklift._failure import encode_error

            raise encode_error(start, "(initializer, initargs)") from error

    # The calls -----------------------------------------------------------------------------------------------

    def apply(self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> T:
        """Return `func(*args, **kwds)`, called in a worker."""
        result = self.apply_async(func, args, kwds)
        try:
            return result.get()
        except BaseException:
            result._give_up()
            raise

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[T]:
        """Begin `func(*args, **kwds)` in a worker. Arguments are encoded before this returns.

        `callback(result)` or `error_callback(exception)` is called in a thread of this process when it is done, one
        callback at a time.
        """
        announce = callback is not None or error_callback is not None
        job = self._open(func, APPLY, items=1, announce=announce)
        result: ApplyResult[T] = ApplyResult(self, job, callback, error_callback)
        if announce:
            with self._lock:
                self._callbacks[job.id()] = result
            self._collect()
        job.submit_one((tuple(args), dict(kwds) if kwds else None))
        return result

    def map(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        *,
        on_error: OnError | None = None,
        length: int | None = None,
    ) -> list[T]:
        """Return `[func(item) for item in iterable]`, the calls made by the workers, in order.

        The calling thread takes items from the iterable as room appears, so a generator of more data than memory holds
        may be given. Each item is copied once, into shared memory; results are views of the workers' memory.

        Args:
            func: any callable that can be pickled, or a function, lambda or closure that only exists here. It crosses
                once per worker, with all it holds.
            iterable: the items.
            chunksize: items that travel together; by default chosen while running.
            on_error: as the pool's, for this call.
            length: how many items there will be, for iterables that have no `len`.

        Raises:
            The exception of the first item that failed, after all others are done, with the worker's traceback as its
            cause; `WorkerDied` for an item that killed its worker; `EncodeError` for one that cannot be pickled.
        """
        return self._map(func, ONE, iterable, chunksize, on_error, length)

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        on_error: OnError | None = None,
        length: int | None = None,
    ) -> list[T]:
        """Return `[func(*item) for item in iterable]`; see `map`."""
        return self._map(func, STAR, iterable, chunksize, on_error, length)

    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        on_error: OnError | None = None,
        length: int | None = None,
    ) -> AsyncResult[list[T]]:
        """Begin a `map`, and return its `AsyncResult` at once. A thread of this process feeds it."""
        return self._map_async(func, ONE, iterable, chunksize, callback, error_callback, on_error, length)

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        on_error: OnError | None = None,
        length: int | None = None,
    ) -> AsyncResult[list[T]]:
        """Begin a `starmap`, and return its `AsyncResult` at once; see `map_async`."""
        return self._map_async(func, STAR, iterable, chunksize, callback, error_callback, on_error, length)

    def imap(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        *,
        buffersize: int | None = None,
        on_error: OnError | None = None,
        length: int | None = None,
    ) -> IMapIterator[T]:
        """Return an iterator over `func(item)` in order, each result as soon as it is there.

        A thread takes items from the iterable as room appears: at most `buffersize` items ahead of the consumer, and
        never more bytes of results than the pool's budget.
        """
        return self._imap(IMapIterator, func, iterable, chunksize, buffersize, on_error, length)

    def imap_unordered(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        *,
        buffersize: int | None = None,
        on_error: OnError | None = None,
        length: int | None = None,
    ) -> IMapIterator[T]:
        """Return an iterator over `func(item)` in whatever order results come; see `imap`."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize, buffersize, on_error, length)

    def _map(
        self,
        func: Callable[..., T],
        shape: int,
        iterable: Iterable[Any],
        chunksize: int | None,
        on_error: OnError | None,
        length: int | None,
    ) -> list[T]:
        size = _options.chunks(chunksize)
        finish = self._finisher(on_error)
        items, count = _options.items(iterable, length)
        job = self._open(func, shape, items=count, chunksize=size, sample=iterable)
        try:
            results, failures = job.run(items)
        except BaseException:
            job.cancel()
            raise
        return finish(results, failures)

    def _map_async(
        self,
        func: Callable[..., T],
        shape: int,
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[list[T]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        on_error: OnError | None,
        length: int | None,
    ) -> AsyncResult[list[T]]:
        size = _options.chunks(chunksize)
        finish = self._finisher(on_error)
        self._check_running()
        if not hasattr(iterable, "__len__"):
            # As the standard library: what the iterable raises is raised here, not in another thread.
            iterable = list(iterable)
        items, count = _options.items(iterable, length)
        job = self._open(func, shape, items=count, chunksize=size, sample=iterable)
        return MapResult(self, job, items, finish, callback, error_callback)

    def _imap(
        self,
        kind: type[IMapIterator[Any]],
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int | None,
        buffersize: int | None,
        on_error: OnError | None,
        length: int | None,
    ) -> IMapIterator[T]:
        size = _options.chunks(chunksize)
        on_error = on_error or self._on_error
        _options.choice("on_error", on_error, ("raise", "return"))
        _options.buffer(buffersize)
        items, count = _options.items(iterable, length)
        job = self._open(
            func,
            ONE,
            items=count,
            chunksize=size,
            sample=iterable,
            streamed=True,
            buffersize=buffersize or 0,
        )
        return kind(self, job, items, on_error, buffersize is not None)

    def _open(
        self,
        func: Callable[..., Any],
        shape: int,
        *,
        items: int | None,
        chunksize: int = 0,
        sample: object = None,
        streamed: bool = False,
        buffersize: int = 0,
        announce: bool = False,
    ) -> _native.Job:
        native = self._check_running()
        modules = _births.modules_of(func, sample) - self._preload
        if modules:
            self._preload |= modules
            native.preload(_births.pickled_names(modules))
        try:
            return native.open(
                (func, shape),
                items=items,
                chunksize=chunksize,
                held=type(sample) in _options.HELD,
                streamed=streamed,
                buffersize=buffersize,
                announce=announce,
            )
        except Exception as error:
            from forklift._outcome import unsendable_function

            raise unsendable_function(func) from error

    def _finisher(
        self, on_error: OnError | None
    ) -> Callable[[list[Any], list[tuple[int, BaseException]]], list[Any]]:
        on_error = on_error or self._on_error
        _options.choice("on_error", on_error, ("raise", "return"))

        def finish(results: list[Any], failures: list[tuple[int, BaseException]]) -> list[Any]:
            if failures and on_error == "raise":
                raise failures[0][1]
            for index, error in failures:
                results[index] = error
            return results

        return finish

    def _collect(self) -> None:
        """Make sure that a thread waits for the calls that have callbacks."""
        with self._lock:
            if self._collector is None:
                arguments = (weakref.ref(self), self._native, self._callbacks)
                self._collector = threading.Thread(
                    target=_collect, args=arguments, name="forklift-callbacks", daemon=True
                )
                self._threads.add(self._collector)
                self._collector.start()

    # The workers ---------------------------------------------------------------------------------------------

    def _counters(self) -> dict[str, int]:
        """Count what the pool has done: births, messages, chunks, bytes by the way they took."""
        assert self._native is not None
        return self._native.counters()

    # The end -------------------------------------------------------------------------------------------------

    def _check_running(self) -> _native.Pool:
        if self._state != RUN or self._native is None:
            raise ValueError("Pool not running")
        if not self._native.is_ours():
            raise ValueError("Pool not running: it belongs to the process that this one was forked from")
        return self._native

    def close(self) -> None:
        """Take no more calls; workers leave when those that were made are done."""
        if self._state == RUN:
            self._state = CLOSE
            if self._native is not None and self._native.is_ours():
                self._native.close()

    def terminate(self) -> None:
        """End at once: workers are killed, calls that are not done raise `ForkliftError`. Returns when all are gone."""
        self._state = TERMINATE
        if self._native is not None:
            _end(self._native, self._threads)
            _pools.discard(self)

    def join(self) -> None:
        """Wait until all calls are done and the last worker has left. `close` or `terminate` must come first.

        Results of `imap` that nobody has taken yet no longer wait for room.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._native is not None and self._native.is_ours():
            self._native.unbound()
            self._native.join(None)
            for thread in list(self._threads):
                if thread is not threading.current_thread():
                    thread.join()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.terminate()

    def __del__(self, _warn: Callable[..., None] = warnings.warn, _run: str = RUN) -> None:
        native = getattr(self, "_native", None)
        if native is None or not native.is_ours():
            return
        if self._state == _run:
            _warn(f"unclosed running forklift pool {self!r}", ResourceWarning, source=self)
        if not native.is_over():
            native.terminate()

    def __repr__(self) -> str:
        kind = type(self)
        return f"<{kind.__module__}.{kind.__qualname__} state={self._state} pool_size={self._processes}>"

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")


def _collect(pool: weakref.ref[Pool], native: _native.Pool, waiting: dict[int, ApplyResult[Any]]) -> None:
    """Call back when calls are done, until the pool is over and nothing waits."""
    while True:
        job = native.ended(0.5)
        if job is not None:
            result = waiting.pop(job, None)
            if result is not None:
                result._call_back()
        elif native.is_over() or (pool() is None and not waiting):
            return


def _end(native: _native.Pool, threads: Iterable[threading.Thread]) -> None:
    if not native.is_ours():
        return
    native.terminate()
    native.join(END_SECONDS)
    deadline = time.monotonic() + THREADS_SECONDS
    for thread in list(threads):
        if thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))


@atexit.register
def _end_all() -> None:
    """End pools that are still open when the interpreter exits: their threads must not outlive it."""
    for pool in list(_pools):
        if pool._native is not None:
            pool._state = TERMINATE
            _end(pool._native, pool._threads)


def _leave_to_parent() -> None:
    """In a fork of this process: the pools are the parent's. Their descriptors are closed, so that workers see the
    parent's end and not this process's."""
    for descriptor in _native.private_descriptors():
        try:
            os.close(descriptor)
        except OSError:
            continue
    _pools.clear()


os.register_at_fork(after_in_child=_leave_to_parent)

if sys.platform != "linux":  # pragma: no cover
    raise ImportError("forklift needs Linux: use multiprocessing.Pool on this system")
