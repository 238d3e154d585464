"""Forklift: a process pool for large objects. `from forklift import Pool` in place of `multiprocessing`'s."""

from forklift.errors import DecodeError, EncodeError, ForkliftError, MemoryLimitExceeded, WorkerDied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forklift.errors import TaskTimeout
    from forklift.pool import Pool

__all__ = [
    "DecodeError",
    "EncodeError",
    "ForkliftError",
    "MemoryLimitExceeded",
    "Pool",
    "TaskTimeout",
    "WorkerDied",
]
__version__ = "0.1.0"


_HOMES = {"Pool": "pool", "TaskTimeout": "errors"}


def __getattr__(name: str) -> object:
    # Workers import this package too, and need none of what a parent does.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(f"forklift.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
