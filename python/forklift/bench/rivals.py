"""Everything that is measured, behind one small face: start, map, apply, close.

Each is used as its own manual advises for a pool that is kept and called again. A rival whose package is
missing is named and left out.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

CHUNKS_PER_WORKER = 4  # what multiprocessing.Pool cuts a list into


class Rival(ABC):
    """One way to apply a function to many items."""

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    is_process_pool: ClassVar[bool] = True

    @abstractmethod
    def start(self, workers: int) -> None: ...

    @abstractmethod
    def map(self, function: Callable[[Any], Any], items: list[Any], small: bool) -> list[Any]: ...

    @abstractmethod
    def apply(self, function: Callable[[Any], Any], item: Any) -> Any: ...

    def map_inherited(self, function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        """The map, by workers that inherit the items, where a rival has a way to ask for it."""
        return self.map(function, items, False)

    @abstractmethod
    def close(self) -> None: ...


class Loop(Rival):
    name = "for loop"
    is_process_pool = False

    def start(self, workers: int) -> None:
        pass

    def map(self, function: Callable[[Any], Any], items: list[Any], small: bool) -> list[Any]:
        return [function(item) for item in items]

    def apply(self, function: Callable[[Any], Any], item: Any) -> Any:
        return function(item)

    def close(self) -> None:
        pass


class _PoolShaped(Rival):
    """What `multiprocessing.Pool` and those of its shape have in common."""

    pool: Any

    def map(self, function: Callable[[Any], Any], items: list[Any], small: bool) -> list[Any]:
        results: list[Any] = self.pool.map(function, items)
        return results

    def apply(self, function: Callable[[Any], Any], item: Any) -> Any:
        return self.pool.apply(function, (item,))

    def close(self) -> None:
        self.pool.terminate()
        self.pool.join()


class Threads(_PoolShaped):
    name = "threads"
    is_process_pool = False

    def start(self, workers: int) -> None:
        from multiprocessing.pool import ThreadPool

        self.pool = ThreadPool(workers)


class StandardPool(_PoolShaped):
    name = "multiprocessing.Pool"

    def start(self, workers: int) -> None:
        import multiprocessing

        self.pool = multiprocessing.get_context("fork").Pool(workers)


class StandardExecutor(Rival):
    name = "ProcessPoolExecutor"

    def start(self, workers: int) -> None:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        self.workers = workers
        self.executor = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"))

    def map(self, function: Callable[[Any], Any], items: list[Any], small: bool) -> list[Any]:
        chunk = len(items) // (self.workers * CHUNKS_PER_WORKER) if small else 1
        return list(self.executor.map(function, items, chunksize=max(1, chunk)))

    def apply(self, function: Callable[[Any], Any], item: Any) -> Any:
        return self.executor.submit(function, item).result()

    def close(self) -> None:
        self.executor.shutdown(cancel_futures=True)


class Joblib(Rival):
    name = "joblib"
    package = "joblib"

    def start(self, workers: int) -> None:
        joblib = importlib.import_module("joblib")
        self.delayed = joblib.delayed
        self.parallel = joblib.Parallel(n_jobs=workers, backend="loky")
        self.parallel.__enter__()

    def map(self, function: Callable[[Any], Any], items: list[Any], small: bool) -> list[Any]:
        results: list[Any] = self.parallel(self.delayed(function)(item) for item in items)
        return results

    def apply(self, function: Callable[[Any], Any], item: Any) -> Any:
        return self.parallel([self.delayed(function)(item)])[0]

    def close(self) -> None:
        self.parallel.__exit__(None, None, None)
        loky = importlib.import_module("joblib.externals.loky")
        loky.get_reusable_executor().shutdown(wait=True, kill_workers=True)


class Mpire(Rival):
    name = "mpire"
    package = "mpire"

    def start(self, workers: int) -> None:
        mpire = importlib.import_module("mpire")
        self.pool = mpire.WorkerPool(n_jobs=workers, start_method="fork", keep_alive=True)

    def map(self, function: Callable[[Any], Any], items: list[Any], small: bool) -> list[Any]:
        # Unless told, it spreads an iterable item over the arguments and joins arrays that come back.
        arguments = [(item,) for item in items]
        results: list[Any] = self.pool.map(function, arguments, concatenate_numpy_output=False)
        return results

    def apply(self, function: Callable[[Any], Any], item: Any) -> Any:
        return self.pool.apply(function, args=(item,))

    def close(self) -> None:
        self.pool.terminate()


class Forklift(_PoolShaped):
    name = "forklift"
    package = "forklift"

    def start(self, workers: int) -> None:
        self.pool = importlib.import_module("forklift").Pool(workers)

    def map_inherited(self, function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        results: list[Any] = self.pool.map(function, items, inherit=True)
        return results


RIVALS: tuple[type[Rival], ...] = (Loop, Threads, StandardPool, StandardExecutor, Joblib, Mpire, Forklift)


def missing(packages: tuple[str, ...]) -> list[str]:
    """Those of these packages that are not installed."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def is_installed(rival: type[Rival]) -> bool:
    """Whether the rival can be measured here."""
    return rival.package is None or not missing((rival.package,))


def named(name: str) -> type[Rival]:
    """The rival of this name."""
    return next(rival for rival in RIVALS if rival.name == name)
