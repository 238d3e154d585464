"""Calls of all kinds, over and over: what a program that runs for a year does to its pools."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import forklift
from tests.soak import figures
from tests.soak.figures import Figures

__all__ = ["KINDS", "Load", "rest_seconds"]

#: Calls of a kind between two rests.
REPEATS = 12


def rest_seconds() -> float:
    """After which idle memory has been given back, on both sides."""
    return 3 * float(os.environ.get("FORKLIFT_TRIM_SECONDS", "10"))


def tenfold(value: Any) -> Any:
    return value * 10


def in_place(array: Any) -> Any:
    array += 1
    return array


def quarter(task: dict[str, Any]) -> Any:
    return task["array"][: len(task["array"]) // 4]


class Load:
    """Long-lived pools, and calls on them."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.calls = 0
        self.held: list[Any] = []
        #: Of which workers are killed, and of which they are replaced.
        self.pool = forklift.Pool(2)
        self.other = forklift.Pool(2, maxtasksperchild=20)
        #: Of which they live as long as this.
        self.steady = forklift.Pool(2)
        self.executor = forklift.Executor(1)

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *exc: object) -> None:
        self.held.clear()
        self.executor.shutdown()
        for pool in (self.pool, self.other, self.steady):
            pool.terminate()
            pool.join()

    def pool_of_any(self) -> forklift.Pool:
        return self.dice.choice([self.pool, self.other, self.steady])

    def one(self, kind: Callable[[Load], int]) -> None:
        self.calls += kind(self)

    def round(self, repeats: int = REPEATS) -> None:
        """All kinds, in any order, and a rest."""
        kinds = KINDS * repeats
        self.dice.shuffle(kinds)
        for kind in kinds:
            self.one(kind)
        self.rest()

    def rest(self) -> None:
        """Nobody holds anything, and nothing is to be done."""
        self.held.clear()
        time.sleep(rest_seconds())

    def look(self) -> dict[str, Figures]:
        """The figures at rest, of this process, of the fork servers, and of workers that nobody has replaced."""
        pools = [self.steady, self.executor._desk.pool]
        workers = {worker.pid for pool in pools for worker in pool.workers() if worker.pid is not None}
        return {
            "parent": figures.highest([figures.of(os.getpid())]),
            "fork servers": figures.highest(figures.of(int(pid)) for pid in children_of(os.getpid())),
            "workers": figures.highest(map(figures.of, workers)),
        }


def children_of(pid: int) -> list[str]:
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/task/{task}/children") as file:
            found += file.read().split()
    return found


def small_map(load: Load) -> int:
    assert load.steady.map(tenfold, range(50)) == list(range(0, 500, 10))
    return 1


def small_calls(load: Load) -> int:
    assert [load.steady.apply(tenfold, (number,)) for number in range(30)] == list(range(0, 300, 10))
    return 30


def large_map(load: Load) -> int:
    arrays = [np.full(20_000 + load.dice.randrange(20_000), number) for number in range(6)]
    results = load.pool_of_any().map(in_place, arrays, chunksize=load.dice.choice([None, 1, 3]))
    assert [int(result[-1]) for result in results] == [1, 2, 3, 4, 5, 6]
    load.held = [*load.held[-6:], *results[:2]]
    return 1


def large_calls(load: Load) -> int:
    pool = load.pool_of_any()
    pending = [pool.apply_async(in_place, (np.zeros(15_000),)) for _ in range(8)]
    assert all(each.get()[-1] == 1 for each in pending)
    return 8


def lent_on(load: Load) -> int:
    """Results of one pool to another, and those back."""
    made = load.steady.map(in_place, [np.zeros(30_000) for _ in range(3)])
    once = load.other.map(in_place, made)
    assert [float(array[0]) for array in load.steady.map(tenfold, once)] == [20, 20, 20]
    return 3


def shared(load: Load) -> int:
    with forklift.shared_arrays():
        arrays = [np.full(20_000, number) for number in range(3)]
    assert [int(array[0]) for array in load.pool_of_any().map(in_place, arrays)] == [1, 2, 3]
    with load.steady.share(arrays[1]) as value:
        assert int(load.steady.apply(tenfold, (value,))[5]) == 10
    return 3


def common(load: Load) -> int:
    whole = np.arange(40_000)
    parts = load.pool_of_any().map(quarter, [{"array": whole, "number": number} for number in range(5)])
    assert all(len(part) == 10_000 for part in parts)
    return 1


def streams(load: Load) -> int:
    items = (np.full(10_000, number) for number in range(10))
    assert sum(int(array[0]) for array in load.pool_of_any().imap_unordered(in_place, items)) == 55
    return 1


def callbacks(load: Load) -> int:
    heard: list[Any] = []
    load.steady.apply_async(tenfold, (1,), callback=heard.append).get()
    load.steady.map_async(tenfold, [1, 2], callback=heard.append).get()
    assert len(heard) == 2
    return 2


def futures(load: Load) -> int:
    assert [f.result() for f in [load.executor.submit(tenfold, n) for n in range(20)]] == list(
        range(0, 200, 10)
    )
    assert list(load.executor.map(tenfold, range(10))) == list(range(0, 100, 10))
    return 21


def blocks(load: Load) -> int:
    assert load.pool_of_any().map_blocks(in_place, np.zeros(50_000), block=20_000, out=True)[-1] == 1
    return 1


def errors(load: Load) -> int:
    outcomes = load.steady.map(tenfold, [None, 1], on_error="return")
    assert isinstance(outcomes[0], TypeError)
    return 1


def dropped(load: Load) -> int:
    if load.dice.random() < 0.5:
        stream = load.pool.imap(tenfold, range(10_000), chunksize=1)
        assert next(stream) == 0
    return 1


def killed(load: Load) -> int:
    if load.dice.random() < 0.3:
        pids = [worker.pid for worker in load.pool.workers() if worker.pid is not None]
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGKILL)
    assert load.pool.map(tenfold, range(4), retries=5) == [0, 10, 20, 30]
    return 1


def short_lived(load: Load) -> int:
    if load.dice.random() < 0.3:
        with forklift.Pool(1) as pool:
            load.held.append(pool.map(in_place, [np.zeros(10_000)]))
        pool.join()
    return 1


def one_liner(load: Load) -> int:
    assert forklift.map(tenfold, range(5), 1) == [0, 10, 20, 30, 40]
    return 1


KINDS: list[Callable[[Load], int]] = [
    small_map,
    small_calls,
    small_calls,
    large_map,
    large_calls,
    lent_on,
    shared,
    common,
    streams,
    callbacks,
    futures,
    blocks,
    errors,
    dropped,
    killed,
    short_lived,
    one_liner,
]
