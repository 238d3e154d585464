"""What this machine gives a pool, and what to mend: the findings behind `forklift doctor`.

Every finding says what was found and what follows from it for a pool. Nothing is changed, and nothing but a pool of one
worker is started.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import mmap
import os
import platform
import re
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from forklift import _births, _native
from forklift._budget import MEMORY_SHARE
from forklift._units import counted, size
from forklift.pool import Pool

__all__ = ["Finding", "examine"]

Grade = Literal["good", "note", "bad"]

MEMORY_FEW = 500 << 20
DESCRIPTORS_PER_WORKER = 16  # socket, process, pipe, and segments on both sides, with room
DESCRIPTORS_SPARE = 64
THREADS_PER_WORKER = 3  # itself, its successor, and a thread of a library
PROCESSES_SPARE = 4  # the zygote, and threads of the pool
PRESSURE_NOTED = 10.0  # per cent of the last ten seconds

CGROUPS = "/sys/fs/cgroup"

MADV_POPULATE_WRITE = 23
F_ADD_SEALS, F_SEAL_SHRINK = 1033, 2
F_SETSIG = 10


class Finding(NamedTuple):
    """One line of the doctor's: what there is, and what follows."""

    topic: str
    found: str
    means: str
    grade: Grade = "good"
    mend: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything, in an order in which a reader would ask."""
    yield from _python()
    yield from _cores()
    yield from _memory()
    yield from _pressure()
    yield from _limits()
    yield from _start_methods()
    yield from _kernel()
    yield from _disk()
    yield from _threads_of_libraries()
    yield from _libraries()
    yield from _trial()


def _python() -> Iterator[Finding]:
    kind = f"{platform.python_implementation()} {platform.python_version()}"
    yield Finding("Python", f"{kind}, forklift {importlib.metadata.version('forklift')}", "supported")
    if _native.DEBUG:
        yield Finding(
            "build",
            "without optimisation",
            "every call is many times slower than it should be",
            "bad",
            "install a wheel, or build with `maturin develop --release`",
        )


def _cores() -> Iterator[Finding]:
    there, allowed, given = os.cpu_count() or 1, len(os.sched_getaffinity(0)), _native.cores()
    found = f"{given} for this process"
    if given < allowed:
        found += f", by the cgroup's quota ({allowed} by affinity, {there} in the machine)"
    elif allowed < there:
        found += f", by affinity ({there} in the machine)"
    if given == 1:
        yield Finding(
            "cores",
            found,
            "a pool has one worker and cannot be faster than a for loop",
            "note",
            "give the container or the process more cores, if the machine has them",
        )
    else:
        yield Finding("cores", found, f"Pool() has {given} workers")
    load = os.getloadavg()[0]
    if load > there:
        yield Finding(
            "load",
            f"{load:.1f} on {there} cores",
            "others are using the cores: speed-ups will be lower than the number of workers",
            "note",
            "wait for them, or use fewer processes",
        )


def _memory() -> Iterator[Finding]:
    total, free = _native.memory_total(), _native.memory_available()
    machine = _meminfo("MemTotal") or total
    by = f", by the cgroup's limit ({size(machine)} in the machine)" if total < machine else ""
    few = free < MEMORY_FEW
    yield Finding(
        "memory",
        f"{size(free)} free of {size(total)}{by}",
        f"memory_limit is {size(int(total * MEMORY_SHARE))} unless you set it",
        "bad" if few else "good",
        "end what uses it, or the kernel will kill workers" if few else "",
    )
    swap = _meminfo("SwapTotal")
    if swap and (_meminfo("SwapFree") or 0) < swap / 2:
        yield Finding("swap", "more than half in use", "the machine has been short of memory", "note")


def _pressure() -> Iterator[Finding]:
    shares = {}
    for name in ("cpu", "memory", "io"):
        text = _read(f"/proc/pressure/{name}")
        if match := re.search(r"^some avg10=([\d.]+)", text):
            shares[name] = float(match[1])
    if not shares:
        yield Finding(
            "pressure", "not told by this kernel", "stalls for memory are judged by what is free alone"
        )
        return
    found = ", ".join(f"{name} {share:.0f} %" for name, share in shares.items()) + " of the last 10 s"
    high = [name for name in ("memory", "io") if shares.get(name, 0.0) >= PRESSURE_NOTED]
    means = f"processes wait for {' and '.join(high)}" if high else "nobody waits for memory or disk"
    yield Finding("pressure", found, means, "note" if high else "good")


def _limits() -> Iterator[Finding]:
    workers = _native.cores()
    needed = DESCRIPTORS_SPARE + DESCRIPTORS_PER_WORKER * workers
    descriptors, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = descriptors != resource.RLIM_INFINITY and descriptors < needed
    yield Finding(
        "open files",
        f"{_count(descriptors)} allowed",
        f"too few for {counted(workers, 'worker')}, which may need {needed}"
        if few
        else f"enough for {counted(workers, 'worker')}",
        "bad" if few else "good",
        _more_descriptors(needed, most) if few else "",
    )
    yield _processes(workers)
    for name, limit, means in (
        ("address space", resource.RLIMIT_AS, "segments of shared memory count towards it, in every process"),
        ("file size", resource.RLIMIT_FSIZE, "shared memory lies in memory files, which it cuts"),
    ):
        value = resource.getrlimit(limit)[0]
        if value != resource.RLIM_INFINITY:
            mend = f"ulimit -{'v' if limit == resource.RLIMIT_AS else 'f'} unlimited"
            yield Finding(name, f"limited to {size(value)}", means, "note", mend)


def _more_descriptors(needed: int, most: int) -> str:
    if most == resource.RLIM_INFINITY or needed <= most:
        return f"ulimit -n {needed}"
    return f"raise the hard limit from {most} to {needed}, as root or where the container is set up"


def _processes(workers: int) -> Finding:
    """The limit that leaves least room. The user's own counts whatever the user has started; it does not bind root."""
    room = [(limit - used, limit, "pids.max of the cgroup") for limit, used in _cgroup_processes()]
    allowed = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if allowed != resource.RLIM_INFINITY:
        room.append((allowed, allowed, "ulimit -u"))
    if not room:
        return Finding("processes", "any number", "workers can be born")
    left, limit, name = min(room)
    needed = PROCESSES_SPARE + THREADS_PER_WORKER * workers
    found = f"{_count(limit)} allowed" + (f", {_count(max(left, 0))} left" if left < limit else "")
    if left < needed:
        return Finding("processes", found, "workers may not be born", "bad", f"raise {name}")
    return Finding("processes", found, f"enough for {counted(workers, 'worker')}")


def _cgroup_processes() -> Iterator[tuple[int, int]]:
    """How many processes and threads each cgroup that this process is in may have, where it has a limit, and has."""
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "pids"):
            mount = Path(CGROUPS, controllers)
            own = mount / path.lstrip("/")
            for place in (own, *own.parents):
                limit, used = _read(str(place / "pids.max")), _read(str(place / "pids.current"))
                if limit.strip().isdigit() and used.strip().isdigit():
                    yield int(limit), int(used)
                if place == mount:
                    break


def _start_methods() -> Iterator[Finding]:
    import multiprocessing

    forks = multiprocessing.get_all_start_methods()[0] == "fork"  # the default comes first
    yield Finding(
        "start methods",
        "a fork server of the pool's own, fork, spawn",
        "workers come from a clean interpreter unless context= asks for another; "
        + (
            'inherit="auto" may fork this process, where that is safe'
            if forks
            else "this process is forked with inherit=True only"
        ),
    )


def _kernel() -> Iterator[Finding]:
    yield Finding("kernel", f"Linux {platform.release()}", f"pages of {mmap.PAGESIZE >> 10} KiB")
    probes: tuple[tuple[str, Callable[[], object], str, Grade, str], ...] = (
        ("sealed memory files", _probe_memfd, "large objects cross in them", "bad", "allow memfd_create"),
        ("process descriptors", _probe_pidfd, "deaths are noticed at once", "bad", "allow pidfd_open"),
        ("signals of pipes", _probe_setsig, "workers end with their parent", "bad", "allow fcntl F_SETSIG"),
        ("populated pages", _probe_populate, "fresh memory comes in one call", "note", "Linux 5.14 or newer"),
    )
    for name, probe, means, grade, mend in probes:
        try:
            probe()
        except OSError as error:
            why = error.strerror or type(error).__name__
            yield Finding(name, f"refused: {why}", f"without them: not so that {means}", grade, mend)
        else:
            yield Finding(name, "available", means)


def _probe_memfd() -> None:
    file = os.memfd_create("forklift-doctor", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    try:
        os.ftruncate(file, mmap.PAGESIZE)
        fcntl.fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK)
    finally:
        os.close(file)


def _probe_pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _probe_setsig() -> None:
    read, write = os.pipe()
    try:
        fcntl.fcntl(read, F_SETSIG, 0)
    finally:
        os.close(read)
        os.close(write)


def _probe_populate() -> None:
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:
        memory.madvise(MADV_POPULATE_WRITE)


def _disk() -> Iterator[Finding]:
    place = tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    if _file_system(place) == "tmpfs":
        yield Finding(
            "temporary files",
            f"{place}: {size(free)} free, in memory",
            "results spilled there would not leave memory",
            "note",
            "set TMPDIR or spill_dir to a place on a disk",
        )
    else:
        yield Finding(
            "temporary files", f"{place}: {size(free)} free", "results beyond memory_limit go there"
        )


def _threads_of_libraries() -> Iterator[Finding]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    given = {name: value for name in names if (value := os.environ.get(name))}
    if given:
        found = ", ".join(f"{name}={value}" for name, value in given.items())
        yield Finding("BLAS threads", found, "kept in workers as you set them")
    else:
        share = dict(_births.environment(_native.cores())).get("OMP_NUM_THREADS", "1")
        yield Finding(
            "BLAS threads", "not set", f"each worker of Pool() gets {share}, its share of the cores"
        )


WAYS = {
    "numpy": "one copy in, none back; none at all from shared_arrays() or numpy.memmap",
    "pandas": "columns as arrays do; strings as Arrow, objects by pickle",
    "polars": "columns cross as Arrow buffers, one copy in",
    "pyarrow": "tables and arrays cross as buffers, slices cut to what they show",
    "scipy": "sparse matrices cross as their arrays",
    "torch": "CPU tensors cross as arrays do",
    "pillow": "pixels cross as one buffer",
    "joblib": "forklift can be its back end",
    "tqdm": "progress bars",
}


def _libraries() -> Iterator[Finding]:
    for name, way in WAYS.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield Finding(name, version, way)


def _trial() -> Iterator[Finding]:
    begin = time.perf_counter()
    try:
        with Pool(1) as pool:
            result = pool.apply_async(os.getpid)
            other = result.get(timeout=30)
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        yield Finding(
            "a pool", f"failed: {lines[0]}", "Forklift does not work here", "bad", "see the lines above"
        )
        return
    took = (time.perf_counter() - begin) * 1000
    means = "Forklift works here" if other != os.getpid() else "the call was not made by a worker"
    yield Finding("a pool", f"answered after {took:.0f} ms", means)


def _meminfo(field: str) -> int | None:
    match = re.search(rf"^{field}:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return int(match[1]) << 10 if match else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _file_system(path: str) -> str:
    """The type of the file system that a path lies on, by the longest mount point above it."""
    place, best = os.path.realpath(path), ("", "")
    for line in _read("/proc/self/mounts").splitlines():
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if (place + "/").startswith(point.rstrip("/") + "/") and len(point) > len(best[0]):
            best = (point, kind)
    return best[1]


def _count(number: int) -> str:
    return "any number" if number == resource.RLIM_INFINITY else f"{number:,}"
