"""`forklift.map` and `forklift.starmap`: calls on a pool that is kept for the next call with the same settings.

| a pool is | users | ends |
|---|---|---|
| at work | 1 or more | not now |
| idle | 0 | after `IDLE_SECONDS`, when `KEPT_MAX` others were used later, or with the interpreter |
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterable
from contextlib import contextmanager
from typing import Any, TypeVar, Unpack

from forklift import _native, _options, _settings
from forklift.pool import RUN, Pool

S = TypeVar("S")
T = TypeVar("T")

__all__ = ["map", "starmap"]

# How long workers wait for another call. Starting them anew takes some tens of milliseconds, and they hold memory.
IDLE_SECONDS = 60.0

# Idle pools, of different settings: somebody who tries several numbers of processes shall not collect them all.
KEPT_MAX = 2

#: Options that are a call's own; all others are the pool's.
_OF_A_CALL = ("chunksize", "length", "on_error", "inherit", "retries", "task_timeout", "progress")


def map(
    func: Callable[[S], T],
    items: Iterable[S],
    processes: int | None = None,
    **options: Unpack[_options.MapOptions],
) -> list[T]:
    """Return `[func(item) for item in items]`, the calls made by workers, in order: `Pool.map` without a pool.

    ```python
    import forklift

    results = forklift.map(func, items)
    ```

    The workers stay for the next call with equal settings, for a minute at most, and end with this process. Threads may
    call this at the same time, and share the workers; a fork of this process gets workers of its own.

    Args:
        func, items: as for `Pool.map`.
        processes: how many workers; by default the cores that affinity and cgroup quota leave to this process.
        options: of the call: `chunksize`, `length`, `on_error`, `inherit`, `retries`, `task_timeout`, `progress`; of
            the pool: `initializer`, `initargs`, `maxtasksperchild`, `context`, `memory_limit`, `worker_memory_limit`,
            `spill_dir`, `preload`, `backend`, and only if all of these are pickled as they were (a context and a
            backend: are the same object) are the workers those of an earlier call. If one of these cannot be pickled
            (a lock among `initargs`), the pool ends with the call.

    Raises:
        As `Pool` and `Pool.map`.
    """
    with _pool("forklift.map()", processes, options) as (pool, terms):
        return pool.map(func, items, **terms)


def starmap(
    func: Callable[..., T],
    items: Iterable[Iterable[Any]],
    processes: int | None = None,
    **options: Unpack[_options.MapOptions],
) -> list[T]:
    """Return `[func(*item) for item in items]`; see `map`."""
    with _pool("forklift.starmap()", processes, options) as (pool, terms):
        return pool.starmap(func, items, **terms)


@contextmanager
def _pool(
    caller: str, processes: int | None, options: _options.MapOptions
) -> Generator[tuple[Pool, dict[str, Any]], None, None]:
    """Lend a pool, with the options that are the call's own."""
    _options.known(caller, options, _options.MapOptions.__annotations__)
    terms: dict[str, Any] = {name: value for name, value in options.items() if name in _OF_A_CALL}
    settings: dict[str, Any] = {name: value for name, value in options.items() if name not in _OF_A_CALL}
    settings["processes"] = _native.cores() if processes is None else _options.processes(processes)
    for name in ("initargs", "preload"):  # A text is not a list of names, which the pool will say.
        if name in settings and not isinstance(settings[name], str):
            settings[name] = tuple(settings[name])
    key = _settings.key(settings)
    if key is None or _shelf.exiting:
        with Pool(**settings) as pool:
            yield pool, terms
        return
    shelf = _shelf
    kept = shelf.take(key, settings)
    try:
        yield kept.pool, terms
    finally:
        shelf.put_back(kept)


class _Kept:
    """A pool, and how many use it, or since when nobody does."""

    def __init__(self, key: Hashable, settings: dict[str, Any], pool: Pool) -> None:
        self.key = key
        # What the key names by its address lives as long.
        self.places = [settings.get(name) for name in _settings.PLACES]
        self.pool = pool
        self.users = 0
        self.idle_since = 0.0

    def is_good(self) -> bool:
        """Whether calls can be made: the initializer may have broken the pool."""
        native = self.pool._native
        return self.pool._state == RUN and native is not None and not native.is_over()

    def end(self) -> None:
        """Let the workers go. Nothing is left to do for them."""
        self.pool.close()
        self.pool.join()


class _Shelf:
    """The pools of this process. A fork gets a shelf of its own."""

    def __init__(self) -> None:
        # Reentrant, since making a pool pickles what the user gave, and that may call us.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.kept: dict[Hashable, _Kept] = {}
        self.keeper: threading.Thread | None = None
        self.exiting = False

    def take(self, key: Hashable, settings: dict[str, Any]) -> _Kept:
        with self.lock:
            kept = self.kept.get(key)
            if kept is not None and not kept.is_good():
                if not kept.users:  # Else whoever uses it last ends it.
                    kept.pool.close()
                kept = None
            if kept is None:
                kept = _Kept(key, settings, Pool(**settings))
                # Else another thread has changed what was pickled meanwhile: the pool ends with this call.
                if _settings.key(settings) == key:
                    self.kept[key] = kept
            kept.users += 1
            return kept

    def put_back(self, kept: _Kept) -> None:
        with self.lock:
            kept.users -= 1
            if kept.users:
                return
            kept.idle_since = time.monotonic()
            ending = self.surplus()
            if self.kept.get(kept.key) is not kept:  # Another took its place, since it was no good.
                ending.append(kept)
            self.remove(ending)
            if self.keeper is None and self.kept and not self.exiting:
                self.keeper = threading.Thread(target=self.keep, name="forklift-keeper", daemon=True)
                self.keeper.start()
            self.changed.notify_all()
        for other in ending:
            other.end()

    def surplus(self) -> list[_Kept]:
        """Return idle pools that are no good, and those that were used longest ago, beyond the number to keep."""
        idle = sorted(self.idle(), key=lambda kept: kept.idle_since, reverse=True)
        good = [kept for kept in idle if kept.is_good()]
        return [kept for kept in idle if kept not in good[:KEPT_MAX]]

    def idle(self) -> list[_Kept]:
        return [kept for kept in self.kept.values() if not kept.users]

    def remove(self, ending: Iterable[_Kept]) -> None:
        for kept in ending:
            if self.kept.get(kept.key) is kept:
                del self.kept[kept.key]

    def let_go(self, older_than: float = 0.0) -> None:
        """End the pools that nobody has used for so many seconds."""
        with self.lock:
            latest = time.monotonic() - older_than
            ending = [kept for kept in self.idle() if kept.idle_since <= latest]
            self.remove(ending)
            self.changed.notify_all()
        for kept in ending:
            kept.end()

    def keep(self) -> None:
        """Let go of what is idle too long, as long as there is anything: a thread's target."""
        while True:
            with self.lock:
                if not self.kept:
                    self.keeper = None
                    return
                ends = [kept.idle_since + IDLE_SECONDS for kept in self.idle()]
                self.changed.wait(max(0.0, min(ends) - time.monotonic()) if ends else None)
            self.let_go(IDLE_SECONDS)


_shelf = _Shelf()

# Of the process that this one was forked from. Not dropped: what they hold is that process's.
_elsewhere: list[_Shelf] = []


def _start_anew() -> None:
    global _shelf
    _elsewhere.append(_shelf)
    _shelf = _Shelf()


@atexit.register
def _at_exit() -> None:
    """Keep nothing any more: who calls now, from another exit function, gets workers for that call alone."""
    _shelf.exiting = True


os.register_at_fork(after_in_child=_start_anew)
