"""What a pool may hold of memory, and where results go for which there is no room."""

from __future__ import annotations

import os
from typing import Any

from forklift import _native, _options

# Payload in flight that a pool keeps warm for each worker, and at least: enough for a few items of several megabytes.
WINDOW_BYTES_PER_WORKER = 32 << 20
WINDOW_BYTES_MIN = 64 << 20

# For workers on other machines: chunks have to be larger, since each takes milliseconds on its way.
WINDOW_BYTES_PER_WORKER_ELSEWHERE = 128 << 20

# Results of iterators that wait for their consumers, for each worker, and at least: a few large ones, so that workers
# need not pause when the consumer does. With twice as much, 256 KB both ways held 120 MB in `benchmarks.streaming`.
STREAM_BYTES_PER_WORKER = 16 << 20
STREAM_BYTES_MIN = 32 << 20

# Without a limit of the user's, a pool may hold this share of the memory that it finds.
MEMORY_SHARE = 0.25


def shares(
    processes: int,
    memory_limit: int | str | None,
    spill_dir: str | os.PathLike[str] | None,
    elsewhere: bool = False,
) -> dict[str, Any]:
    """Divide a pool's memory among what needs some: the native pool's options.

    Payload in flight has the window, at most half of all; results have the rest.
    """
    if memory_limit is None:
        limit = int(_native.memory_total() * MEMORY_SHARE)
    else:
        limit = _options.size("memory_limit", memory_limit)
    each = WINDOW_BYTES_PER_WORKER_ELSEWHERE if elsewhere else WINDOW_BYTES_PER_WORKER
    window = min(max(WINDOW_BYTES_MIN, each * processes), max(limit // 2, 1))
    rest = max(limit - window, 1)
    stream = max(STREAM_BYTES_MIN, STREAM_BYTES_PER_WORKER * processes)
    return {
        "window_bytes": window,
        # Less than all of it: the consumer has one in hand, and the first results weigh what nobody knew.
        "stream_bytes": max(min(stream, rest * 3 // 4), 1),
        "share_bytes": rest,
        "results_bytes": rest,
        "memory_limit": limit,
        "spill_dirs": _temporary_directories() if spill_dir is None else [_checked(spill_dir)],
        "spill_named": spill_dir is not None,
        "spill_strict": memory_limit is not None or spill_dir is not None,
    }


def _checked(directory: str | os.PathLike[str]) -> str:
    """Return the directory's full path, if files can be made there."""
    try:
        path = os.fsdecode(directory)
    except TypeError:
        kind = type(directory).__name__
        raise TypeError(f"spill_dir must be the path of a directory or None, not {kind}") from None
    if not path:
        raise ValueError("spill_dir must be the path of a directory or None, not an empty text")
    full = os.path.abspath(path)
    try:
        _native.check_spill_dir(full)
    except (OSError, MemoryError, ValueError) as error:
        raise ValueError(f"spill_dir={path!r} is not a directory where files can be made: {error}") from None
    return full


def _temporary_directories() -> list[str]:
    """Where `tempfile` would look, and in this order. They are tried once there is something to put there."""
    named = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    return [os.path.abspath(path) for path in [*named, "/tmp", "/var/tmp", "/usr/tmp"] if path]
