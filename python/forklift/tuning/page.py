"""What `tune` found, as HTML: a picture of all settings with their spread, the table and the line to paste."""

from __future__ import annotations

from importlib.resources import files

from forklift._plain import html
from forklift._units import counted, seconds
from forklift.report.fragment import STYLE
from forklift.report.page import policy
from forklift.tuning.findings import Trial, Tuning

_STYLE = """
.settings { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .35rem .8rem; }
.settings .name { overflow-wrap: anywhere; font-size: .9rem; }
.settings .early { color: var(--muted); }
.settings svg { width: 100%; height: 1.5rem; display: block; overflow: visible; }
.settings text { font-size: 12px; fill: currentColor; }
pre { overflow-x: auto; padding: .8rem; border: 1px solid color-mix(in srgb, currentColor 25%, transparent); }
"""

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
{body}
</main>
</body>
</html>
"""


def page(tuning: Tuning) -> str:
    """Write the page. It works offline and has no script."""
    style = STYLE + (files("forklift.report") / "page.css").read_text("utf-8") + _STYLE
    title = html(f"tune({tuning.function})")
    return _PAGE.format(policy=policy(style), title=title, style=style, body=_body(tuning))


def fragment(tuning: Tuning) -> str:
    """Write what a notebook shows."""
    return f'<div class="forklift"><style>{STYLE}{_STYLE}</style>{_body(tuning)}</div>'


def _body(tuning: Tuning) -> str:
    most = max((trial.spread[1] for trial in tuning.trials), default=0.0)
    bars = "".join(_bar(trial, most, trial in tuning.finalists) for trial in tuning.trials if trial.runs)
    failures = "".join(
        f"<p><b>{html(trial.name)}</b> failed: {html(trial.failure)}</p>"
        for trial in tuning.trials
        if trial.failure
    )
    return f"""<p>{html(tuning.verdict)}</p>
<pre><code>{html(tuning.line)}</code></pre>
<section><h2>Time per item</h2>
<p class="muted">Median of the last round of each setting; the line goes from its least to its most. Settings in a paler
colour left early, and were measured with fewer items. {len(tuning.trials)} settings in {seconds(tuning.spent)}.</p>
<div class="settings">{bars}</div>{failures}</section>"""


def _bar(trial: Trial, most: float, stayed: bool) -> str:
    """One setting's bar, on a scale of 0 to 100 that ends before the words do."""
    scale = 72 / most if most else 0.0
    least, highest = (value * scale for value in trial.spread)
    median = trial.per_item * scale if trial.per_item != float("inf") else 0.0
    words = f"{seconds(trial.per_item)}, {counted(trial.items, 'item')}"
    spoken = html(f"{trial.name}: {words}, {seconds(trial.spread[0])} to {seconds(trial.spread[1])}")
    colour = "var(--point)"
    opacity = 1 if stayed else 0.45
    kind = "name" if stayed else "name early"
    return (
        f'<div class="{kind}">{html(trial.name)}</div>'
        f'<svg role="img" aria-label="{spoken}">'
        f'<rect x="0" y="4" width="{median:.2f}%" height="14" rx="2" fill="{colour}" opacity="{opacity}"/>'
        f'<line x1="{least:.2f}%" x2="{highest:.2f}%" y1="11" y2="11" stroke="currentColor" stroke-width="2"/>'
        f'<text x="{max(highest, median) + 1:.2f}%" y="16">{html(words)}</text></svg>'
    )
