"""One call of joblib's `Parallel` as one job of a pool: batches of tasks in, outcomes out as they come.

    submit ───▶ queue ──▶ thread of the feed: pickles when there is room ──▶ job
    callback ◀────────── thread of the collector ◀── outcomes ───────────────┘

One job for the whole call, and not one for each batch as joblib does with the standard library's pool: what is encoded
and waits is then bounded in bytes, and an abort is one `cancel`. Every batch is called back once, however the call
ends.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from forklift import _feeding
from forklift._calls import ONE
from forklift.errors import ForkliftError, WorkerDied
from forklift.integrations.arrays import Once, Parcel, Sight
from forklift.result import _report

if TYPE_CHECKING:
    from forklift.pool import Pool

__all__ = ["Call"]


def run(batch: Callable[[], Any]) -> Any:
    """Do the tasks of a batch."""
    return batch()


class _Batch(NamedTuple):
    tasks: Any
    callback: Callable[[Any], object]
    first: int
    """The number of its first task."""
    size: int


class Call:
    """A call. `submit` and `cancel` may come from any thread."""

    def __init__(self, pool: Pool, max_nbytes: int | None) -> None:
        options = pool._own_terms.limits()
        self._job = pool._open(run, ONE, items=None, chunksize=1, streamed=True, **options)
        self._once = Once(pool._check_running(), max_nbytes, pool._plan["share_bytes"] or 0)
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        # What the pool has, by its index in the job.
        self._with_pool: dict[int, tuple[_Batch, list[Sight]]] = {}
        self._tasks = 0
        self._over = False
        self._lock = threading.Lock()
        self._feeder = threading.Thread(target=self._feed, name="forklift-joblib-feed", daemon=True)
        collector = threading.Thread(target=self._collect, name="forklift-joblib", daemon=True)
        for thread in (self._feeder, collector):
            pool._threads.add(thread)
            thread.start()

    def submit(self, tasks: Any, callback: Callable[[Any], object]) -> None:
        """Take a batch; call `callback` with its list of results or its exception, in a thread of this call."""
        with self._lock:
            over = self._over
            batch = _Batch(tasks, callback, self._tasks, len(tasks))
            self._tasks += batch.size
            if not over:
                self._queue.put(batch)
        if over:
            callback(ForkliftError("this call of Parallel is over"))

    def finish(self) -> None:
        """No more batches come."""
        self._queue.put(None)

    def cancel(self) -> None:
        """Drop what has not begun, and replace the workers that are at some of it."""
        self._job.cancel()
        self.finish()

    def _feed(self) -> None:
        try:
            _feeding.feed(self._job, self._parcels())
        except BaseException:
            _report("the feed of a call of joblib")
            self._job.cancel()

    def _parcels(self) -> Iterator[Parcel]:
        index = 0
        while (batch := self._queue.get()) is not None:
            try:
                parcel, used = self._once.pickle(batch.tasks)
            except (
                BaseException
            ) as error:  # What is no Exception (sys.exit() in a `__reduce__`) is the caller's.
                self._call_back(batch, error)
                continue
            self._with_pool[index] = batch._replace(tasks=None), used
            index += 1
            # Nothing of a batch stays here while the next one is waited for.
            del batch, used
            yield parcel
            del parcel

    def _collect(self) -> None:
        fault: BaseException = ForkliftError("the pool of this call of Parallel has ended")
        try:
            while taken := self._job.take(None, None):
                first, values, failures, weight = taken
                self._job.consume(len(values), weight)
                errors = dict(failures)
                for offset in range(len(values)):
                    batch, used = self._with_pool.pop(first + offset)
                    self._once.release(used)
                    error = errors.get(first + offset)
                    self._call_back(batch, values[offset] if error is None else _numbered(error, batch))
                del taken, values
        except BaseException as error:
            fault = error
        with self._lock:
            self._over = True
        self._queue.put(None)
        self._feeder.join()
        unanswered = [batch for batch, _ in self._with_pool.values()]
        while not self._queue.empty():
            if (left := self._queue.get()) is not None:
                unanswered.append(left)
        for batch in unanswered:
            self._call_back(batch, fault)
        self._once.close()

    def _call_back(self, batch: _Batch, outcome: Any) -> None:
        try:
            batch.callback(outcome)
        except BaseException:
            _report("a callback of joblib")


def _numbered(error: BaseException, batch: _Batch) -> BaseException:
    """Say which task it was, and not which batch, where that can be said."""
    last = batch.first + batch.size - 1
    if isinstance(error, WorkerDied):
        alone = batch.first if batch.size == 1 else None
        return WorkerDied(alone, error.pid, error.exitcode, error.reason)
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list) and notes and str(notes[-1]).startswith("forklift: raised for item "):
        which = f"task {last}" if batch.size == 1 else f"one of tasks {batch.first} to {last}"
        notes[-1] = f"forklift: raised by {which} of this call of Parallel"
    return error
