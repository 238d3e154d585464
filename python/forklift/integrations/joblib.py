"""The joblib back end `"forklift"`. `forklift.register_joblib` gives it its name."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable
from typing import Any

import joblib
from joblib.parallel import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend, mp

from forklift import _births, _settings
from forklift._ends import TERMINATE
from forklift.integrations.batches import Call
from forklift.pool import Pool

__all__ = ["ForkliftBackend", "end_pools"]

# As long as loky's workers wait.
IDLE_SECONDS = 300.0

# What joblib passes to every back end and has no meaning here: there are no files, and no fork of this process.
_WITHOUT_MEANING = ("temp_folder", "mmap_mode", "prefer", "require", "verbose", "context")


class ForkliftBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """A joblib back end over `forklift.Pool`.

    Made by joblib once `forklift.register_joblib()` was called, which says what it does. `Parallel(backend=
    ForkliftBackend())` works without that. Options are those of `forklift.Pool` but `processes` and `context`, with
    `cluster` in the place of `backend`, which joblib has another meaning for; and `idle_worker_timeout`.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    _call: Call | None = None
    _kept: _Kept | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the number of workers: -1 stands for all cores, -2 for all but one, None for one."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or mp is None:  # joblib was told by its variable to do without processes.
            return 1
        return n_jobs if n_jobs > 0 else max(joblib.cpu_count() + 1 + n_jobs, 1)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        max_nbytes: int | None = 1 << 20,
        idle_worker_timeout: float | None = None,
        **options: Any,
    ) -> int:
        """Take in the settings of a `Parallel`. Workers are born with its first batch."""
        everywhere = n_jobs == -1 and options.get("cluster", self.backend_kwargs.get("cluster")) is not None
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1 and not everywhere:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._max_nbytes = max_nbytes
        given = {**self.backend_kwargs, **options}
        for name in _WITHOUT_MEANING:
            given.pop(name, None)
        seconds = (
            given.pop("idle_worker_timeout", None) if idle_worker_timeout is None else idle_worker_timeout
        )
        self._idle_seconds = IDLE_SECONDS if seconds is None else seconds
        cluster = given.pop("cluster", None)
        if cluster is not None:
            given["backend"] = cluster
        self._settings = (None if everywhere else n_jobs, self.inner_max_num_threads, given)
        if everywhere:  # Nobody else knows how many that are.
            self._kept = _borrow(self._settings, None)
            return self._kept.pool._processes
        return n_jobs

    def submit(self, func: Any, callback: Any = None) -> None:
        """Take a batch of tasks."""
        if self._call is None:
            if self._kept is None:
                self._kept = _borrow(self._settings, func)
            self._call = Call(self._kept.pool, self._max_nbytes)
        self._call.submit(func, callback)

    def retrieve_result_callback(self, out: Any) -> Any:
        """Return the results of a batch, or raise what it raised."""
        if isinstance(out, BaseException):
            raise out
        return out

    def stop_call(self) -> None:
        """End a call: all its batches are done, or it was aborted."""
        if self._call is not None:
            self._call.finish()
            self._call = None

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop this call at once. Others that use the same workers go on."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def terminate(self) -> None:
        """Give the workers back; they are kept for later calls."""
        self.stop_call()
        if self._kept is not None:
            _give_back(self._kept, self._idle_seconds)
            self._kept = None
        self.reset_batch_stats()


# Kept pools ------------------------------------------------------------------------------------------------------


class _Kept:
    """A pool that calls with equal settings share, and that outlives them."""

    def __init__(self, key: Hashable | None, pool: Pool, place: object) -> None:
        self.key = key
        self.pool = pool
        # What the key names by its address lives as long.
        self.place = place
        self.users = 0
        self.timer: threading.Timer | None = None

    def end(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.pool.terminate()


_pools: list[_Kept] = []
_lock = threading.RLock()


class _Pool(Pool):
    """A pool whose workers' libraries may use as many threads as joblib was told."""

    def __init__(self, processes: int | None, threads: int | None, **options: Any) -> None:
        self._threads_each = threads
        super().__init__(processes, **options)

    def _environment(self, processes: int) -> list[tuple[str, str]]:
        variables = super()._environment(processes)
        if self._threads_each is None:
            return variables
        names = ParallelBackendBase.MAX_NUM_THREADS_VARS
        return [*variables, *((name, str(self._threads_each)) for name in names)]


def _borrow(settings: tuple[Any, ...], batch: Any) -> _Kept:
    """Return the kept pool of these settings, or make one; idle ones of other settings are ended."""
    n_jobs, threads, options = settings
    # Either may be an iterator, which can be gone through once.
    options = {**options, **{name: tuple(options.get(name, ())) for name in ("initargs", "preload")}}
    named = {**options, "n_jobs": n_jobs, "threads": threads}
    key = _settings.key(named)
    with _lock:
        for kept in list(_pools):
            usable = kept.pool._state != TERMINATE
            if usable and key is not None and kept.key == key:
                break
            if not kept.users:
                _pools.remove(kept)
                kept.end()
        else:
            preload = [*options["preload"], *_modules_of(batch)]
            pool = _Pool(n_jobs, threads, **{**options, "preload": preload})
            # Another thread may have changed what was pickled meanwhile: then nobody knows what it was.
            kept = _Kept(key if _settings.key(named) == key else None, pool, options.get("backend"))
            _pools.append(kept)
        kept.users += 1
        if kept.timer is not None:
            kept.timer.cancel()
            kept.timer = None
        return kept


def _give_back(kept: _Kept, idle_seconds: float) -> None:
    with _lock:
        kept.users -= 1
        if kept.users or kept not in _pools:
            return
        kept.timer = threading.Timer(idle_seconds, _end_idle, (kept,))
        kept.timer.name = "forklift-joblib-idle"
        kept.timer.daemon = True
        kept.timer.start()


def _end_idle(kept: _Kept) -> None:
    with _lock:
        if kept.users or kept not in _pools:
            return
        _pools.remove(kept)
        kept.end()


def end_pools() -> None:
    """End the workers that wait for further calls of joblib. Those of calls that run go on."""
    with _lock:
        for kept in [kept for kept in _pools if not kept.users]:
            _pools.remove(kept)
            kept.end()


def _forget() -> None:
    """In a fork of this process: the pools are the parent's."""
    global _lock
    _lock = threading.RLock()
    _pools.clear()


os.register_at_fork(after_in_child=_forget)


def _modules_of(batch: Any) -> set[str]:
    """Return the modules that workers will need for a batch, so that they are born with them."""
    names = {"forklift.integrations.batches", "forklift.integrations.arrays", "joblib.parallel"}
    for func, args, kwargs in getattr(batch, "items", ())[:1]:
        names |= _births.modules_of(func, [[*args, *kwargs.values()]])
    return names
