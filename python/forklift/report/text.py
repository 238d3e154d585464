"""A report for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import TYPE_CHECKING

from forklift._plain import plain
from forklift._units import count, counted, percent, seconds, size

if TYPE_CHECKING:
    from forklift.report.figures import Histogram, Report

COLUMNS = 80
_BAR = 28

#: Nodes that are named; of more, only their number.
NODES_SHOWN = 4
_EIGHTHS = " ▏▎▍▌▋▊▉█"

#: What is written for the names of phases and ways.
WORDS = {
    "pull": "take items from the iterable",
    "encode": "encode items",
    "copy": "copy items",
    "wait_for_room": "wait for room",
    "wait_for_results": "wait for results",
    "decode_result": "decode results",
    "wait_for_work": "wait for work",
    "crossing": "on the way, there and back",
    "decode": "decode items",
    "compute": "compute",
    "encode_result": "encode results",
    "hand_over": "hand results over",
    "away": "not there",
    "in_message": "in messages",
    "copied": "copied",
    "by_reference": "by reference",
    "handed_over": "handed over",
    "once_per_call": "once per call",
}

# What is counted of workers, and of which reasons some of it was.
_STAFF = (
    ("births", "birth", "births", ()),
    ("failed_births", "failed birth", "failed births", ()),
    ("deaths", "death", "deaths", (("stopped_for_memory", "stopped for memory"),)),
    (
        "recycles",
        "recycle",
        "recycles",
        (("recycles_by_calls", "by calls"), ("recycles_by_memory", "by memory")),
    ),
    ("retries", "item tried again", "items tried again", ()),
)


def headline(report: Report) -> list[str]:
    """Say what the report is of, and how well it went."""
    items = counted(report.answered, "item")
    if report.total not in (None, report.answered):
        items = f"{count(report.answered)} of {counted(report.total or 0, 'item')}"
    elif not report.finished:
        items += " so far"
    workers = counted(report.processes, "worker")
    cores = counted(len(set(report.nodes)), "node") if report.nodes else counted(report.cores, "core")
    lines = [f"{report.call}({report.function}): {items}, {workers}, {cores}"]
    speed = f"{seconds(report.wall)} for {seconds(report.work)} of work: speed-up {report.speedup:.2f}"
    lines.append(f"{speed}, {percent(report.efficiency)} of what the cores allow")
    troubles = [f"{count(n)} {what}" for n, what in ((report.failed, "failed"), (report.lost, "lost")) if n]
    if troubles:
        lines.append("Items: " + ", ".join(troubles))
    return lines


def text(report: Report) -> str:
    """Write all of it."""
    lines = headline(report)
    lines += ["", *_phases("Parent", report.parent, report.wall)]
    workers = len(report.lanes)
    if workers:
        title = "Worker" if workers == 1 else f"{workers} workers"
        lines += ["", *_phases(title, report.workers, report.wall * workers)]
    lines += ["", *_bytes(report), "", *_spread(report)]
    lines += facts(report)
    for number, advice in enumerate(report.advice, 1):
        lines += ["", "Advice"] if number == 1 else []
        lines += _wrapped(advice.text, f" {number}. ")
    return "\n".join(plain(line.rstrip()) for line in lines)


def facts(report: Report) -> list[str]:
    """Say what there is to say of memory, workers and ways."""
    lines: list[str] = []
    for label, words in notes(report):
        lines += _wrapped(words, f"{label:<10}")
    return lines


def notes(report: Report) -> list[tuple[str, str]]:
    """Return what there is to say of memory, workers and ways, by what it is about."""
    found = []
    peak = max(report.memory, key=lambda look: sum(look[1:]), default=None)
    if peak is not None:
        parts = f"parent {size(peak.parent)}, workers {size(peak.workers)}"
        shared = f"shared {size(peak.payload + peak.results)}"
        found.append(("Memory", f"{size(sum(peak[1:]))} at most: {parts}, {shared}"))
    if report.spilled_bytes:
        found.append(("Disk", f"{size(report.spilled_bytes)} of results were moved to files in spill_dir"))
    staff = _staff(report.staff)
    if staff:
        found.append(("Workers", staff))
    if report.nodes:
        found.append(("Nodes", network(report)))
    if report.throttled:
        found.append(
            ("Admitted", f"less for {seconds(report.throttled)}, since memory was short: {least(report)}")
        )
    if report.inherit:
        found.append(("Way", report.inherit))
    return found


def network(report: Report) -> str:
    """Say what the way to other machines cost."""
    where = Counter(report.nodes)
    names = ", ".join(f"{node} with {number}" for node, number in sorted(where.items())[:NODES_SHOWN])
    more = f" and {len(where) - NODES_SHOWN} more" if len(where) > NODES_SHOWN else ""
    mean = report.workers["crossing"] / max(1, len(report.lanes))
    carried = f"{size(report.network_bytes)} carried by {report.engine}, which took {seconds(mean)} of a worker's time"
    return f"{names}{more}; {carried}"


def least(report: Report) -> str:
    """Say how much was admitted when it was least."""
    percents = min((percent for _, percent in report.admitted), default=100)
    return f"down to {percents} %" if percents else "down to one chunk at a time"


def _staff(staff: dict[str, int]) -> str:
    """Say what became of workers."""
    parts = []
    for name, noun, plural, reasons in _STAFF:
        if not staff.get(name):
            continue
        known = [(staff[reason], words) for reason, words in reasons if staff.get(reason)]
        words = ", ".join(
            words if number == staff[name] else f"{count(number)} {words}" for number, words in known
        )
        parts.append(counted(staff[name], noun, plural) + (f" ({words})" if words else ""))
    return ", ".join(parts)


def ways(report: Report) -> list[tuple[str, int | None, int | None]]:
    """Return by which way how many bytes went, there and back; None where there is no such way."""
    found: list[tuple[str, int | None, int | None]] = [
        (WORDS[way], report.bytes_in.get(way), report.bytes_out.get(way))
        for way in dict.fromkeys((*report.bytes_in, *report.bytes_out))
    ]
    if report.inherited_bytes:
        found.append(("inherited (estimated)", report.inherited_bytes, None))
    return found


def _wrapped(words: str, label: str) -> list[str]:
    return textwrap.wrap(words, COLUMNS, initial_indent=label, subsequent_indent=" " * len(label))


def _phases(title: str, phases: dict[str, float], whole: float) -> list[str]:
    lines = [f"{title:<30}{seconds(whole):>10}"]
    for name, spent in phases.items():
        share = spent / whole if whole else 0.0
        if share >= 0.0005:
            lines.append(f"  {WORDS[name]:<28}{seconds(spent):>10}{percent(share):>7}  {_bar(share)}")
    return lines


def _bar(share: float) -> str:
    eighths = round(min(share, 1.0) * _BAR * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _bytes(report: Report) -> list[str]:
    lines = [f"{'Payload':<30}{'to workers':>14}{'from workers':>16}"]
    for words, there, back in ways(report):
        if there or back:
            cells = ("" if there is None else size(there), size(back) if back else "")
            lines.append(f"  {words:<28}{cells[0]:>14}{cells[1]:>16}")
    return lines if len(lines) > 1 else ["Payload: none"]


def _spread(report: Report) -> list[str]:
    lines = [f"{'Each item':<16}{'least':>10}{'median':>12}{'99 %':>12}{'most':>12}{'mean':>12}"]
    rows: list[tuple[str, Histogram]] = [
        ("time", report.item_seconds),
        ("bytes in", report.item_bytes_in),
        ("bytes out", report.item_bytes_out),
    ]
    for name, spread in rows:
        write = seconds if name == "time" else size
        values = (spread.least, spread.quantile(0.5), spread.quantile(0.99), spread.greatest, spread.mean)
        cells = [write(value) for value in values]
        lines.append(f"  {name:<14}{cells[0]:>10}" + "".join(f"{cell:>12}" for cell in cells[1:]))
    if report.chunks:
        sizes = sorted(round(chunk.items / chunk.answers) for chunk in report.records) or [0]
        spread_of = f"{sizes[0]} to {sizes[-1]}, {sizes[len(sizes) // 2]} in the middle"
        how = f"chunksize={report.chunksize}" if report.chunksize else "chosen while running"
        lines.append(f"Chunks    {count(report.chunks)}, {how}; items in an answer: {spread_of}")
    return lines
