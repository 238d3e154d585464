"""The same maps through Forklift on Ray and on Dask, and by what each engine offers itself.

`python -m benchmarks.clusters` starts a Ray and a Dask on this machine, two workers each, and writes the tables of
docs/scale-out.md: how fast, what an item and a byte cost on their way, and what follows for more nodes. `--quick` is a
short look that writes nothing. Rounds are interleaved, and results compared with a for loop's.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import forklift
from forklift.bench.page import milliseconds, quotient, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scale-out.md"
WORKERS = 2
ROUNDS = 8
# No more rounds of a way that has taken so long in all.
PATIENCE_SECONDS = 20.0

MB = 1_000_000

Way = Callable[[Callable[[Any], Any], list[Any]], list[Any]]


def busy(number: int) -> int:
    """50 µs of work."""
    until = time.perf_counter() + 50e-6
    while time.perf_counter() < until:
        pass
    return number + 1


def negated(number: int) -> int:
    return -number


def total(array: Any) -> float:
    return float(array.sum())


def doubled(array: Any) -> Any:
    return array * 2


def made(number: int) -> Any:
    return np.full(MB, float(number))


def looked_up(pair: tuple[Any, int]) -> float:
    return float(pair[0][pair[1]])


def arrays(count: int) -> list[Any]:
    return [np.full(MB, float(number)) for number in range(count)]


def pairs(count: int) -> list[Any]:
    shared = np.arange(8 * MB, dtype=float)
    return [(shared, number) for number in range(count)]


#: Title, function, items.
CASES: dict[str, tuple[Callable[[Any], Any], Callable[[], list[Any]]]] = {
    "2000 integers, negated": (negated, lambda: list(range(2000))),
    "2000 integers, 50 µs of work each": (busy, lambda: list(range(2000))),
    "40 arrays of 8 MB, `a.sum()`": (total, lambda: arrays(40)),
    "40 arrays of 8 MB in, `a * 2` out": (doubled, lambda: arrays(40)),
    "40 integers in, 8 MB arrays out": (made, lambda: list(range(40))),
    "100 tuples that hold one array of 64 MB": (looked_up, lambda: pairs(100)),
}


# Ray ---------------------------------------------------------------------------------------------------------------


@contextmanager
def ray_ways() -> Generator[dict[str, Way], None, None]:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray
    from ray.util.multiprocessing import Pool as RayPool

    ray.init(num_cpus=3 * WORKERS, include_dashboard=False, configure_logging=False, log_to_driver=False)

    def tasks(func: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        remote = ray.remote(func)
        results: list[Any] = ray.get([remote.remote(item) for item in items])
        return results

    def tasks_with_put(func: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        """As Ray's documentation has it: what is shared is put into the store by hand."""
        reference = ray.put(items[0][0])
        remote = ray.remote(lambda array, number: func((array, number)))
        results: list[Any] = ray.get([remote.remote(reference, number) for _, number in items])
        return results

    theirs = RayPool(WORKERS)
    with forklift.Pool(WORKERS, backend="ray") as ours:
        yield {
            "ray.util.multiprocessing.Pool": theirs.map,
            "Ray's tasks": tasks,
            "Ray's tasks, `ray.put` by hand": tasks_with_put,
            "forklift": ours.map,
        }
    theirs.terminate()
    ray.shutdown()


# Dask --------------------------------------------------------------------------------------------------------------


@contextmanager
def dask_ways() -> Generator[dict[str, Way], None, None]:
    import distributed

    # A process for each worker, which is what Dask does best with functions that hold the interpreter's lock.
    cluster = distributed.LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
    )
    client = distributed.Client(cluster, set_as_default=False)

    def client_map(func: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        results: list[Any] = client.gather(client.map(func, items, pure=False))
        return results

    def scattered(func: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        """As Dask's documentation has it: what is shared is scattered by hand."""
        reference = client.scatter(items[0][0], broadcast=True, hash=False)
        call = lambda number, array: func((array, number))  # noqa: E731
        numbers = [number for _, number in items]
        results: list[Any] = client.gather(client.map(call, numbers, array=reference, pure=False))
        return results

    with forklift.Pool(WORKERS, backend=client) as ours:
        yield {
            "Client.map": client_map,
            "Client.map, `scatter` by hand": scattered,
            "forklift": ours.map,
        }
    client.close()
    cluster.close()


ENGINES: dict[str, Callable[[], Any]] = {"Ray": ray_ways, "Dask": dask_ways}


# Measuring ---------------------------------------------------------------------------------------------------------


def same(found: list[Any], expected: list[Any]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


def interleaved(ways: dict[str, Way], title: str, rounds: int) -> dict[str, float | None]:
    """Return the warm medians of a case."""
    func, items = CASES[title]
    given = items()
    expected = [func(item) for item in given]
    shared = "hold one array" in title
    names = [name for name in ways if shared or "by hand" not in name]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        # Drawn anew: what one has left behind for the engine to do costs the next.
        for name in random.Random(number).sample(names, len(names)):
            taken = seconds[name]
            if sum(taken) > PATIENCE_SECONDS:
                continue
            begin = time.perf_counter()
            found = ways[name](func, given)
            end = time.perf_counter()
            if not same(found, expected):
                raise SystemExit(f"{name} has other results for {title}")
            del found
            if number or end - begin > PATIENCE_SECONDS:
                taken.append(end - begin)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def compared(engine: str, ways: dict[str, Way], rounds: int) -> str:
    rows = [["warm median, ms", *ways, "vs the best of the engine's own"]]
    for title in CASES:
        print(f"{engine}: {title}", file=sys.stderr)
        medians = interleaved(ways, title, rounds)
        best = min(taken for name, taken in medians.items() if name != "forklift" and taken is not None)
        cells = [milliseconds(medians[name]) if name in medians else "" for name in ways]
        rows.append([title, *cells, quotient(best, medians["forklift"])])
    return table(rows)


def median_of(call: Callable[[], Any], rounds: int) -> float:
    taken = []
    for number in range(rounds + 1):
        begin = time.perf_counter()
        call()
        if number:
            taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def costs(way: Way, rounds: int) -> tuple[float, float, float]:
    """Return seconds for a call there and back, for an item among many, and for a byte on its way in."""
    call = median_of(lambda: way(negated, [1]), 4 * rounds)
    many = 20_000
    item = median_of(lambda: way(negated, list(range(many))), rounds) / many
    large = arrays(20)
    byte = median_of(lambda: way(total, large), rounds) / (20 * 8 * MB)
    return call, item, byte


# The model ---------------------------------------------------------------------------------------------------------

#: What a call of so many items, seconds and bytes each would take; for how many workers.
MODELLED = {
    "10^6 items of 1 ms and 1 KB": (10**6, 1e-3, 1e3),
    "10^5 items of 100 ms and 1 MB": (10**5, 0.1, 1e6),
    "10^4 items of 10 s and 100 MB": (10**4, 10.0, 1e8),
}
MODELLED_WORKERS = (8, 64, 512, 4096)


def modelled(cost: tuple[float, float, float]) -> str:
    """Return how many times as fast as one worker the head lets a cluster be.

    The head encodes each item and sends each byte: a call takes at least what that takes, and at least its work divided
    by the workers, and a trip there and back. Nothing is said of the network between machines, which this one has not.
    """
    call, item, byte = cost
    rows = [["calculated: speed-up with", *(f"{workers} workers" for workers in MODELLED_WORKERS), "at most"]]
    for title, (items, seconds, size) in MODELLED.items():
        work = items * seconds
        head = items * (item + size * byte)
        reached = [work / (max(work / workers, head) + call) for workers in MODELLED_WORKERS]
        rows.append([title, *(f"{times:.0f}" for times in reached), f"{work / (head + call):.0f}"])
    return table(rows)


def replaced(text: str, name: str, figures: str) -> str:
    mark = re.escape(f"<!-- table: python -m benchmarks.clusters, {name} -->")
    pattern = re.compile(rf"({mark}\n).*?(<!-- end of table -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"docs/scale-out.md has no place for the table {name!r}")
    return pattern.sub(lambda found: f"{found[1]}{figures}\n{found[2]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, and nothing is written")
    quick = parser.parse_args().quick
    rounds = 1 if quick else ROUNDS
    warnings.simplefilter("ignore")  # Of the engines about themselves.
    tables: dict[str, str] = {}
    rows = [["", "a call there and back", "an item among many", "a megabyte on its way in"]]
    for engine, open_ways in ENGINES.items():
        with open_ways() as ways:
            tables[engine] = compared(engine, ways, rounds)
            cost = costs(ways["forklift"], rounds)
        call, item, byte = cost
        rows.append(
            [f"{engine}", f"{call * 1e3:.1f} ms", f"{item * 1e6:.2f} µs", f"{byte * MB * 1e3:.2f} ms"]
        )
        tables[f"{engine}, more nodes"] = modelled(cost)
    with forklift.Pool(WORKERS) as pool:
        call, item, byte = costs(pool.map, rounds)
    rows.append(["this machine", f"{call * 1e3:.2f} ms", f"{item * 1e6:.2f} µs", f"{byte * MB * 1e3:.2f} ms"])
    tables["costs"] = table(rows)
    for name, figures in tables.items():
        print(f"{name}\n{figures}\n")
    if not quick:
        text = PAGE.read_text()
        for name, figures in tables.items():
            text = replaced(text, name, figures)
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
