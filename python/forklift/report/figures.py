"""`Report`: the figures of one call, and what follows from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from forklift import _native
from forklift._plain import plain
from forklift._units import counted
from forklift.report.advice import Advice, advise

#: The version of the form in which reports are saved. It changes when a field changes its meaning or goes.
SCHEMA = 1

PARENT = ("pull", "encode", "copy", "wait_for_room", "wait_for_results", "decode_result")
WORKERS = ("wait_for_work", "crossing", "decode", "compute", "encode_result", "hand_over", "away")

BYTES_IN = ("in_message", "copied", "by_reference", "once_per_call")
BYTES_OUT = ("in_message", "copied", "handed_over")

STAFF = (
    *("births", "failed_births", "deaths", "recycles", "recycles_by_calls", "recycles_by_memory"),
    *("stopped_for_memory", "retries"),
)


class Chunk(NamedTuple):
    """Items that a worker answered together. In very long calls, several such in a row (`answers`)."""

    begin: float
    """Seconds from the begin of the call."""
    end: float
    slot: int
    """The worker's seat."""
    pid: int
    first: int
    """Index of the first item."""
    items: int
    answers: int
    bytes_in: int
    bytes_out: int
    decode: float
    """Seconds, as `compute`, `encode_result` and `hand_over`."""
    compute: float
    encode_result: float
    hand_over: float


class Look(NamedTuple):
    """Resident memory at one moment, in bytes."""

    at: float
    """Seconds from the begin of the call."""
    parent: int
    """What is the parent's alone."""
    workers: int
    """What is the workers' alone, added up."""
    payload: int
    """Shared memory that holds items and values for all workers."""
    results: int
    """Shared memory that holds results."""


@dataclass(frozen=True)
class Lane:
    """What was done at one worker's seat; times in seconds."""

    slot: int
    items: int
    answers: int
    begin: float
    """When its first item began, from the begin of the call."""
    end: float
    """When its last answer was ready."""
    seconds: dict[str, float]
    """By what was done: "wait_for_work", "crossing" (to another machine and back), "decode", "compute",
    "encode_result", "hand_over", "away" (not born yet, or being replaced)."""
    cpu: float
    """Processor time of its processes, where it could be told apart (answers more than a millisecond apart)."""
    cpu_of_other_threads: float
    """Of that, threads beside the one that calls the function: BLAS, OpenMP."""


@dataclass(frozen=True)
class Histogram:
    """How a quantity is spread over items. Values are exact to one or two percent."""

    count: int
    mean: float
    least: float
    greatest: float
    buckets: list[tuple[float, int]]
    """Upper end and count, of those that are not empty."""

    def quantile(self, share: float) -> float:
        """Return what `share` (0 to 1) of the items do not exceed; 0 if there are none."""
        wanted, seen = share * self.count, 0
        for value, count in self.buckets:
            seen += count
            if seen >= wanted:
                return min(value, self.greatest)
        return self.greatest

    @classmethod
    def of(cls, row: Sequence[Any], unit: float = 1.0) -> Histogram:
        """Make one of what the native part gives."""
        count, mean, least, greatest, buckets = row
        return cls(
            count,
            mean * unit,
            least * unit,
            greatest * unit,
            [(value * unit, number) for value, number in buckets],
        )


@dataclass(frozen=True)
class Report:
    """Where the time and the bytes of a call went. Times are in seconds, sizes in bytes.

    `print(report)` shows it in 80 columns; a notebook shows it as a table; `save` writes a page, JSON or a trace.
    """

    call: str
    """"map", "starmap", "imap", "imap_unordered", "apply" or the like. Calls of `apply` and `apply_async` that follow
    one another within a second are one."""
    function: str
    """The function's name."""
    processes: int
    """Workers asked for."""
    cores: int
    """Cores that this process may use."""
    chunksize: int
    """The user's, or 0: chosen while running."""
    total: int | None
    """Items, where it is known how many."""
    wall: float
    """From the begin of the call to its end, or until now."""
    finished: bool
    """Whether the call is over."""
    submitted: int
    """Items that were encoded."""
    answered: int
    """Items that a worker answered."""
    failed: int
    """Of those, how many with an exception."""
    lost: int
    """Items that died with their worker, and were not tried again."""
    chunks: int
    """Chunks that were encoded."""
    parent: dict[str, float]
    """What the threads of this process spent on "pull" (the iterable), "encode", "copy", "wait_for_room" (before more
    items could be taken), "wait_for_results" (when all had been), "decode_result"."""
    lanes: list[Lane]
    """By seat, what its workers did."""
    bytes_in: dict[str, int]
    """Payload to the workers, by the way it took: "in_message", "copied" into shared memory, "by_reference" (it lay
    there), "once_per_call" (the function, and what items share)."""
    bytes_out: dict[str, int]
    """Payload from the workers: "in_message", "copied", "handed_over" (as it lay)."""
    repeated_bytes: int
    """Bytes that were copied although the item before had a buffer at the same place."""
    item_seconds: Histogram
    """Time in the function. Items shorter than 10 µs count as the mean of those they were answered with."""
    item_bytes_in: Histogram
    """Payload of an item, as the mean of its chunk."""
    item_bytes_out: Histogram
    """Payload of a result, as the mean of those it was answered with."""
    longest: tuple[int, float, int] | None
    """Index, seconds and seat of the item that took longest."""
    firsts: tuple[int, int, float, float]
    """Of workers' first answers: workers, items, seconds, and the least seconds of one."""
    imported: list[str]
    """Modules that workers imported meanwhile, by top-level names: of each worker, what it asked for before what that
    imported itself."""
    staff: dict[str, int]
    """How many "births", "failed_births", "deaths", "recycles" there were, and "retries" of items. Of the recycles,
    "recycles_by_calls" (`maxtasksperchild`) and "recycles_by_memory" (`worker_memory_limit`); of the deaths,
    "stopped_for_memory": workers that were far above that limit during a call."""
    incidents: list[tuple[float, str, int, int]]
    """When, what ("born", "ready", "left", "died", "stillborn"), seat, pid."""
    memory: list[Look]
    """Looks at memory, every 50 ms or more rarely. None of a call that is shorter."""
    memory_available: int
    """What the machine or cgroup had left when the report was made."""
    fold: int
    """Answers that stand in one `Chunk`: 1, but in very long calls."""
    records: list[Chunk]
    """What was answered, in order."""
    inherit: str
    """Whether workers inherited the items, and why (not); empty for `apply`."""
    version: str
    """Of forklift."""
    engine: str = ""
    """What carried items to other machines and results back: "Ray", "Dask"; empty for workers of this machine."""
    nodes: list[str] = field(default_factory=list)
    """Where workers are, by seat; empty for workers of this machine."""
    spilled_bytes: int = 0
    """Bytes of results that were moved to a disk, because they held more memory than they may. They are among those of
    `bytes_out`."""
    inherited_bytes: int = 0
    """What workers saw of items without their being copied, estimated from a few of them: what plain containers,
    numbers, text, bytes and arrays hold."""
    admitted: list[tuple[float, int]] = field(default_factory=list)
    """When the pool began to admit less, or more again, since memory was short, and per cent of what it admits
    otherwise; 0 is one chunk at a time. Empty if that was everything all the time."""

    @property
    def work(self) -> float:
        """What the function took, added up over all items: about what a for loop would take."""
        return sum(lane.seconds["compute"] for lane in self.lanes)

    @property
    def speedup(self) -> float:
        """How many times as fast as that sum the call was."""
        return self.work / self.wall if self.wall else 0.0

    @property
    def efficiency(self) -> float:
        """The speed-up, as a share of what the cores allow."""
        return self.speedup / self.sides

    @property
    def sides(self) -> int:
        """How many workers can work at a time."""
        return max(1, self.processes if self.nodes else min(self.processes, self.cores))

    @property
    def workers(self) -> dict[str, float]:
        """What all workers spent, added up; the keys are those of `Lane.seconds`."""
        return {name: sum(lane.seconds.get(name, 0.0) for lane in self.lanes) for name in WORKERS}

    @property
    def network_bytes(self) -> int:
        """Payload that the engine carried between machines, or between what it takes for some; 0 without one."""
        if not self.nodes:
            return 0
        each = sum(number for way, number in self.bytes_in.items() if way != "once_per_call")
        once = self.bytes_in.get("once_per_call", 0) * len(set(self.nodes))
        return each + once + sum(self.bytes_out.values())

    @property
    def peak_memory(self) -> int | None:
        """The most resident memory that was seen, all told; None if nobody looked."""
        return max((sum(look[1:]) for look in self.memory), default=None)

    @property
    def throttled(self) -> float:
        """For how many seconds the pool admitted less because memory was short."""
        ends = [at for at, _ in self.admitted[1:]] + [self.wall]
        return sum(end - at for (at, percent), end in zip(self.admitted, ends, strict=False) if percent < 100)

    @property
    def advice(self) -> list[Advice]:
        """What to do about it, what wins most first. Empty if there is nothing to say."""
        return advise(self)

    def __str__(self) -> str:
        from forklift.report.text import text

        return text(self)

    def __repr__(self) -> str:
        state = "" if self.finished else ", running"
        items = counted(self.answered, "item")
        return plain(f"<forklift.Report of {self.call}({self.function}), {items}, {self.wall:.3g} s{state}>")

    def _repr_html_(self) -> str:
        from forklift.report.fragment import fragment

        return fragment(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report, in the form that the name's end says.

        `.html`: one page that works offline; `.trace.json`: a trace of every chunk for Perfetto (ui.perfetto.dev) or
        chrome://tracing; any other `.json`: the figures, as `docs/reports.md` describes them, for `Report.load`.

        Raises:
            ValueError: for any other end.
        """
        name = Path(path).name.lower()
        if name.endswith(".html"):
            from forklift.report.page import page

            text = page(self)
        elif name.endswith(".trace.json"):
            from forklift.report.trace import trace

            text = trace(self)
        elif name.endswith(".json"):
            from forklift.report.form import dumps

            text = dumps(self)
        else:
            raise ValueError(f"a report is saved as .html, .json or .trace.json, not as {name!r}")
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Read a report that was saved as `.json`.

        The file may come from anybody: types, ranges and sizes are checked, and nothing in it is executed.

        Raises:
            ValueError: for a file that is none, or of a later version. It names the field that is at fault.
        """
        from forklift.report.form import BYTES_MAX, loads

        with open(path, "rb") as file:
            return loads(file.read(BYTES_MAX + 1), Path(path).name)


def report(figures: dict[str, Any], about: dict[str, Any]) -> Report:
    """Make a report of what the native part noted, and of what is known of the call."""
    wall = figures["wall"]
    submitted, answered, failed, lost = figures["items"]
    return Report(
        wall=wall,
        finished=figures["finished"],
        submitted=submitted,
        answered=answered,
        failed=failed,
        lost=lost,
        chunks=figures["chunks"],
        parent=figures["parent"],
        lanes=[_lane(lane, wall) for lane in figures["lanes"]],
        bytes_in=figures["bytes_in"],
        bytes_out={way: figures["bytes_out"][way] for way in BYTES_OUT},
        repeated_bytes=figures["repeated_bytes"],
        spilled_bytes=figures["spilled_bytes"],
        admitted=figures["admitted"],
        item_seconds=Histogram.of(figures["item_nanoseconds"], 1e-9),
        item_bytes_in=Histogram.of(figures["item_bytes_in"]),
        item_bytes_out=Histogram.of(figures["item_bytes_out"]),
        longest=figures["longest"],
        firsts=figures["firsts"],
        imported=figures["imported"],
        staff=figures["staff"],
        incidents=figures["incidents"],
        memory=[Look(*look) for look in figures["memory"]],
        fold=figures["fold"],
        records=sorted(Chunk(*record) for record in figures["records"]),
        cores=_native.cores(),
        memory_available=_native.memory_available(),
        version=_native.VERSION,
        **about,
    )


def _lane(lane: dict[str, Any], wall: float) -> Lane:
    seconds = {name: lane[name] for name in WORKERS if name != "away"}
    # Since its last answer it has had nothing to do, or is still at something that it has not answered.
    seconds["wait_for_work"] += max(0.0, wall - lane["end"])
    seconds["away"] = max(0.0, wall - sum(seconds.values()))
    return Lane(
        slot=lane["slot"],
        items=lane["items"],
        answers=lane["answers"],
        begin=lane["begin"],
        end=lane["end"],
        seconds=seconds,
        cpu=lane["cpu"],
        cpu_of_other_threads=lane["cpu_of_other_threads"],
    )
