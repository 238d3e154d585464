"""From `Pool(2)` to the first result: `python -m forklift.bench.startup KIND WORKERS POOLS` prints seconds as
JSON.

The function is a builtin and this module imports next to nothing, so that what is measured is the pool's
own start. The first pool of a process may have to start a server of its own; the later ones find it
running. Importing the package is not part of the figure.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import sys
import time
from typing import Any

KINDS = ("multiprocessing.Pool, fork", "multiprocessing.Pool, forkserver", "forklift")


def make(kind: str) -> Any:
    """What makes a pool of this kind."""
    if kind == "forklift":
        return importlib.import_module("forklift").Pool
    method = kind.rpartition(", ")[2]
    return multiprocessing.get_context(method).Pool  # type: ignore[attr-defined, unused-ignore]


def measure(kind: str, workers: int, pools: int) -> list[float]:
    """Seconds for each of several pools, one after the other."""
    pool_class = make(kind)
    seconds = []
    for _ in range(pools):
        begin = time.perf_counter()
        pool = pool_class(workers)
        result = pool.apply(abs, (-1,))
        seconds.append(time.perf_counter() - begin)
        if result != 1:
            raise RuntimeError(f"abs(-1) came back as {result!r}")
        pool.terminate()
        pool.join()
    return seconds


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
