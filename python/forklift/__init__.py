"""Forklift: a process pool for large objects. `from forklift import Pool` in place of `multiprocessing`'s."""

import sys

from forklift.errors import DecodeError, EncodeError, ForkliftError, MemoryLimitExceeded, TaskExit, WorkerDied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forklift._kept import map as map
    from forklift._kept import starmap
    from forklift._staff import Worker
    from forklift.errors import CancelledError, TaskTimeout
    from forklift.executor import Executor
    from forklift.integrations import register_joblib
    from forklift.pool import Pool
    from forklift.report import Report
    from forklift.shared import Shared, shared_arrays
    from forklift.tuning import Tuning, tune

# Without `map`: whoever imports everything shall keep the built-in.
__all__ = [
    "CancelledError",
    "DecodeError",
    "EncodeError",
    "Executor",
    "ForkliftError",
    "MemoryLimitExceeded",
    "Pool",
    "Report",
    "Shared",
    "TaskExit",
    "TaskTimeout",
    "Tuning",
    "Worker",
    "WorkerDied",
    "register_joblib",
    "shared_arrays",
    "starmap",
    "tune",
]
__version__ = "0.1.0"


_HOMES = {
    "CancelledError": "errors",
    "Executor": "executor",
    "Pool": "pool",
    "Report": "report",
    "Shared": "shared",
    "TaskTimeout": "errors",
    "Worker": "_staff",
    "register_joblib": "integrations",
    "Tuning": "tuning",
    "map": "_kept",
    "shared_arrays": "shared",
    "starmap": "_kept",
    "tune": "tuning",
}


def __getattr__(name: str) -> object:
    # Workers import this package too, and need none of what a parent does.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object
    if sys.platform == "linux" or _HOMES[name] == "errors":
        found = getattr(import_module(f"forklift.{_HOMES[name]}"), name)
    else:
        found = import_module("forklift._elsewhere").stand_in(name)
    globals()[name] = found
    return found
