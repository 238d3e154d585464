"""Extra memory of one rival: `python -m forklift.bench.memory RIVAL WORKERS` prints a line of JSON.

100 arrays of 8 MB are mapped to small results, twice. Beforehand the pool is warm and the arrays exist;
what all processes of this session hold then (proportional set size) is the ground, and the highest sum
sampled during the calls, less the ground, is the figure. Files in shared memory that nobody maps escape
this sum, so the machine's own count of shared memory is sampled beside it.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from pathlib import Path

from forklift.bench.cases import add_up, make_arrays
from forklift.bench.rivals import named

SAMPLE_SECONDS = 0.01
SETTLE_SECONDS = 0.5
CALLS = 2


def own_processes() -> list[int]:
    """This process, all that descend from it, and all of its session, which is its own."""
    parents: dict[int, int] = {}
    session: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            after_name = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(after_name[1])
        if int(after_name[3]) == os.getsid(0):
            session.add(int(entry.name))
    found = session | {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    return sorted(found)


def kilobytes(path: Path, label: str) -> int:
    """The figure that stands behind a label in a file of /proc; 0 once the process is gone."""
    try:
        match = re.search(rf"^{label}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(match[1]) if match else 0


def held() -> tuple[int, int]:
    """Bytes that our processes hold, and bytes of shared memory on the whole machine."""
    processes = sum(kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in own_processes())
    return processes * 1024, kilobytes(Path("/proc/meminfo"), "Shmem") * 1024


class Sampler(threading.Thread):
    """Looks every few milliseconds and remembers the highest figures."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = (0, 0)
        self.samples = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(SAMPLE_SECONDS):
            now = held()
            self.peak = (max(self.peak[0], now[0]), max(self.peak[1], now[1]))
            self.samples += 1


def measure(name: str, workers: int) -> dict[str, int]:
    rival = named(name)()
    rival.start(workers)
    rival.map(abs, list(range(-64, 0)), False)
    arrays = make_arrays(100)
    expected = [add_up(array) for array in arrays]
    time.sleep(SETTLE_SECONDS)
    ground = held()
    sampler = Sampler()
    sampler.start()
    for _ in range(CALLS):
        if rival.map(add_up, arrays, False) != expected:
            raise RuntimeError(f"{name} gave a wrong result")
    sampler.done.set()
    sampler.join()
    rival.close()
    extra = {"pss": sampler.peak[0] - ground[0], "shared": sampler.peak[1] - ground[1]}
    return {key: max(0, value) for key, value in extra.items()} | {"samples": sampler.samples}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
