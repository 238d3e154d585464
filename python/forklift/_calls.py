"""How a pool's methods become calls: what `map`, `imap` and `apply` have in common beneath their signatures."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from forklift import _births, _inherit, _native, _options, _progress
from forklift.result import (
    AsyncResult,
    IMapIterator,
    IMapUnorderedIterator,
    MapResult,
    call_back_waiting,
)

if TYPE_CHECKING:
    from forklift.pool import Pool
    from forklift.report import Report

T = TypeVar("T")
Stream = TypeVar("Stream", bound=IMapIterator[Any])

__all__ = ["APPLY", "ONE", "STAR", "LastCall", "begin", "collect", "imap", "map_", "map_async", "note"]

# How an item becomes arguments: func(item), func(*item), func(*item[0], **item[1]). Shared with the native worker.
ONE, STAR, APPLY = 0, 1, 2


class LastCall(NamedTuple):
    """What a report says of a call beside its figures. It keeps nothing of the user's alive."""

    telemetry: _native.Telemetry
    call: str
    function: str
    processes: int
    chunksize: int
    total: int | None
    inherit: str
    engine: str
    nodes: list[str]
    inherited_bytes: int


def note(
    pool: Pool,
    call: str,
    func: Callable[..., Any],
    job: _native.Job,
    size: int,
    total: int | None,
    choice: str = "",
    inherited_bytes: int = 0,
) -> None:
    """Keep what `Pool.report` needs of a call that has begun."""
    name = getattr(func, "__qualname__", None) or type(func).__qualname__
    cluster = pool._cluster
    engine, nodes = ("", []) if cluster is None else (cluster.engine.name, cluster.nodes())
    pool._last_call = LastCall(
        job.telemetry(), call, name, pool._processes, size, total, choice, engine, nodes, inherited_bytes
    )


def report(last: LastCall | None) -> Report:
    """See `Pool.report`."""
    from forklift.report.figures import report

    if last is None:
        raise ValueError("there is nothing to report: this pool has made no call yet")
    about = last._asdict()
    return report(about.pop("telemetry").figures(), about)


def begin(
    pool: Pool,
    native: _native.Pool,
    func: Callable[..., Any],
    shape: int,
    *,
    items: int | None,
    chunksize: int = 0,
    sample: object = None,
    **options: Any,
) -> _native.Job:
    """Open a job. Whether the pool was closed is not asked: what was called before that is begun still."""
    modules = _births.modules_of(func, sample) - pool._preload
    if modules:
        pool._preload |= modules
        native.preload(_births.pickled_names(modules))
    limits = (options.pop("retries", 0), options.pop("task_timeout", None))
    try:
        job = native.open(
            (func, shape),
            items=items,
            chunksize=chunksize,
            held=type(sample) in _options.HELD,
            retries=limits[0],
            # Whoever sees the workers looks at their time.
            task_timeout=None if pool._cluster is not None else limits[1],
            **options,
        )
        if pool._cluster is not None:
            pool._cluster.note(job, *limits, options.get("streamed", False))
        return job
    except Exception as error:
        from forklift._outcome import unsendable_function

        raise unsendable_function(func, error)  # noqa: B904


def map_(
    pool: Pool,
    func: Callable[..., T],
    shape: int,
    iterable: Iterable[Any],
    chunksize: int | None,
    terms: _options.Terms,
    length: int | None,
) -> list[T]:
    size = _options.chunks(chunksize)
    way = _inherit.way(pool, terms.inherit, func, shape, iterable, blocking=True)
    items, count = _options.items(way.feed, length)
    job = way.begin(func, shape, items=count, chunksize=size, sample=way.feed, **terms.limits())
    total = count if length is None else length
    name = "map" if shape == ONE else "starmap"
    note(pool, name, func, job, size, total, way.choice, way.inherited_bytes)
    meter = _progress.opened(terms.progress, total, job)
    results, failures = _progress.run(job, items, meter)
    return terms.finish(results, failures)


def map_async(
    pool: Pool,
    func: Callable[..., T],
    shape: int,
    iterable: Iterable[Any],
    chunksize: int | None,
    callback: Callable[[list[T]], object] | None,
    error_callback: Callable[[BaseException], object] | None,
    terms: _options.Terms,
    length: int | None,
) -> AsyncResult[list[T]]:
    size = _options.chunks(chunksize)
    pool._check_running()
    if not hasattr(iterable, "__len__"):
        # As the standard library: what the iterable raises is raised here, not in another thread.
        iterable = list(iterable)
    way = _inherit.way(pool, terms.inherit, func, shape, iterable)
    items, count = _options.items(way.feed, length)
    job = way.begin(func, shape, items=count, chunksize=size, sample=way.feed, **terms.limits())
    total = count if length is None else length
    name = "map_async" if shape == ONE else "starmap_async"
    note(pool, name, func, job, size, total, way.choice, way.inherited_bytes)
    meter = _progress.opened(terms.progress, total, job)
    return MapResult(pool, job, items, terms.finish, meter, callback, error_callback)


def imap(
    pool: Pool,
    kind: Callable[..., Stream],
    func: Callable[..., T],
    shape: int,
    iterable: Iterable[Any],
    chunksize: int | None,
    buffersize: int | None,
    terms: _options.Terms,
    length: int | None,
) -> Stream:
    size = _options.chunks(chunksize)
    buffered = _options.buffer(buffersize)
    way = _inherit.way(pool, terms.inherit, func, shape, iterable, streamed=True)
    items, count = _options.items(way.feed, length)
    job = way.begin(
        func,
        shape,
        items=count,
        chunksize=size,
        sample=way.feed,
        streamed=True,
        buffersize=buffered,
        **terms.limits(),
    )
    name = "imap_unordered" if kind is IMapUnorderedIterator else "imap"
    total = count if length is None else length
    note(pool, name, func, job, size, total, way.choice, way.inherited_bytes)
    meter = _progress.opened(terms.progress, total, job)
    return kind(pool, job, items, terms.on_error, buffersize is not None, meter)


def collect(pool: Pool) -> None:
    """Make sure that a thread waits for the calls that have callbacks."""
    with pool._lock:
        if pool._collector is None:
            arguments = (weakref.ref(pool), pool._native, pool._callbacks)
            pool._collector = threading.Thread(
                target=call_back_waiting, args=arguments, name="forklift-callbacks", daemon=True
            )
            pool._threads.add(pool._collector)
            pool._collector.start()
