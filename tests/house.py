"""The clean house: which processes, threads, descriptors and mappings a test found, and which it left behind.

A snapshot is taken before the test; afterwards `leftovers` is polled until it is empty or the limit is over.
Strict means everything; otherwise only processes count (what multiprocessing.Pool can be held to).
"""

from __future__ import annotations

import gc
import os
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

SWEEP_SECONDS = 60.0

#: Every process that is started (by exec) during a session carries this variable, so that orphans are found too.
MARK = "FORKLIFT_TESTS_SESSION"

#: Servants of the standard library that live as long as the interpreter by design: started on behalf of the
#: `forkserver` and `spawn` contexts and by named semaphores.
PROCESS_WIDE = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")

#: Kinds of descriptors that a pool may hold and has to give back.
DESCRIPTOR_KINDS = re.compile(
    r"memfd:|^socket:|^pipe:|anon_inode:\[?(eventfd|pidfd|eventpoll|timerfd|signalfd|io_uring)"
)

#: Names of mappings that are a pool's payload memory.
MAPPING_NAME = "memfd:forklift"

#: Lines that speak of a pool, and of nothing that a cluster's engine keeps for itself.
OF_POOLS = re.compile(r"^process .* forklift-(zygote|worker)|^thread |memfd:forklift")

#: Names of threads, Python's and the kernel's, start with this.
THREAD_NAME = "forklift"


@dataclass(frozen=True)
class House:
    """What is there at one moment."""

    processes: frozenset[tuple[int, float]]
    threads: frozenset[tuple[int, str]]
    descriptors: frozenset[tuple[int, str]]
    mappings: frozenset[str]

    def leftovers(self, strict: bool) -> list[str]:
        """Describe, one line each, what is there now and was not when this snapshot was taken."""
        now = look()
        lines = [f"process {describe(pid)}" for pid, _ in sorted(now.processes - self.processes)]
        if strict:
            lines += [f"thread {name} ({ident})" for ident, name in sorted(now.threads - self.threads)]
            lines += [f"descriptor {fd} -> {to}" for fd, to in sorted(now.descriptors - self.descriptors)]
            lines += [f"mapping {line}" for line in sorted(now.mappings - self.mappings)]
        return lines

    def sweep(self, strict: bool, seconds: float = SWEEP_SECONDS, engine: bool = False) -> list[str]:
        """Wait until nothing is left over, at most `seconds`; return what still is.

        With an `engine` of a cluster at work, only what is a pool's counts.
        """
        deadline = time.monotonic() + seconds
        while True:
            lines = self.leftovers(strict)
            if engine:
                lines = [line for line in lines if OF_POOLS.search(line)]
            if not lines or time.monotonic() > deadline:
                return lines
            gc.collect()  # only now: it takes longer than most tests
            time.sleep(0.01)


def look() -> House:
    """Take a snapshot of this process and its offspring."""
    return House(
        processes=frozenset(offspring()),
        threads=frozenset(named_threads()),
        descriptors=frozenset(open_descriptors()),
        mappings=frozenset(payload_mappings()),
    )


def offspring() -> set[tuple[int, float]]:
    """All descendants, and all processes of this session that lost their parent: (pid, time of birth)."""
    # Each test asks twice, so `/proc` is read once, without an object for each process of the machine.
    born: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                fields = file.read(4096).rpartition(b")")[2].split()
        except OSError:
            continue  # it ended while we looked
        born[int(name)] = float(fields[19])
        children.setdefault(int(fields[1]), []).append(int(name))
    found: set[int] = set()
    ahead = [os.getpid()]
    while ahead:
        own = children.get(ahead.pop(), [])
        found.update(own)
        ahead += own
    mark = os.environ.get(MARK)
    if mark:
        found.update(pid for pid in born.keys() - found if has_variable(pid, f"{MARK}={mark}".encode()))
    return {(pid, born[pid]) for pid in found if pid != os.getpid() and not is_process_wide(pid)}


def has_variable(pid: int | str, wanted: bytes) -> bool:
    """Whether a living process had this variable in its environment when it was started."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            variables = file.readall()
    except OSError:
        return False  # it ended while we looked
    return wanted in variables and wanted in variables.split(b"\0")


def marked(name: str, value: str) -> list[int]:
    """The pids of living processes whose environment, when they were started, held `name=value`."""
    wanted = f"{name}={value}".encode()
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and has_variable(pid, wanted)]


def is_process_wide(pid: int) -> bool:
    """Whether this process is one of the standard library's servants that stay until the interpreter ends."""
    try:
        command = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False
    return any(name in command for name in PROCESS_WIDE)


def alive(pid: int) -> bool:
    """Whether a process of this number exists and still runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def describe(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"{pid} {process.status()} parent {process.ppid()}: {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"{pid} (just gone)"


def named_threads() -> set[tuple[int, str]]:
    """The threads of this process that a pool started, by their name in Python or in the kernel."""
    found = {(t.native_id or 0, t.name) for t in threading.enumerate() if t.name.startswith(THREAD_NAME)}
    for task in Path("/proc/self/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
        except OSError:
            continue
        if name.startswith(THREAD_NAME):
            found.add((int(task.name), name))
    return found


def open_descriptors() -> set[tuple[int, str]]:
    """The descriptors of the kinds that a pool uses: (number, what it points to)."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        if DESCRIPTOR_KINDS.search(target):
            found.add((int(entry), target))
    return found


def payload_mappings() -> set[str]:
    text = Path("/proc/self/maps").read_text()
    lines = text.splitlines() if MAPPING_NAME in text else []
    return {line.strip() for line in lines if MAPPING_NAME in line}
