"""The experiments: settings are tried on real items, and the better half goes on to more of them.

Successive halving (Jamieson and Talwalkar, 2016, "Non-stochastic best arm identification and hyperparameter
optimization"): all settings run over few items; the better half runs over twice as many, and so on. First one field
at a time is changed; then the best values of all fields are joined. In each round the settings take turns, so that a
noisy moment hits them all, and the for loop and the automatic settings stay to the end.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from forklift import _inherit, _native, _options, _threads
from forklift._units import counted
from forklift._units import seconds as words_for
from forklift.pool import Pool
from forklift.tuning.findings import AUTOMATIC, MARGIN, Setting, Trial, Tuning

# Shares of the time: to learn what an item costs, and to compare the finalists.
LOOK_SHARE = 0.08
FINAL_SHARE = 0.3
RUNS = 2
FINAL_RUNS = 5
FINALISTS = 3
SETTINGS_ABOUT = 14
THREADS = "OMP_NUM_THREADS"


def tune(
    func: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    seconds: float = 30.0,
    processes: Iterable[int] | None = None,
    chunksize: Iterable[int] | None = None,
    inherit: Iterable[bool | Literal["auto"]] | None = None,
    maxtasksperchild: Iterable[int] | None = None,
    threads: Iterable[int] | None = None,
    function: str | None = None,
    say: Callable[[str], object] | None = None,
) -> Tuning:
    """Find by experiment how to map `func` over `items`.

    The function is called many times for the same items, in this process as well; it should do no harm by that. Items
    are taken evenly from all of them.

    Args:
        func: what would be mapped.
        items: the items; an iterator is read to its end.
        seconds: how long it may take, about; a single run that takes longer is not cut short.
        processes, chunksize, inherit, maxtasksperchild, threads: values to try beside the automatic ones; by default
            some that may be good here. An empty list: leave it alone.
        function: what to call the function in the line to paste.
        say: called with a line of words now and then.

    Returns:
        A `Tuning`: `print` it, or take `best`, `line`, `verdict`, `trials`; `save` writes a page.

    Raises:
        ValueError: for no items, or values that no pool would take.
        Whatever the function raises for an item in this process.
    """
    held = items if isinstance(items, (list, tuple)) else list(items)
    if not held:
        raise ValueError("tune needs items to try: there are none")
    if not callable(func):
        raise TypeError(f"func must be a callable, not {type(func).__name__}")
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, not {seconds}")
    begin = time.monotonic()
    bench = _Bench(func, held, begin + seconds, say or (lambda words: None))
    cost = bench.look(seconds * LOOK_SHARE)
    # The first round shall take a sixth of the time, if all were as fast as the loop.
    size = min(
        max(int(seconds / 6 / (SETTINGS_ABOUT * RUNS) / max(cost, 1e-9)), 2 * _native.cores()), len(held)
    )
    levels = _levels(size, processes, chunksize, inherit, maxtasksperchild, threads, cost)
    try:
        _search(bench, levels, size, seconds)
    finally:
        bench.close()
    name = function or str(getattr(func, "__name__", "func"))
    trials = sorted(bench.trials.values(), key=lambda trial: (-trial.items, trial.per_item))
    return Tuning(name, trials, time.monotonic() - begin)


def _levels(
    count: int,
    processes: Iterable[int] | None,
    chunksize: Iterable[int] | None,
    inherit: Iterable[bool | Literal["auto"]] | None,
    maxtasksperchild: Iterable[int] | None,
    threads: Iterable[int] | None,
    cost: float,
) -> dict[str, list[Any]]:
    """Values to try of each field, beside the automatic one, where the first round has `count` items."""
    cores = _native.cores()
    share = math.ceil(count / cores)
    given: dict[str, list[Any]] = {}
    given["processes"] = (
        sorted({1, max(1, cores // 2), 2 * cores})
        if processes is None
        else [_options.processes(n) for n in processes]
    )
    sizes = sorted({size for size in (1, 4, 16, 64, 256, share // 4, share) if 1 <= size <= share})
    given["chunksize"] = sizes if chunksize is None else [_options.chunks(size) for size in chunksize]
    forkable = sys.platform == "linux" and not _threads.foreign()
    given["inherit"] = ([True, False] if forkable else [False]) if inherit is None else list(inherit)
    for way in given["inherit"]:
        _inherit.check(way, "zygote")
    # What recycling costs; worth it against leaks alone, so it is tried only where it could go unnoticed.
    recycled = [max(1, share // 4)] if cost * share > 1.0 else []
    given["maxtasksperchild"] = recycled if maxtasksperchild is None else list(maxtasksperchild)
    for calls in given["maxtasksperchild"]:
        _options.tasks(calls)
    computes = any(name in sys.modules for name in ("numpy", "torch"))
    some = [cores] if computes and cores > 1 and THREADS not in os.environ else []
    given["threads"] = some if threads is None else [_options.processes(n) for n in threads]
    return given


def _search(bench: _Bench, levels: dict[str, list[Any]], size: int, seconds: float) -> None:
    singles = [AUTOMATIC._replace(**{name: value}) for name, values in levels.items() for value in values]
    rivals: list[Setting | None] = list(dict.fromkeys([None, AUTOMATIC, *singles]))
    rivals = _halve(bench, rivals, size, seconds * 0.45)
    joined = _joined(bench, levels, rivals)
    if joined:
        size = max(trial.items for trial in bench.trials.values())
        rivals = _halve(bench, [*rivals, *joined], size, seconds * (1 - FINAL_SHARE))
    size = max(trial.items for trial in bench.trials.values())
    bench.say(
        f"the last {len(rivals)}, over {counted(size, 'item')}: {', '.join(_name(rival) for rival in rivals)}"
    )
    bench.round(rivals, size, FINAL_RUNS, anew=True)


def _halve(bench: _Bench, rivals: list[Setting | None], size: int, until: float) -> list[Setting | None]:
    """Rounds in which the better half remains, the loop and the automatic settings among them."""
    while True:
        bench.say(f"{counted(len(rivals), 'setting')} over {counted(size, 'item')}")
        bench.round(rivals, size, RUNS)
        ranked = sorted(rivals, key=lambda rival: bench.trials[rival].per_item)
        going = ranked[: max(FINALISTS, math.ceil(len(ranked) / 2))]
        going += [always for always in (None, AUTOMATIC) if always not in going]
        rivals = [rival for rival in going if not bench.trials[rival].failure]
        if len(rivals) <= FINALISTS + 1 or bench.spent() > until:
            return rivals
        size = min(2 * size, len(bench.items))


def _joined(bench: _Bench, levels: dict[str, list[Any]], rivals: list[Setting | None]) -> list[Setting]:
    """Settings that join the values which did best by themselves, where more than one field gained."""
    automatic = bench.trials[AUTOMATIC].per_item
    gains: list[dict[str, Any]] = []
    for name, values in levels.items():
        settings = [AUTOMATIC._replace(**{name: value}) for value in values]
        tried = [setting for setting in settings if setting in bench.trials]
        best = min(tried, key=lambda setting: bench.trials[setting].per_item, default=AUTOMATIC)
        if best in rivals and bench.trials[best].per_item < automatic * (1 + MARGIN):
            gains.append({name: getattr(best, name)})
    joined = []
    for number in range(2, len(gains) + 1):
        for chosen in itertools.combinations(gains, number):
            merged = {name: value for gain in chosen for name, value in gain.items()}
            joined.append(AUTOMATIC._replace(**merged))
    return joined[:8]


def _name(setting: Setting | None) -> str:
    return "for loop" if setting is None else str(setting)


class _Bench:
    """Runs settings over samples of the items, each on a warm pool."""

    def __init__(
        self,
        func: Callable[[Any], Any],
        items: list[Any] | tuple[Any, ...],
        deadline: float,
        say: Callable[[str], object],
    ) -> None:
        self.func = func
        self.items = items
        self.begin = time.monotonic()
        self.deadline = deadline
        self.say = say
        self.trials: dict[Setting | None, Trial] = {}
        self.pools: dict[Setting, Pool] = {}

    def spent(self) -> float:
        return time.monotonic() - self.begin

    def look(self, seconds: float) -> float:
        """Call the function here until the time is up; return the seconds that an item takes."""
        begin, done = time.perf_counter(), 0
        self.func(self.items[0])  # imports and first pages
        begin = time.perf_counter()
        for item in self.sample(len(self.items)):
            self.func(item)
            done += 1
            if time.perf_counter() - begin > seconds:
                break
        cost = (time.perf_counter() - begin) / done
        self.say(f"an item takes {words_for(cost)} in this process")
        return cost

    def sample(self, size: int) -> list[Any]:
        """That many items, taken evenly."""
        step = len(self.items) / size
        return [self.items[int(number * step)] for number in range(size)]

    def round(self, rivals: list[Setting | None], size: int, runs: int, anew: bool = False) -> None:
        """Let all run over so many items, in turns. Past the deadline each has one run."""
        sample = self.sample(size)
        for rival in rivals:
            trial = self.trials.setdefault(rival, Trial(rival))
            if trial.items != size or anew:
                trial.items, trial.runs = size, []
        for turn in range(runs):
            for rival in rivals:
                trial = self.trials[rival]
                if trial.failure or (turn and time.monotonic() > self.deadline):
                    continue
                try:
                    trial.runs.append(self.run(rival, sample))
                except Exception as error:
                    trial.failure = (str(error).splitlines() or [type(error).__name__])[0]

    def run(self, setting: Setting | None, sample: list[Any]) -> float:
        if setting is None:
            begin = time.perf_counter()
            for item in sample:
                self.func(item)
            return time.perf_counter() - begin
        pool = self.pool(setting)
        begin = time.perf_counter()
        pool.map(self.func, sample, setting.chunksize, inherit=setting.inherit)
        return time.perf_counter() - begin

    def pool(self, setting: Setting) -> Pool:
        """A warm pool for what of a setting belongs to pools; those of other settings keep theirs."""
        key = Setting(setting.processes, maxtasksperchild=setting.maxtasksperchild, threads=setting.threads)
        if key not in self.pools:
            with _threads_given(key.threads):
                pool = self.pools[key] = Pool(key.processes, maxtasksperchild=key.maxtasksperchild)
            pool.map(self.func, self.sample(min(len(self.items), 2 * pool._processes)), 1, inherit=False)
        return self.pools[key]

    def close(self) -> None:
        for pool in self.pools.values():
            pool.terminate()
            pool.join()


@contextmanager
def _threads_given(threads: int | None) -> Iterator[None]:
    """Make a pool in this block, whose workers' libraries shall start so many threads."""
    before = os.environ.get(THREADS)
    if threads is not None:
        os.environ[THREADS] = str(threads)
    try:
        yield
    finally:
        if threads is not None:
            if before is None:
                del os.environ[THREADS]
            else:
                os.environ[THREADS] = before
