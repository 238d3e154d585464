"""A report as one page that works offline: the pictures are drawn by uPlot, which is part of the page."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from forklift._plain import html
from forklift._units import count, counted, seconds, size
from forklift.report import fragment

if TYPE_CHECKING:
    from forklift.report.figures import Chunk, Histogram, Report

#: Chunks that the page draws; of more, neighbours are drawn as one.
CHUNKS_MAX = 6000

#: Columns of a histogram.
_BINS_MAX = 32

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body class="forklift">
<main>
<h1>{title}</h1>
<p class="muted">{about}</p>
{cards}
{advice}
<section><h2>Where the time went</h2>
{breakdown}
</section>
{pictures}
<section><h2>Payload and items</h2>
{tables}
{notes}
</section>
</main>
<noscript><p>The pictures need JavaScript; nothing else does.</p></noscript>
<script type="application/json" id="report">{data}</script>
<script>{plot_script}</script>
<script>{script}</script>
</body>
</html>
"""


def policy(style: str, *scripts: str) -> str:
    """Return the page's Content-Security-Policy: nothing is fetched from anywhere, and no script runs but these.

    Nothing of what a report names should ever become markup. If it did, a browser would run none of it. Style
    attributes are allowed, since bars have their widths there: what stands in them are numbers and names of colours.
    """
    sources = " ".join(map(_hash, scripts)) or "'none'"
    return (
        f"default-src 'none'; script-src {sources}; style-src-elem {_hash(style)}; style-src-attr 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def page(report: Report) -> str:
    """Write the page."""
    here = files("forklift.report")
    plot_style, page_style, plot_script, script = (
        (here / name).read_text("utf-8")
        for name in ("uPlot.min.css", "page.css", "uPlot.iife.min.js", "page.js")
    )
    style = plot_style + fragment.STYLE + page_style
    pictures = _pictures(report)
    sections = "".join(
        f'<section><h2>{title}</h2><p class="muted">{words}</p>'
        f'<div class="picture" id="{name}" role="img" aria-label="{html(spoken)}"></div>'
        f'<p class="reading" id="{name}-reading" aria-hidden="true"></p></section>'
        for name, title, words, spoken in pictures
    )
    fields = {
        "policy": policy(style, plot_script, script),
        "title": html(f"{report.call}({report.function})"),
        "about": html(
            f"{counted(report.processes, 'worker')} on {counted(report.cores, 'core')}, forklift {report.version}"
            + ("" if report.finished else "; the call was still running")
        ),
        "style": style,
        "cards": fragment.cards(report),
        "advice": _section(fragment.advice(report, "<h2>Advice</h2>")),
        "breakdown": fragment.breakdown(report),
        "pictures": sections,
        "tables": fragment.tables(report),
        "notes": fragment.notes(report),
        # What looks like the end of the script must not be one.
        "data": json.dumps(_data(report), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        "plot_script": plot_script,
        "script": script,
    }
    return _PAGE.format(**fields)


def _section(words: str) -> str:
    return f"<section>{words}</section>" if words else ""


def _pictures(report: Report) -> list[tuple[str, str, str, str]]:
    """Name, title, what it shows, and what is said to those who cannot see it: where there is something to draw."""
    if not report.records:
        return []
    busy = [f"worker {lane.slot} answered {counted(lane.items, 'item')}" for lane in report.lanes]
    shown = "; ".join(busy[: fragment.LANES_MAX])
    sizes = [chunk.items / chunk.answers for chunk in report.records]
    times = report.item_seconds
    found = [
        (
            "timeline",
            "Workers",
            "Who was at what, when. Drag to look closer, double click to see all again.",
            f"Timeline of {counted(len(report.lanes), 'worker')} over {seconds(report.wall)}: {shown}.",
        )
    ]
    if len(report.memory) > 1:
        most = size(report.peak_memory or 0)
        found.append(
            (
                "memory",
                "Memory",
                "Resident memory of this process, of the workers, and what they share.",
                f"Memory over time: at most {most} in all.",
            )
        )
    found.append(
        (
            "chunks",
            "Chunk sizes",
            "Items that were answered together.",
            f"Chunk sizes over time: from {count(min(sizes))} to {counted(max(sizes), 'item')}.",
        )
    )
    found.append(
        (
            "times",
            "Time of an item",
            "How many items took how long in the function.",
            f"Histogram: half of the items took {seconds(times.quantile(0.5))} or less, the longest "
            f"{seconds(times.greatest)}.",
        )
    )
    return found


def _data(report: Report) -> dict[str, Any]:
    def moment(value: float) -> float:
        return round(value, 6)

    return {
        "wall": moment(report.wall),
        "lanes": [lane.slot for lane in report.lanes],
        "chunks": [
            [
                moment(chunk.begin),
                moment(chunk.end),
                chunk.slot,
                chunk.first,
                chunk.items,
                chunk.answers,
                moment(chunk.decode),
                moment(chunk.compute),
                moment(chunk.encode_result),
                moment(chunk.hand_over),
            ]
            for chunk in thinned(report.records, CHUNKS_MAX)
        ],
        "memory": [
            [moment(look.at), look.parent, look.workers, look.payload + look.results]
            for look in report.memory
        ],
        "incidents": [
            [moment(at), what, slot] for at, what, slot, _ in report.incidents if what in ("died", "left")
        ],
        "times": bins(report.item_seconds),
    }


def thinned(records: list[Chunk], most: int) -> list[Chunk]:
    """Return at most so many records: of each seat, so many neighbours are one as it takes."""
    if len(records) <= most:
        return records
    by_slot: dict[int, list[Chunk]] = {}
    for record in records:
        by_slot.setdefault(record.slot, []).append(record)
    step = math.ceil(len(records) / max(1, most - len(by_slot)))
    found = []
    for own in by_slot.values():
        for start in range(0, len(own), step):
            group = own[start : start + step]
            sums = {
                name: sum(getattr(record, name) for record in group)
                for name in ("items", "answers", "decode", "compute", "encode_result", "hand_over")
            }
            found.append(group[0]._replace(end=group[-1].end, **sums))
    return sorted(found)


def bins(spread: Histogram) -> list[tuple[float, float, int]]:
    """Return the buckets of a histogram as few columns of equal ratio: from, to, count."""
    buckets = [(value, number) for value, number in spread.buckets if value > 0]
    if not buckets:
        return []
    low, high = math.log(buckets[0][0]), math.log(buckets[-1][0])
    # No finer than a tenth, so that items which all take the same make one column and not a comb.
    columns = max(1, min(_BINS_MAX, round((high - low) / 0.1)))
    width = (high - low) / columns or 0.1
    counts = [0] * columns
    for value, number in buckets:
        counts[min(columns - 1, int((math.log(value) - low) / width))] += number
    edges = [math.exp(low + width * index) for index in range(columns + 1)]
    return [(edges[index], edges[index + 1], counts[index]) for index in range(columns)]
