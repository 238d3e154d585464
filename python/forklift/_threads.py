"""Which threads of this process are not known to survive a fork of it: what makes `inherit` unsafe.

Known are the main thread and the calling one, forklift's own, and those of OpenBLAS, which ends them before a fork and
starts them again after it. Everything else counts as foreign: other threads of Python (a lock that one holds is held
for ever in the child), of OpenMP, Arrow, polars, torch, CUDA, gRPC.
"""

from __future__ import annotations

import os
import re
import threading

from forklift._plain import plain

_OWN = "forklift-"

# Libraries that start threads without names of their own, which could be taken for those of OpenBLAS.
_NAMELESS = re.compile(
    r"/(?:lib(?:gomp|omp|iomp5|tbb|mkl_\w+|cuda|arrow|torch\w*))[-.\w]*\.so|polars[^/]*\.so"
)
_OPENBLAS_COUNTS = (
    "scipy_openblas_get_num_threads64_",
    "scipy_openblas_get_num_threads",
    "openblas_get_num_threads64_",
    "openblas_get_num_threads",
)


def foreign() -> list[str]:
    """Return the names of threads that are not known to be safe, at most ten; none if a fork is safe."""
    named = {thread.native_id: thread.name for thread in threading.enumerate()}
    ours = {threading.get_native_id(), os.getpid()}
    found, nameless = [], []
    for task in map(int, os.listdir("/proc/self/task")):
        if task in ours:
            continue
        name = named.get(task)
        if name is not None:
            if not name.startswith(_OWN):
                found.append(name)
            continue
        try:
            with open(f"/proc/self/task/{task}/comm", errors="replace") as comm:
                title = comm.read().strip()
        except OSError:
            continue  # It has ended meanwhile.
        if not title.startswith(_OWN):
            nameless.append(title)
    if nameless and len(nameless) not in _openblas_threads():
        found += nameless
    return [plain(name) for name in found[:10]]  # Any thread can call itself anything.


def _openblas_threads() -> set[int]:
    """Return how many threads the loaded copies of OpenBLAS may have together; nothing if others could have some too.

    A copy has one less than it computes with, or none at all, after a fork.
    """
    with open("/proc/self/maps", errors="replace") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line and "/" in line}
    if any(_NAMELESS.search(path) for path in paths):
        return set()
    import ctypes

    sums = {0}
    for path in paths:
        if "openblas" not in os.path.basename(path):
            continue
        try:
            # Only a library that is there already.
            library = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
        except OSError:
            continue
        for symbol in _OPENBLAS_COUNTS:
            count = getattr(library, symbol, None)
            if count is not None:
                sums |= {total + max(0, int(count()) - 1) for total in sums}
                break
    return sums
