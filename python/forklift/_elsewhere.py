"""What stands for forklift's names on systems other than Linux, where the package can be installed and imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

INSTEAD = {
    "Executor": "concurrent.futures.ProcessPoolExecutor",
    "register_joblib": "joblib's own back ends",
    "shared_arrays": "multiprocessing.shared_memory",
}


def stand_in(name: str) -> Callable[..., NoReturn]:
    """Return a callable of this name that says what is missing here."""

    def missing(*args: object, **kwds: object) -> NoReturn:
        raise NotImplementedError(
            f"forklift.{name} needs Linux (sealed memory files, process descriptors, signals of pipes), and this is "
            f"{sys.platform}: use {INSTEAD.get(name, 'multiprocessing.Pool')} here"
        )

    missing.__name__ = missing.__qualname__ = name
    return missing
