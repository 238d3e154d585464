"""Memory of streams: `python -m benchmarks.streaming [--gigabytes 1] [--long 20]` writes docs/memory.md.

So many gigabytes go through `imap` from a generator, or the nearest thing a rival has, and nothing is kept. What all
processes of a rival hold beyond what they held when its pool was warm and idle is sampled every few milliseconds, as in
`forklift.bench.memory`: proportional set size, and shared memory of the whole machine. Each rival has a process of its
own for each case.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from forklift.bench.memory import SETTLE_SECONDS, Sampler, held
from forklift.bench.page import machine
from forklift.bench.rivals import Forklift, Joblib, Mpire, Rival, StandardPool, is_installed, named

PAGE = Path(__file__).resolve().parent.parent / "docs" / "memory.md"
RIVALS: tuple[type[Rival], ...] = (StandardPool, Joblib, Mpire, Forklift)
LARGE, SMALL = 1_000_000, 32_000  # floats of an item: 8 MB, 256 KB
SECONDS_MAX = 1800


def total(array: np.ndarray) -> float:
    return float(array.sum())


def make(number: int) -> np.ndarray:
    return np.full(LARGE, float(number))


def double(array: np.ndarray) -> np.ndarray:
    return array * 2


class Stream(NamedTuple):
    title: str
    item_bytes: int
    function: Callable[[Any], Any]
    items: Callable[[int], Iterator[Any]]
    pause: float  # of the consumer at each result, in seconds
    target: int  # MB that forklift may hold


def arrays(length: int) -> Callable[[int], Iterator[np.ndarray]]:
    return lambda count: (np.full(length, float(number)) for number in range(count))


STREAMS = {
    "in": Stream("8 MB arrays in, sums out", 8 * LARGE, total, arrays(LARGE), 0.0, 150),
    "in-slow": Stream("the same, slow consumer", 8 * LARGE, total, arrays(LARGE), 0.05, 150),
    "out": Stream("8 MB arrays out, slow consumer", 8 * LARGE, make, lambda n: iter(range(n)), 0.05, 150),
    "both": Stream("256 KB both ways, slow consumer", 8 * SMALL, double, arrays(SMALL), 0.002, 80),
}


def flow(rival: Any, function: Callable[[Any], Any], items: Iterator[Any], count: int) -> Iterator[Any]:
    """Results as they come, in order, by what the rival offers for streams."""
    if isinstance(rival, Joblib):
        import joblib

        parallel = joblib.Parallel(n_jobs=rival.parallel.n_jobs, backend="loky", return_as="generator")
        results: Iterator[Any] = parallel(joblib.delayed(function)(item) for item in items)
        return results
    if isinstance(rival, Mpire):
        # With the settings that bound it: else it takes the whole stream in advance.
        n_jobs = rival.pool.pool_params.n_jobs
        arguments = ((item,) for item in items)
        mapped: Iterator[Any] = rival.pool.imap(
            function, arguments, iterable_len=count, chunk_size=1, max_tasks_active=2 * n_jobs
        )
        return mapped
    streamed: Iterator[Any] = rival.pool.imap(function, items)
    return streamed


def measure(case: str, name: str, workers: int, gigabytes: float) -> dict[str, float]:
    """One case by one rival, in this process."""
    stream = STREAMS[case]
    count = max(1, round(gigabytes * 1e9 / stream.item_bytes))
    rival = named(name)()
    rival.start(workers)
    rival.map(total, [np.ones(10)] * 2 * workers, False)
    time.sleep(SETTLE_SECONDS)
    ground = held()
    sampler = Sampler()
    sampler.start()
    begin = time.perf_counter()
    seen = 0
    for result in flow(rival, stream.function, stream.items(count), count):
        seen += 1
        del result
        if stream.pause:
            time.sleep(stream.pause)
    seconds = time.perf_counter() - begin
    sampler.done.set()
    sampler.join()
    rival.close()
    if seen != count:
        raise RuntimeError(f"{name} gave {seen} results for {count} items")
    peak = [max(0, high - low) / 1e6 for high, low in zip(sampler.peak, ground, strict=True)]
    return {"pss": peak[0], "shared": peak[1], "seconds": seconds, "samples": sampler.samples}


def ask(case: str, name: str, workers: int, gigabytes: float) -> dict[str, float] | str:
    """The same in a process of its own; its trouble, if it has any."""
    arguments = json.dumps([case, name, workers, gigabytes])
    program = (
        f"import json; from benchmarks.streaming import measure; print(json.dumps(measure(*{arguments})))"
    )
    command = [sys.executable, "-c", program]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS_MAX, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        return f"not done in {SECONDS_MAX} s"
    if ended.returncode:
        return (ended.stderr.strip().splitlines() or [f"exit {ended.returncode}"])[-1][:80]
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def row(case: str, rivals: list[type[Rival]], workers: int, gigabytes: float) -> str:
    cells = []
    for rival in rivals:
        found = ask(case, rival.name, workers, gigabytes)
        print(f"  {STREAMS[case].title}: {rival.name}: {found}", file=sys.stderr)
        cells.append(
            found
            if isinstance(found, str)
            else f"{found['pss']:.0f} ({found['shared']:.0f}), {found['seconds']:.0f} s"
        )
    return f"| {STREAMS[case].title} | " + " | ".join(cells) + f" | {STREAMS[case].target} |"


def table(rivals: list[type[Rival]], rows: list[str]) -> str:
    names = " | ".join(rival.name for rival in rivals)
    rule = f"|---{'|---:' * (len(rivals) + 1)}|"
    return "\n".join([f"| MB (shared), time | {names} | may be |", rule, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="how much goes through each stream")
    parser.add_argument("--long", type=float, default=0.0, help="and so much in forklift's alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cases", nargs="+", choices=STREAMS, default=list(STREAMS))
    parser.add_argument("--rivals", nargs="+", choices=[rival.name for rival in RIVALS])
    chosen = parser.parse_args()
    rivals = [
        rival for rival in RIVALS if rival.name in (chosen.rivals or [rival.name]) and is_installed(rival)
    ]
    load = os.getloadavg()[0]
    rows = [row(case, rivals, chosen.workers, chosen.gigabytes) for case in chosen.cases]
    ours = [rival for rival in RIVALS if rival.name == "forklift"]
    long = [row(case, ours, chosen.workers, chosen.long) for case in chosen.cases if chosen.long]
    command = f"python -m benchmarks.streaming --gigabytes {chosen.gigabytes:g} --workers {chosen.workers}"
    if chosen.long:
        command += f" --long {chosen.long:g}"
    parts = [
        "# Memory of streams",
        f"Written by `{command}`; the figures are of one run, at a load of {load:.1f} when it began.",
        machine(),
        f"{chosen.gigabytes:g} GB go through each stream. MB that all processes together hold at most beyond what\n"
        "they held with a warm, idle pool: their proportional set size, and in brackets shared memory of the whole\n"
        "machine (other programs' as well); then how long it took. A slow consumer pauses 50 ms at each 8 MB, 2 ms at\n"
        "each 256 KB. joblib is asked for a generator; mpire is told to have at most two tasks for each worker.",
        table(rivals, rows),
    ]
    if long:
        parts += [f"And with {chosen.long:g} GB:", table(ours, long)]
    text = "\n\n".join(part.strip("\n") for part in parts) + "\n"
    print(text)
    if chosen.cases == list(STREAMS) and not chosen.rivals:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
