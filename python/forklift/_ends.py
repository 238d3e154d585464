"""How pools end: at `terminate`, at the interpreter's exit, and in a fork of the user's process."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING

from forklift import _inherit, _native, _pickling

if TYPE_CHECKING:
    from forklift.pool import Pool

# A thread that is still in the user's iterable when its pool ends is not waited for: it can be there for ever.
THREADS_SECONDS = 1.0

# How long `terminate` and the interpreter's exit wait for workers that were sent SIGKILL.
END_SECONDS = 10.0

# Variables that have coverage.py measure workers too, and how long they may take to leave by themselves then.
COVERAGE = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
COVERAGE_SECONDS = 5.0

TERMINATE = "TERMINATE"

#: Pools that were made and not ended.
pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def end(native: _native.Pool, threads: Iterable[threading.Thread]) -> None:
    """End a pool at once: kill its workers, wait until they are gone, and for its threads a little."""
    if not native.is_ours():
        return
    if any(name in os.environ for name in COVERAGE):
        # A worker that is killed cannot write down which lines it ran.
        native.close()
        native.unbound()
        native.join(COVERAGE_SECONDS)
    native.terminate()
    native.join(END_SECONDS)
    _pickling.forget_changed()
    _native.trim_shared()
    await_threads(threads, THREADS_SECONDS)


def await_threads(threads: Iterable[threading.Thread], seconds: float | None = None) -> None:
    """Wait for a pool's threads, at most so long.

    Those count that others of them start meanwhile: `forklift-births` may be about to start a relay.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    waited = {threading.current_thread()}
    while left := set(threads) - waited:
        for thread in left:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        waited |= left


@atexit.register
def _end_all() -> None:
    """End pools that are open when the interpreter exits. Its end may meet no thread that is in native code."""
    for pool in list(pools):
        if pool._native is not None:
            pool._state = TERMINATE
            _inherit.end(pool._crews)
            end(pool._native, pool._threads)
            if pool._cluster is not None:
                pool._cluster.close()
    # Threads that wait in native code have seen the end of their pools, and those that come later are turned away.
    _native.await_visits(END_SECONDS)


def _leave_to_parent() -> None:
    """In a fork of this process: the pools are the parent's. Their descriptors are closed, so that workers see the
    parent's end and not this process's."""
    for descriptor in _native.private_descriptors():
        try:
            os.close(descriptor)
        except OSError:
            continue
    pools.clear()
    _native.forget_others()


os.register_at_fork(after_in_child=_leave_to_parent)
