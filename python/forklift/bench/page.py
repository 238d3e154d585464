"""The page that a benchmark run writes: the machine, the command, the tables, in Markdown."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forklift.bench.rivals import RIVALS, Forklift, Loop, StandardPool, Threads, named

LIBRARIES = ("forklift", "numpy", "pandas", "scipy", "joblib", "mpire", "cloudpickle")
MEGA = 1e6


@dataclass
class Findings:
    """What a run has measured so far."""

    command: str
    workers: int
    rounds: int
    cap: float
    quick: bool
    absent: list[str]
    cases: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)
    startup: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    memory: dict[str, dict[str, int] | str] = field(default_factory=dict)


def table(rows: list[list[str]]) -> str:
    """A Markdown table that also reads as text: first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in [rows[0], rule, *rows[1:]]:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("| " + " | ".join([row[0].ljust(widths[0]), *numbers]) + " |")
    return "\n".join(lines)


def warm(lane: dict[str, Any] | None) -> float | None:
    """The median of the warm rounds, in seconds, of a rival that did well."""
    if lane is None or lane["failure"] or len(lane["seconds"]) < 2:
        return None
    return float(statistics.median(lane["seconds"][1:]))


def milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "—"
    value = seconds * 1000
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


def quotient(over: float | None, under: float | None) -> str:
    if over is None or under is None:
        return "—"
    value = over / under
    return f"{value:.0f}×" if value >= 20 else f"{value:.1f}×" if value >= 1 else f"{value:.2f}×"


def standing(lanes: list[dict[str, Any]]) -> str:
    """Whether forklift is ahead of every other process pool, and who else is ahead of it."""
    times = {lane["rival"]: time for lane in lanes if (time := warm(lane)) is not None}
    own = times.pop(Forklift.name, None)
    if own is None:
        return "failed" if any(lane["rival"] == Forklift.name for lane in lanes) else "not measured"
    pools = {name: time for name, time in times.items() if named(name).is_process_pool}
    words = []
    if pools:
        best = min(pools, key=lambda name: pools[name])
        if own <= pools[best]:
            words.append(f"yes, {quotient(pools[best], own)} {best}")
        else:
            words.append(f"no, {best} {quotient(own, pools[best])} as fast")
    others = [name for name in (Loop.name, Threads.name) if name in times and times[name] < own]
    words += [f"{name} {quotient(own, times[name])} as fast" for name in others]
    return "; ".join(words)


def summary(findings: Findings) -> str:
    taking_part = {lane["rival"] for _, lanes in findings.cases for lane in lanes}
    names = [rival.name for rival in RIVALS if rival.name in taking_part]
    head = ["warm median, ms", *names, "vs multiprocessing.Pool", "of threads' time", "is forklift ahead?"]
    rows = [head]
    for title, lanes in findings.cases:
        by_name = of_case(lanes)
        own, pool, threads = (warm(by_name.get(rival.name)) for rival in (Forklift, StandardPool, Threads))
        times = [milliseconds(warm(by_name.get(name))) for name in names]
        rows.append([title, *times, quotient(pool, own), quotient(own, threads), standing(lanes)])
    return table(rows)


def of_case(lanes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {lane["rival"]: lane for lane in lanes}


def details(lanes: list[dict[str, Any]], findings: Findings) -> str:
    """Every rival of one case: first round, median, spread, and how it stands to the pool and to threads."""
    by_name = of_case(lanes)
    pool, threads = (warm(by_name.get(rival.name)) for rival in (StandardPool, Threads))
    head = ["", "first round, ms", "warm median, ms", "least – most", "warm rounds"]
    rows = [[*head, "vs multiprocessing.Pool", "of threads' time"]]
    notes = []
    for lane in lanes:
        seconds, own = lane["seconds"], warm(lane)
        least_most = "—"
        if own is not None:
            least_most = f"{milliseconds(min(seconds[1:]))} – {milliseconds(max(seconds[1:]))}"
        first = milliseconds(seconds[0] if seconds else None)
        times = [first, milliseconds(own), least_most, str(max(0, len(seconds) - 1))]
        rows.append([lane["rival"], *times, quotient(pool, own), quotient(own, threads)])
        if lane["failure"]:
            notes.append(f"- {lane['rival']} failed: {lane['failure']}")
        elif len(seconds) - 1 < findings.rounds:
            notes.append(f"- {lane['rival']} got fewer rounds: it had used up its {findings.cap:.0f} s.")
    return "\n\n".join([table(rows), *(["\n".join(notes)] if notes else [])])


def startup(findings: Findings) -> str:
    rows = [["", "first pool of a process, ms", "later pools, ms", "least – most"]]
    for kind, figures in findings.startup.items():
        first, later = figures["first"], figures["later"]
        every = first + later
        rows.append(
            [
                kind,
                milliseconds(statistics.median(first) if first else None),
                milliseconds(statistics.median(later) if later else None),
                f"{milliseconds(min(every))} – {milliseconds(max(every))}" if every else "—",
            ]
        )
    return table(rows)


def memory(findings: Findings) -> str:
    rows = [["", "extra memory of all processes, MB", "extra shared memory of the machine, MB"]]
    for name, figures in findings.memory.items():
        if isinstance(figures, str):
            rows.append([name, figures, "—"])
        else:
            rows.append([name, f"{figures['pss'] / MEGA:.0f}", f"{figures['shared'] / MEGA:.0f}"])
    return table(rows)


def first_match(path: str, pattern: str) -> str:
    try:
        match = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1].strip() if match else "unknown"


def machine() -> str:
    """What was measured on, as a list."""
    versions = []
    for library in LIBRARIES:
        try:
            versions.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    gigabytes = int(first_match("/proc/meminfo", r"^MemTotal:\s+(\d+)")) / 1e6
    model = first_match("/proc/cpuinfo", r"^model name\s*: (.*)$")
    lines = [
        f"{len(os.sched_getaffinity(0))} cores, {model}",
        f"{gigabytes:.0f} GB of memory",
        f"{platform.system()} {platform.release()}",
        f"{platform.python_implementation()} {platform.python_version()}",
        ", ".join(versions),
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
    ]
    return "\n".join(f"- {line}" for line in lines)


METHOD = """\
Every pool has {workers} workers. All rivals run in one process per case and take turns, round by round,
so that a noisy moment hits all of them; each pool is warm (every worker has answered once) before the
data exist. The first round is shown by itself: it pays for imports in the workers and for memory that
nobody has touched yet. Then come up to {rounds} warm rounds, of which the tables give the median; a rival
that has used up {cap:.0f} s gets no more. Every result of every round is compared with the for loop's.
Freeing a result is not timed, for anybody.

- The same objects are mapped in every round. joblib keeps what it has once written to a memory-mapped file,
  so its warm rounds over arrays find the work done; its first round shows what a map over new arrays costs.
  It does not look whether an array has changed since: functions see the contents of the first round. Forklift
  copies again in every round, unless the array lies in shared memory.
- A rival without a figure (—) would take minutes for that case and was left out, or has failed; the case's own
  table says which.
- ProcessPoolExecutor sends items one by one unless told otherwise. For small items it is told: a quarter
  of each worker's share at a time, as `multiprocessing.Pool` does. mpire and joblib choose for themselves.
- `multiprocessing.Pool`, ProcessPoolExecutor and mpire fork (a copy of the measuring process, with all its
  modules loaded); forklift and joblib start clean processes, which import what they need in the first
  round."""


def render(findings: Findings) -> str:
    """The whole page."""
    quick = "**A quick look: a tenth of the items, few rounds. Not for quoting.**\n" if findings.quick else ""
    absent = f"Not installed, so not measured: {', '.join(findings.absent)}.\n" if findings.absent else ""
    method = METHOD.format(workers=findings.workers, rounds=findings.rounds, cap=findings.cap)
    parts = ["# Performance", "Written by `make bench`; the figures are of one run.", quick, absent]
    parts += [machine(), f"```\n{findings.command}\n```", "## How it is measured", method]
    if findings.cases:
        words = (
            "`vs multiprocessing.Pool`: how many times as fast. `of threads' time`: 2× is half as fast. The last\n"
            "column names the best of the other pools, and the loop and threads where they are faster."
        )
        parts += ["## Summary", summary(findings), words]
    if findings.startup:
        words = "Time from `Pool(…)` to the result of `abs(-1)`, without the import of the package."
        parts += ["## Start-up", words, startup(findings)]
    if findings.memory:
        words = (
            "While 100 arrays of 8 MB are mapped to their sums, twice: the highest proportional set size of\n"
            "all processes beyond what they held before. Files in shared memory that nobody maps at that moment\n"
            "show only in the second column, which counts shared memory of the whole machine."
        )
        parts += ["## Memory", words, memory(findings)]
    for title, lanes in findings.cases:
        parts += [f"## {title}", details(lanes, findings)]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"
