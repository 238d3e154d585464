"""What a process holds that it could hold more and more of."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

__all__ = ["SLACK", "Figures", "grown", "highest", "of"]


@dataclass(frozen=True)
class Figures:
    """Of one process, or the highest of several."""

    descriptors: int = 0
    mappings: int = 0
    threads: int = 0
    address_mb: int = 0
    private_mb: int = 0


#: By how much a figure at rest may be above what it was: what is replaced may be there twice for a moment, heaps have
#: holes, and the C library makes an arena of 64 MB of addresses for a thread that meets others.
SLACK = Figures(descriptors=2, mappings=40, threads=2, address_mb=200, private_mb=24)


def of(pid: int) -> Figures | None:
    """The figures of a process; None if it is no more."""
    root = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":", 1) for line in (root / "status").read_text().splitlines())
        if "VmSize" not in status:
            return None
        rollup = (root / "smaps_rollup").read_text().splitlines()
        private = sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))
        return Figures(
            descriptors=len(os.listdir(root / "fd")),
            mappings=len((root / "maps").read_text().splitlines()),
            threads=int(status["Threads"]),
            address_mb=int(status["VmSize"].split()[0]) >> 10,
            private_mb=private >> 10,
        )
    except (FileNotFoundError, ProcessLookupError):
        return None


def highest(several: Iterable[Figures | None]) -> Figures:
    """The highest of each figure."""
    rows = [astuple(figures) for figures in several if figures is not None]
    return Figures(*map(max, zip(*rows, strict=True))) if rows else Figures()


def grown(before: Figures, now: Figures) -> list[str]:
    """What has grown by more than it may."""
    pairs = zip(fields(Figures), astuple(before), astuple(now), astuple(SLACK), strict=True)
    return [f"{field.name} {was} → {what}" for field, was, what, slack in pairs if what > was + slack]
