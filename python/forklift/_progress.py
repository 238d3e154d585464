"""Progress of a call: a bar of tqdm's, or the user's own function."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from forklift import _feeding
from forklift._plain import plain
from forklift._units import size

if TYPE_CHECKING:
    from forklift import _native

Progress = bool | str | Callable[[int, int | None], object]

# The bar's clock goes on this often while nothing comes, and its bytes are looked up this often.
_REFRESH_SECONDS = 0.5

# Columns below which the bytes are one figure, and none. tqdm would cut them off in the middle, and leave no bar.
_WIDE, _NARROW = 100, 70

_LOCK = threading.RLock()


def _start_anew() -> None:
    """In a fork of this process: another thread of it may have been at a bar."""
    global _LOCK
    _LOCK = threading.RLock()


os.register_at_fork(after_in_child=_start_anew)


def check(progress: object) -> None:
    """Check the option; a bar without tqdm is refused before anything is started."""
    if callable(progress):
        return
    if not isinstance(progress, (bool, str)):
        raise TypeError(
            f"progress must be True, False, a description or a callable, not {type(progress).__name__}"
        )
    if progress is not False and find_spec("tqdm") is None:
        raise ImportError("a progress bar needs tqdm: pip install forklift[progress], or give a callable")


class Meter:
    """Counts items that are done, and tells the user's function."""

    def __init__(self, tell: Callable[[int, int | None], object] | None, total: int | None) -> None:
        self._tell = tell
        self.total = total
        self.done = 0
        if tell is not None:
            tell(0, total)

    def __call__(self, items: int) -> None:
        """So many more items are done. 0: nothing has come for a while."""
        if items:
            self.done += items
            assert self._tell is not None
            self._tell(self.done, self.total)

    def close(self, whole: bool = True) -> None:
        """No more will come. `whole`: because all is done."""
        tell, self._tell = self._tell, None
        if whole and tell is not None and self.total is None:
            tell(self.done, self.done)


class _Bar(Meter):
    def __init__(self, description: str | None, total: int | None, telemetry: _native.Telemetry) -> None:
        super().__init__(None, total)
        self._telemetry = telemetry
        self._shown = time.monotonic()
        self._bar = _bar_class()(desc=description, total=total, unit=" items", **_width())

    def __call__(self, items: int) -> None:
        self.done += items
        now = time.monotonic()
        if now - self._shown >= _REFRESH_SECONDS:
            self._shown = now
            self._bar.set_postfix_str(self._bytes(), refresh=False)
            if not items:
                self._bar.refresh()
        if items:
            self._bar.update(items)

    def close(self, whole: bool = True) -> None:
        self._bar.set_postfix_str(self._bytes(), refresh=False)
        self._bar.close()

    def _bytes(self) -> str:
        there, back = self._telemetry.bytes()
        columns = _WIDE if _in_notebook() else _columns() or _WIDE
        if columns < _WIDE:
            return size(there + back) if columns >= _NARROW else ""
        return f"{size(there)} in, {size(back)} out"


def meter(progress: Progress, total: int | None, telemetry: _native.Telemetry) -> Meter | None:
    """Return what shows the progress of a call; None where nobody would see it."""
    if callable(progress):
        return Meter(progress, total)
    if progress is False or not (_in_notebook() or _on_terminal()):
        return None
    return _Bar(plain(progress) if isinstance(progress, str) else None, total, telemetry)


def opened(progress: Progress, total: int | None, job: _native.Job) -> Meter | None:
    """As `meter`, for a job that has just begun. It is cancelled if the user's function raises."""
    if progress is False:
        return None
    try:
        return meter(progress, total, job.telemetry())
    except BaseException:
        job.cancel()
        raise


def run(
    job: _native.Job,
    items: Iterator[Any],
    meter: Meter | None,
    take: Callable[[int, list[Any], list[tuple[int, BaseException]]], object] | None = None,
) -> tuple[list[Any], list[tuple[int, BaseException]]]:
    """Feed a job and take its results, and show how far it has come. If anything else is raised, it is cancelled.

    With `take`, each answer goes there as it comes, and no results are returned.
    """
    try:
        outcome = _feeding.run(job, items, meter, take)
    except BaseException:
        job.cancel()
        if meter is not None:
            meter.close(False)
        raise
    if meter is not None:
        meter.close()
    return outcome


def _on_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # None, or closed
        return False


def _width() -> dict[str, Any]:
    """As wide as the terminal, also when that changes; some terminals do not tell, and tqdm would show nothing."""
    if _in_notebook() or _columns():
        return {"dynamic_ncols": True}
    columns, lines = shutil.get_terminal_size()
    return {"ncols": columns, "nrows": lines}


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, AttributeError, ValueError):
        return 0


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


def _bar_class() -> type[Any]:
    if _in_notebook():
        from tqdm.auto import tqdm
    else:
        from tqdm.std import tqdm

    class Bar(tqdm):  # type: ignore[misc, unused-ignore]
        # No thread that looks after bars: it would be one more that makes forks unsafe. And a lock of this process
        # alone: tqdm's own is a semaphore that other processes could share.
        monitor_interval = 0
        _lock = _LOCK

    return Bar
