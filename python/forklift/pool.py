"""`forklift.Pool`: what users hold."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from forklift import (
    _apply,
    _births,
    _budget,
    _calls,
    _ends,
    _inherit,
    _native,
    _options,
    _staff,
    backends,
    blocks,
)
from forklift._calls import ONE, STAR
from forklift._ends import TERMINATE
from forklift._options import OnError
from forklift._progress import Progress
from forklift._staff import Worker
from forklift.result import ApplyResult, AsyncResult, IMapIterator, IMapUnorderedIterator
from forklift.shared import Shared, share

if TYPE_CHECKING:
    from forklift.backends.cluster import Cluster
    from forklift.report import Report

S = TypeVar("S")
T = TypeVar("T")

__all__ = ["Pool"]

if _native.DEBUG:
    warnings.warn(
        "this forklift was built without optimisation and is many times slower than it should be: install a wheel, or "
        "build it with `maturin develop --release`",
        RuntimeWarning,
        stacklevel=2,
    )

RUN, CLOSE = "RUN", "CLOSE"


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
        memory_limit: bytes, or text such as "2GB": payload in flight plus results that are held in workers' memory. By
            default a quarter of the memory of the machine or cgroup. When it is reached, the pool waits for the
            consumer of an iterator; results of `map` and `apply` go to files in `spill_dir`, and are arrays like any
            other, of which the kernel keeps in memory what there is room for. An item that is larger than the limit
            goes alone. What finds no place raises `MemoryLimitExceeded`.
        spill_dir: a directory on a disk for these files, which have no names. By default the system's temporary
            directory, or /var/tmp if that one lies in memory.
        worker_memory_limit: bytes, or text such as "2GB", that a worker may hold after a call; by default no limit. One
            that holds more is replaced, once freed memory was given back to the system; one that goes half as much
            again above it during a call is stopped, and the item's failure is `MemoryLimitExceeded`. Only what is the
            worker's own counts: private memory, its large arrays, arguments that it keeps; not what it has in common
            with others. A limit below what workers are born with has them replaced after each call.
        on_error: "raise": `map` raises the first failure in order of items; "return": the exception stands in its
            item's place.
        retries: how often an item is tried again after its worker died (not after an exception).
        task_timeout: seconds for one item; above it the worker is replaced, and the item's failure is `TaskTimeout`.
        inherit: True: workers of `map`, `starmap` and `imap` are forked from this process for that call and see its
            items as they are, so that nothing is pickled but results; "auto": so where a sample says that encoding
            would dominate, and forking is known to be safe (see `map`); False: never.
        preload: names of modules to import once, before any worker is forked.
        progress: True, or a description: each map shows a bar (of tqdm: `pip install forklift[progress]`) with items,
            rate, time that remains and payload, on the terminal or in the notebook; nothing where standard error is
            neither. A callable is called as `progress(done, total)` in any case, at the begin and whenever items are
            done; total is None while it is unknown.
        backend: "local": workers of this machine; "ray" (a running Ray, or one of its own) or "ray://host:port"; "dask"
            (the current client, or a cluster of its own) or "tcp://host:port", or a `distributed.Client`: workers of
            that cluster, by default as many as it has cores. docs/scale-out.md says what differs.

    Raises:
        ValueError, TypeError: for a bad argument, before any process is started.
        ForkliftError: for a cluster that cannot be reached.
    """

    # Where the files lie by which the kernel tells of memory and pressure; tests have a machine of their own.
    _machine_root: str | None = None

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | str | None = None,
        *,
        memory_limit: int | str | None = None,
        worker_memory_limit: int | str | None = None,
        spill_dir: str | os.PathLike[str] | None = None,
        on_error: OnError = "raise",
        inherit: _inherit.Inherit = "auto",
        retries: int = 0,
        task_timeout: float | None = None,
        preload: Iterable[str] = (),
        progress: Progress = False,
        backend: Any = backends.LOCAL,
    ) -> None:
        self._state = RUN
        self._native: _native.Pool | None = None
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._crews: set[_inherit.Crew] = set()
        self._cluster: Cluster | None = None
        processes = None if processes is None else _options.processes(processes)
        maxtasksperchild = _options.tasks(maxtasksperchild)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        terms = _options.Terms(on_error, inherit, retries, task_timeout, progress).check()
        elsewhere = backends.check(backend) != backends.LOCAL
        modules = _births.module_names(preload, elsewhere)
        method = _births.start_method(context, elsewhere=elsewhere)
        _inherit.check(inherit, method)
        start = self._initializer = None if initializer is None else (initializer, tuple(initargs))
        if start is not None and context is None and method == "zygote" and _births.must_be_inherited(start):
            method = "fork"
        if start is not None and method == "fork":
            start = _births.inherited(self, start)
        limit = (
            None if worker_memory_limit is None else _options.size("worker_memory_limit", worker_memory_limit)
        )
        _budget.shares(1, memory_limit, spill_dir)  # Checks both, before anything is started.
        if method == backends.RELAYS:
            self._cluster = backends.connect(backend, processes, maxtasksperchild, limit)
            # The nodes see to it.
            processes, maxtasksperchild, limit = self._cluster.processes, None, None
        processes = processes or _native.cores()
        budget = _budget.shares(processes, memory_limit, spill_dir, self._cluster is not None)
        self._processes = processes
        self._own_terms = terms
        self._method = method
        self._inherit_free = context is None and initializer is None and maxtasksperchild is None
        self._last_call: _calls.LastCall | None = None
        self._shares: weakref.WeakSet[Shared[Any]] = weakref.WeakSet()
        self._inherit_warned = False
        self._plan = {
            "processes": processes,
            "maxtasksperchild": maxtasksperchild,
            "worker_memory_limit": limit,
            **budget,
            **backends.costs(self._cluster),
        }
        self._preload = set(modules)
        self._collector: threading.Thread | None = None
        self._callbacks: dict[int, ApplyResult[Any]] = {}
        self._lock = threading.Lock()
        self._line = _apply.Line()
        self._native = _births.start(
            start,
            origin=method,
            command=_births.command(method),
            environment=self._environment(processes),
            preparation=_births.preparation(modules),
            machine_root=self._machine_root,
            **self._plan,
        )
        _ends.pools.add(self)
        if self._cluster is not None:
            self._cluster.serve(self._native, self._threads, self._preload, budget["results_bytes"])
        elif method == "fork":
            _births.serve_forks(self._native)
        if initializer is not None:
            self._native.want()

    def _environment(self, processes: int) -> list[tuple[str, str]]:
        """Return the variables that are set for workers before any library is loaded there."""
        return _births.environment(processes)

    # The calls -----------------------------------------------------------------------------------------------

    def apply(self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> T:
        """Return `func(*args, **kwds)`, called in a worker."""
        result = _apply.apply_async(self, func, args, kwds, None, None)
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
        """Begin `func(*args, **kwds)` in a worker, and return its `AsyncResult` at once.

        Arguments are encoded before this returns; but while calls that are not done hold as much as maps may have in
        flight (half of `memory_limit` at most), further ones wait as they are, and begin in order: leave their
        arguments alone until they are done. `get` then also says what cannot be sent of the function.

        `callback(result)` or `error_callback(exception)` is called in a thread of this process when it is done, one
        callback at a time.
        """
        return _apply.apply_async(self, func, args, kwds, callback, error_callback)

    def map(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        *,
        on_error: OnError | None = None,
        inherit: _inherit.Inherit | None = None,
        retries: int | None = None,
        task_timeout: float | None = None,
        progress: Progress | None = None,
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
            on_error, retries, task_timeout, progress: as the pool's, for this call. An exception of a `progress`
                callable ends the call.
            inherit: as the pool's, for this call. With True, workers are forked from this process, the initializer runs
                in them, and they end with the call: items and function are not copied and need not be picklable. What
                a function changes in its item, it changes in its worker alone. Other threads make forks unsafe: a
                warning names them. "auto" does so only for lists and tuples of plain data whose encoding would take
                long, with no threads but known ones, and where `multiprocessing` itself would fork.
            length: how many items there will be, for iterables that have no `len`.

        Raises:
            The exception of the first item that failed, after all others are done, with the worker's traceback as its
            cause; `WorkerDied` for an item that killed its worker; `TaskTimeout` for one that took too long;
            `EncodeError` for one that cannot be pickled.
        """
        terms = self._terms(on_error, inherit, retries, task_timeout, progress)
        return _calls.map_(self, func, ONE, iterable, chunksize, terms, length)

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        on_error: OnError | None = None,
        inherit: _inherit.Inherit | None = None,
        retries: int | None = None,
        task_timeout: float | None = None,
        progress: Progress | None = None,
        length: int | None = None,
    ) -> list[T]:
        """Return `[func(*item) for item in iterable]`; see `map`."""
        terms = self._terms(on_error, inherit, retries, task_timeout, progress)
        return _calls.map_(self, func, STAR, iterable, chunksize, terms, length)

    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        on_error: OnError | None = None,
        inherit: _inherit.Inherit | None = None,
        retries: int | None = None,
        task_timeout: float | None = None,
        progress: Progress | None = None,
        length: int | None = None,
    ) -> AsyncResult[list[T]]:
        """Begin a `map`, and return its `AsyncResult` at once. A thread of this process feeds it."""
        terms = self._terms(on_error, inherit, retries, task_timeout, progress)
        return _calls.map_async(self, func, ONE, iterable, chunksize, callback, error_callback, terms, length)

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        on_error: OnError | None = None,
        inherit: _inherit.Inherit | None = None,
        retries: int | None = None,
        task_timeout: float | None = None,
        progress: Progress | None = None,
        length: int | None = None,
    ) -> AsyncResult[list[T]]:
        """Begin a `starmap`, and return its `AsyncResult` at once; see `map_async`."""
        terms = self._terms(on_error, inherit, retries, task_timeout, progress)
        return _calls.map_async(
            self, func, STAR, iterable, chunksize, callback, error_callback, terms, length
        )

    def imap(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        *,
        buffersize: int | None = None,
        on_error: OnError | None = None,
        inherit: _inherit.Inherit | None = None,
        retries: int | None = None,
        task_timeout: float | None = None,
        progress: Progress | None = None,
        length: int | None = None,
    ) -> IMapIterator[T]:
        """Return an iterator over `func(item)` in order, each result as soon as it is there.

        A thread takes items from the iterable as room appears: at most `buffersize` items ahead of the consumer, and
        never more bytes of results than the pool's budget. With `progress`, what the consumer has taken is done.
        """
        terms = self._terms(on_error, inherit, retries, task_timeout, progress)
        return _calls.imap(self, IMapIterator, func, ONE, iterable, chunksize, buffersize, terms, length)

    def imap_unordered(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        *,
        buffersize: int | None = None,
        on_error: OnError | None = None,
        inherit: _inherit.Inherit | None = None,
        retries: int | None = None,
        task_timeout: float | None = None,
        progress: Progress | None = None,
        length: int | None = None,
    ) -> IMapIterator[T]:
        """Return an iterator over `func(item)` in whatever order results come; see `imap`."""
        terms = self._terms(on_error, inherit, retries, task_timeout, progress)
        return _calls.imap(
            self, IMapUnorderedIterator, func, ONE, iterable, chunksize, buffersize, terms, length
        )

    def map_blocks(
        self,
        func: Callable[[Any], Any],
        obj: Any,
        *,
        axis: int = 0,
        block: int | None = None,
        out: Any = None,
        combine: blocks.Combine = "concat",
        on_error: OnError | None = None,
        retries: int | None = None,
        task_timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """Cut one large object into blocks, call `func(block)` for each, and put the results together again.

        ```python
        roots = pool.map_blocks(np.sqrt, array, out=True)
        total = pool.map_blocks(np.sum, array, combine=operator.add)
        ```

        A block is a run of rows of an array (along `axis`), frame, series or table, whole lines of bytes or text, or
        elements of a list or tuple. It is copied once, into shared memory; nothing is copied of arrays of
        `shared_arrays()`, results of earlier calls, and `numpy.memmap`, which may be larger than memory. What a
        function writes into its block reaches nobody. An empty object is one block. docs/blocks.md says more.

        Args:
            block: rows or elements of a block; of bytes and text at least how many bytes or characters, up to the next
                line end. By default chosen while running, so that a block takes about 50 ms.
            out: an array that results are written to, where their blocks were, or True for a new one. Workers write
                there directly if it lies in shared memory or is a writable `numpy.memmap`; else what they return is
                copied by the calling thread. If the call raises, its contents are undefined. It may be `obj` itself.
            combine: "concat": results are joined by their own type; "list": a list of them; or an associative function
                of two, called here with neighbours in order, in a tree that hangs on the blocks alone.
            on_error: "return" (only with `combine="list"`): a failed block's exception stands in its place. Else no
                further blocks are begun, and the first failure in order is raised.
            retries, task_timeout, progress: as the pool's, for the blocks of this call.

        Raises:
            TypeError, ValueError: for an object, axis, block, `out`, or results that do not fit.
        """
        if on_error == "return" and combine != "list":
            raise ValueError(
                "on_error='return' needs combine='list': an exception cannot be joined to results"
            )
        terms = self._terms(on_error, None, retries, task_timeout, progress)
        if combine != "list":
            terms = terms._replace(on_error="raise")
        return blocks.map_blocks(self, func, obj, axis, block, out, combine, terms)

    def _open(self, func: Callable[..., Any], shape: int, **options: Any) -> _native.Job:
        return _calls.begin(self, self._check_running(), func, shape, **options)

    def _terms(
        self,
        on_error: OnError | None = None,
        inherit: _inherit.Inherit | None = None,
        retries: int | None = None,
        task_timeout: float | None = None,
        progress: Progress | None = None,
    ) -> _options.Terms:
        """The pool's own terms for a call, but for what the call says itself."""
        given: dict[str, Any] = {
            "on_error": on_error,
            "inherit": inherit,
            "retries": retries,
            "task_timeout": task_timeout,
            "progress": progress,
        }
        changed = {name: value for name, value in given.items() if value is not None}
        return self._own_terms._replace(**changed).check() if changed else self._own_terms

    def share(self, value: T) -> Shared[T]:
        """Send a value to the workers once, for any number of calls.

        What is returned stands for the value: passed as an argument (at any depth; with `inherit=True` see `Shared`) or
        closed over, it arrives in a worker as the value itself, one object for all calls there. Its bytes are copied
        into shared memory once (not at all for arrays that lie there already); workers see them copy-on-write, so that
        one that writes changes its own.

        It is given up by `close()`, at the end of a `with` block, or when it is collected.

        Raises:
            EncodeError: for a value that cannot be pickled.
        """
        shared = share(self._check_running(), value)
        self._shares.add(shared)
        return shared

    # The workers ---------------------------------------------------------------------------------------------

    def workers(self) -> list[Worker]:
        """Return who works here now: pid, state, calls answered, resident memory. Empty before the first call.

        Not in `multiprocessing`.
        """
        return _staff.workers(self._check_running(), self._cluster)

    def resize(self, processes: int) -> None:
        """Change the number of workers. More are born as they are needed; those that are too many finish what they do.

        Not in `multiprocessing`.

        Raises:
            ValueError: for a number below 1, or on a pool that was closed.
        """
        native = self._check_running()
        self._processes = self._plan["processes"] = processes = _options.processes(processes)
        if self._cluster is not None:
            self._cluster.resize(processes)
        native.resize(processes)

    def report(self) -> Report:
        """Return where the time and the bytes of the last call went, as far as it has come.

        Works during a call, after it, and when the pool is closed or terminated. Calls of `apply` and `apply_async`
        that follow one another within a second are one call. `print` it, or `save` it as JSON or as a trace.

        Not in `multiprocessing`.

        Raises:
            ValueError: if the pool has made no call yet.
        """
        return _calls.report(self._last_call)

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
                self._line.close(self._native)

    def terminate(self) -> None:
        """End at once: workers are killed, calls that are not done raise `ForkliftError`. Returns when all are gone."""
        self._state = TERMINATE
        _inherit.end(self._crews)
        if self._native is not None:
            _ends.end(self._native, self._threads)
            _ends.pools.discard(self)

    def join(self) -> None:
        """Wait until all calls are done and the last worker has left. `close` or `terminate` must come first.

        Results of `imap` that nobody has taken yet no longer wait for room.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._native is not None and self._native.is_ours():
            for crew in list(self._crews):
                crew.unbound()
            self._native.unbound()
            self._native.join(None)
            _ends.await_threads(self._threads)

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
        for crew in list(self._crews):
            crew.terminate()
        if not native.is_over():
            native.terminate()

    def __repr__(self) -> str:
        kind = type(self)
        return f"<{kind.__module__}.{kind.__qualname__} state={self._state} pool_size={self._processes}>"

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")
