"""One fault in one pool, in a process of its own: what `benchmarks.faults` starts, watches and ends.

Says what happens as it happens, one line of JSON each, since it may not come to its end:

    {"item": 3}                        an item's result has reached the caller
    {"item": 3, "error": "..."}        an item's error has, by which the caller can tell the item
    {"call": "..."}                    the call as a whole raised this, and what is missing is lost
    {"interrupted": true}              the call was left by KeyboardInterrupt
    {"running": true}                  the item that was to be stopped still runs
    {"again": true}                    the same pool has answered another call, rightly
    {"again": false, "error": "..."}   it has raised, or answered wrongly
    {"end": true}                      the pool has been closed
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

WORKERS = 2
ITEMS = 20
BAD = 7
#: What a time limit is set to where there is one, in seconds.
ITEM_LIMIT = 1.0
#: Longer than any trial.
FOREVER = 600.0

Outcome = tuple[int, BaseException | None]


# What the workers do ---------------------------------------------------------------------------------------------


class TwoArguments(Exception):
    """Pickles, and cannot be unpickled: its constructor wants more than it hands on."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def work(how: str, folder: str, index: int) -> Any:
    """What every item does; item BAD does it wrong."""
    time.sleep(0.01)
    if how == "sleep":
        Path(folder, f"at-{os.getpid()}").touch()
        time.sleep(FOREVER)
    if index != BAD:
        return index
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(3)
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "hang":
        Path(folder, f"hangs-{os.getpid()}").touch()
        time.sleep(FOREVER)
    elif how == "result":
        return threading.Lock()
    elif how == "exception":
        raise TwoArguments("first", "second")
    return index


def pid(_: int) -> int:
    time.sleep(0.1)
    return os.getpid()


def square(index: int) -> int:
    return index * index


def leave() -> None:
    os._exit(4)


# The pools -------------------------------------------------------------------------------------------------------


class Lacking(Exception):
    """The pool has no such thing."""


class Way(ABC):
    """One pool, used so that a caller gets as much as it can give: one future an item, where it has futures."""

    name: ClassVar[str]
    package: ClassVar[str | None] = None

    @abstractmethod
    def start(self, initializer: Callable[[], None] | None) -> None: ...

    @abstractmethod
    def each(
        self, function: Callable[[int], Any], items: range, limit: float | None
    ) -> Iterator[Outcome]: ...

    def whole(self, function: Callable[[int], Any], items: range) -> None:
        """One blocking call for all items, as the pool's manual has it."""
        for _ in self.each(function, items, None):
            continue

    @abstractmethod
    def close(self) -> None: ...


class _Futures(Way):
    """Pools that are asked for one item at a time."""

    @abstractmethod
    def submit(self, function: Callable[[int], Any], item: int, limit: float | None) -> Any: ...

    def ready(self, future: Any) -> bool:
        return bool(future.done())

    def result(self, future: Any) -> Any:
        return future.result()

    def each(self, function: Callable[[int], Any], items: range, limit: float | None) -> Iterator[Outcome]:
        waiting = {item: self.submit(function, item, limit) for item in items}
        while waiting:
            for item in [item for item, future in waiting.items() if self.ready(future)]:
                future = waiting.pop(item)
                try:
                    self.result(future)
                    yield item, None
                except (Exception, SystemExit) as error:
                    yield item, error
            time.sleep(0.005)


class StandardPool(_Futures):
    name = "multiprocessing.Pool"

    def start(self, initializer: Callable[[], None] | None) -> None:
        self.pool: Any = multiprocessing.get_context("fork").Pool(WORKERS, initializer)

    def submit(self, function: Callable[[int], Any], item: int, limit: float | None) -> Any:
        if limit is not None:
            raise Lacking
        return self.pool.apply_async(function, (item,))

    def ready(self, future: Any) -> bool:
        return bool(future.ready())

    def result(self, future: Any) -> Any:
        return future.get()

    def whole(self, function: Callable[[int], Any], items: range) -> None:
        self.pool.map(function, items, 1)

    def close(self) -> None:
        self.pool.terminate()
        self.pool.join()


class Billiard(StandardPool):
    name = "billiard"
    package = "billiard"

    def start(self, initializer: Callable[[], None] | None) -> None:
        billiard = importlib.import_module("billiard.pool")
        # Its workers' deaths are noticed only after this time, 10 s unless told otherwise.
        self.pool = billiard.Pool(WORKERS, initializer, lost_worker_timeout=1.0, enable_timeouts=True)

    def submit(self, function: Callable[[int], Any], item: int, limit: float | None) -> Any:
        return self.pool.apply_async(function, (item,), timeout=limit)


class StandardExecutor(_Futures):
    name = "ProcessPoolExecutor"

    def start(self, initializer: Callable[[], None] | None) -> None:
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context("fork")
        self.executor: Any = ProcessPoolExecutor(WORKERS, context, initializer=initializer)

    def submit(self, function: Callable[[int], Any], item: int, limit: float | None) -> Any:
        if limit is not None:
            raise Lacking
        return self.executor.submit(function, item)

    def whole(self, function: Callable[[int], Any], items: range) -> None:
        list(self.executor.map(function, items))

    def close(self) -> None:
        self.executor.shutdown(wait=True, cancel_futures=True)


class Deadpool(StandardExecutor):
    name = "deadpool"
    package = "deadpool"

    def start(self, initializer: Callable[[], None] | None) -> None:
        deadpool = importlib.import_module("deadpool")
        self.executor = deadpool.Deadpool(max_workers=WORKERS, initializer=initializer)

    def submit(self, function: Callable[[int], Any], item: int, limit: float | None) -> Any:
        return self.executor.submit(function, item, deadpool_timeout=limit)


class Pebble(_Futures):
    name = "Pebble"
    package = "pebble"

    def start(self, initializer: Callable[[], None] | None) -> None:
        pebble = importlib.import_module("pebble")
        self.pool: Any = pebble.ProcessPool(max_workers=WORKERS, initializer=initializer)

    def submit(self, function: Callable[[int], Any], item: int, limit: float | None) -> Any:
        return self.pool.schedule(function, args=(item,), timeout=limit)

    def whole(self, function: Callable[[int], Any], items: range) -> None:
        list(self.pool.map(function, items).result())

    def close(self) -> None:
        self.pool.stop()
        self.pool.join()


class Joblib(Way):
    name = "joblib"
    package = "joblib"

    def start(self, initializer: Callable[[], None] | None) -> None:
        if initializer is not None:
            raise Lacking
        self.joblib = importlib.import_module("joblib")

    def each(self, function: Callable[[int], Any], items: range, limit: float | None) -> Iterator[Outcome]:
        joblib = self.joblib
        parallel = joblib.Parallel(n_jobs=WORKERS, return_as="generator", timeout=limit)
        for item, _ in zip(items, parallel(joblib.delayed(function)(i) for i in items), strict=True):
            yield item, None

    def close(self) -> None:
        loky = importlib.import_module("joblib.externals.loky")
        loky.get_reusable_executor().shutdown(wait=True, kill_workers=True)


class Mpire(Way):
    name = "mpire"
    package = "mpire"

    def start(self, initializer: Callable[[], None] | None) -> None:
        self.pool: Any = importlib.import_module("mpire").WorkerPool(WORKERS, keep_alive=True)
        self.initializer = initializer

    def each(self, function: Callable[[int], Any], items: range, limit: float | None) -> Iterator[Outcome]:
        results = self.pool.imap(
            function, list(items), chunk_size=1, task_timeout=limit, worker_init=self.initializer
        )
        for item, _ in zip(items, results, strict=True):
            yield item, None

    def close(self) -> None:
        self.pool.terminate()


class Ray(_Futures):
    name = "Ray"
    package = "ray"

    def start(self, initializer: Callable[[], None] | None) -> None:
        if initializer is not None:
            raise Lacking
        self.ray = importlib.import_module("ray")
        folder = os.environ["TMPDIR"]
        self.ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, _temp_dir=folder)

    def submit(self, function: Callable[[int], Any], item: int, limit: float | None) -> Any:
        if limit is not None:
            raise Lacking
        return self.ray.remote(max_retries=0)(lambda item: function(item)).remote(item)

    def ready(self, future: Any) -> bool:
        return bool(self.ray.wait([future], timeout=0)[0])

    def result(self, future: Any) -> Any:
        return self.ray.get(future)

    def whole(self, function: Callable[[int], Any], items: range) -> None:
        self.ray.get([self.submit(function, item, None) for item in items])

    def close(self) -> None:
        self.ray.shutdown()


class Forklift(Way):
    name = "forklift"
    package = "forklift"

    def start(self, initializer: Callable[[], None] | None) -> None:
        self.pool: Any = importlib.import_module("forklift").Pool(WORKERS, initializer)

    def each(self, function: Callable[[int], Any], items: range, limit: float | None) -> Iterator[Outcome]:
        results = self.pool.map(function, items, task_timeout=limit, on_error="return")
        for item, result in zip(items, results, strict=True):
            yield item, result if isinstance(result, BaseException) else None

    def close(self) -> None:
        self.pool.terminate()
        self.pool.join()


WAYS: tuple[type[Way], ...] = (
    StandardPool,
    StandardExecutor,
    Joblib,
    Mpire,
    Pebble,
    Deadpool,
    Billiard,
    Ray,
    Forklift,
)


# The trial -------------------------------------------------------------------------------------------------------


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def call(way: Way, how: str, folder: str, limit: float | None) -> None:
    """Give the pool its items, and tell what comes back."""
    try:
        if how == "sleep":  # it is the program that is struck, in the middle of a blocking call
            way.whole(functools.partial(work, how, folder), range(ITEMS))
        for item, error in way.each(functools.partial(work, how, folder), range(ITEMS), limit):
            say(item=item) if error is None else say(item=item, error=words(error))
    except Lacking:
        raise
    except KeyboardInterrupt:
        say(interrupted=True)
    except BaseException as error:
        say(call=words(error))


def ask_again(way: Way) -> None:
    """Whether the same pool can go on."""
    try:
        errors = [error for _, error in way.each(square, range(ITEMS), None) if error is not None]
    except BaseException as error:
        errors = [error]
    say(again=True) if not errors else say(again=False, error=words(errors[0]))


def kill_an_idle_worker(way: Way) -> None:
    seen = [int(path.name[3:]) for path in Path(os.environ["TMPDIR"]).glob("at-*")]
    os.kill(seen[0], signal.SIGKILL)
    end = time.monotonic() + 5
    while Path(f"/proc/{seen[0]}/cwd").exists() and time.monotonic() < end:
        time.sleep(0.01)  # a zombie has no directory
    time.sleep(0.2)


def note_pid(folder: str, _: int) -> None:
    Path(folder, f"at-{os.getpid()}").touch()
    time.sleep(0.05)


def main(name: str, how: str) -> None:
    """Be the user's process of one trial."""
    way = next(way for way in WAYS if way.name == name)()
    folder = os.environ["TMPDIR"]
    try:
        way.start(leave if how == "initializer" else None)
    except Lacking:
        say(lacking=True)
        return
    except BaseException as error:
        say(call=words(error))
        say(again=False, error="there is no pool")
        return
    if how == "idle":
        list(way.each(functools.partial(note_pid, folder), range(ITEMS), None))
        kill_an_idle_worker(way)
    try:
        call(way, how, folder, ITEM_LIMIT if how == "hang" else None)
    except Lacking:
        say(lacking=True)
        way.close()
        return
    stuck = [int(path.name[6:]) for path in Path(folder).glob("hangs-*")]
    if any(Path(f"/proc/{worker}/cwd").exists() for worker in stuck):
        say(running=True)
    ask_again(way)
    way.close()
    say(end=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
