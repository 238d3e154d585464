"""The parts of a report that are plain HTML: what a notebook shows, and the page around its pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forklift._plain import html
from forklift._units import count, counted, percent, seconds, size
from forklift.report import text
from forklift.report.text import WORDS, headline

if TYPE_CHECKING:
    from forklift.report.figures import Report

#: Bars of workers that are drawn apart; of more, all are drawn as one.
LANES_MAX = 16

STYLE = """
.forklift { --bg: #ffffff; --fg: #1b1f24; --muted: #57606a; --card: #f6f8fa; --line: #d0d7de;
  --pull: #bc4c00; --encode: #9a6700; --copy: #0a7d91; --wait: #d5dae0; --away: #eceff2; --decode: #8250df;
  --compute: #1a7f37; --result: #bf3989; --point: #0969da; }
@media (prefers-color-scheme: dark) { .forklift { --bg: #0d1117; --fg: #e6edf3; --muted: #9ea7b3; --card: #161b22;
  --line: #30363d; --pull: #f0883e; --encode: #d29922; --copy: #39c5cf; --wait: #3d444d; --away: #21262d;
  --decode: #a371f7; --compute: #3fb950; --result: #f778ba; --point: #58a6ff; } }
.forklift { background: var(--bg); color: var(--fg); font: 15px/1.5 system-ui, sans-serif; }
.forklift .cards { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; padding: 0; list-style: none; }
.forklift .cards li { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .5rem .9rem; flex: 1 1 7.5rem; }
.forklift .cards b { display: block; font-size: 1.5rem; line-height: 1.2; font-weight: 600; white-space: nowrap; }
.forklift .cards span { color: var(--muted); font-size: .85rem; }
.forklift .advice { margin: .5rem 0; padding-left: 1.4rem; }
.forklift .advice li { margin: .4rem 0; }
.forklift .bars { display: grid; grid-template-columns: max-content 1fr; gap: .3rem .75rem; align-items: center; }
.forklift .bar { display: flex; height: 1.3rem; background: var(--away); border-radius: 4px; overflow: hidden; }
.forklift .bar i { display: block; height: 100%; }
.forklift .legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .6rem 0 0; padding: 0;
  list-style: none; font-size: .85rem; }
.forklift .legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.forklift table { border-collapse: collapse; font-size: .9rem; background: none; color: inherit; }
.forklift th, .forklift td { padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; white-space: nowrap; background: none; color: inherit; }
.forklift th:first-child { text-align: left; }
.forklift thead th { color: var(--muted); font-weight: 500; }
.forklift tbody th { font-weight: 400; }
"""

COLOURS = {
    "pull": "pull",
    "encode": "encode",
    "copy": "copy",
    "wait_for_room": "wait",
    "wait_for_results": "wait",
    "decode_result": "result",
    "wait_for_work": "wait",
    "crossing": "pull",
    "decode": "decode",
    "compute": "compute",
    "encode_result": "encode",
    "hand_over": "copy",
    "away": "away",
}


def fragment(report: Report) -> str:
    """Write what a notebook shows: no script, and nothing that reaches beyond it."""
    title = f"<p><b>{html(headline(report)[0])}</b></p>"
    parts = [title, cards(report), breakdown(report), notes(report), advice(report, "<p><b>Advice</b></p>")]
    return f'<div class="forklift" style="padding: .5rem"><style>{STYLE}</style>{"".join(parts)}</div>'


def cards(report: Report) -> str:
    """The figures that matter most."""
    sides = report.sides
    cells = [
        (seconds(report.wall), "wall time" if report.finished else "so far"),
        (seconds(report.work), "work in the function"),
        (f"{report.speedup:.2f} ×", "speed-up over that work"),
        (percent(report.efficiency), f"of {counted(sides, 'core')}"),
        (count(report.answered), _of_items(report)),
    ]
    items = "".join(f"<li><b>{html(value)}</b><span>{html(name)}</span></li>" for value, name in cells)
    return f'<ul class="cards">{items}</ul>'


def _of_items(report: Report) -> str:
    """What the number of items that were answered is a number of."""
    if report.total is not None:
        return f"of {counted(report.total, 'item')}"
    return "item" if report.answered == 1 else "items"


def advice(report: Report, title: str) -> str:
    """What to do."""
    found = report.advice
    if not found:
        return ""
    items = "".join(f"<li>{html(each.text)}</li>" for each in found)
    return f'{title}<ol class="advice">{items}</ol>'


def breakdown(report: Report) -> str:
    """A bar for this process and for each worker, what each colour means, and how long each took."""
    rows = [("this process", report.parent, report.wall)]
    if len(report.lanes) > LANES_MAX:
        rows.append((f"{len(report.lanes)} workers", report.workers, report.wall * len(report.lanes)))
    else:
        rows += [(f"worker {lane.slot}", lane.seconds, report.wall) for lane in report.lanes]
    bars = "".join(_bar(name, phases, whole) for name, phases, whole in rows)
    legend = ""
    for title, phases in (("this process", report.parent), ("workers", report.workers)):
        entries = "".join(
            f'<li><i style="background: var(--{COLOURS[name]})"></i>{WORDS[name]} {seconds(spent)}</li>'
            for name, spent in phases.items()
            if spent > 0
        )
        if entries:
            legend += f'<ul class="legend" aria-label="{title}"><li><b>{title}:</b></li>{entries}</ul>'
    return f'<div class="bars">{bars}</div>{legend}'


def _bar(name: str, phases: dict[str, float], whole: float) -> str:
    # Two threads of an imap can spend more than the wall time together.
    whole = max(whole, sum(phases.values())) or 1.0
    spoken = ", ".join(f"{WORDS[phase]} {percent(spent / whole)}" for phase, spent in phases.items() if spent)
    pieces = "".join(
        f'<i style="width: {100 * spent / whole:.2f}%; background: var(--{COLOURS[phase]})" '
        f'title="{WORDS[phase]}: {seconds(spent)}"></i>'
        for phase, spent in phases.items()
        if spent
    )
    label = html(f"{name}: {spoken}")
    return f'<span>{html(name)}</span><div class="bar" role="img" aria-label="{label}">{pieces}</div>'


def tables(report: Report) -> str:
    """Bytes by their ways, and how items are spread."""
    rows = [
        (words, *("" if flow is None else size(flow) for flow in (there, back)))
        for words, there, back in text.ways(report)
    ]
    spreads = []
    for name, spread, write in (
        ("time", report.item_seconds, seconds),
        ("bytes in", report.item_bytes_in, size),
        ("bytes out", report.item_bytes_out, size),
    ):
        values = (spread.least, spread.quantile(0.5), spread.quantile(0.99), spread.greatest, spread.mean)
        spreads.append((name, *(write(value) for value in values)))
    return _table("Payload", ("", "to workers", "from workers"), rows) + _table(
        "Each item", ("", "least", "median", "99 %", "most", "mean"), spreads
    )


def notes(report: Report) -> str:
    """What there is to say of memory, workers and ways."""
    return "".join(f"<p><b>{html(label)}:</b> {html(words)}</p>" for label, words in text.notes(report))


def _table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    def cell(value: str, kind: str) -> str:
        return f"<{kind}>{html(value)}</{kind}>"

    corner = f"<th>{html(title)}</th>"
    heads = corner + "".join(f'<th scope="col">{html(name)}</th>' for name in head[1:])
    body = "".join(
        f'<tr><th scope="row">{html(row[0])}</th>' + "".join(cell(value, "td") for value in row[1:]) + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="{html(title)}">{table}</div>'
