"""Numbers as people read them."""

from __future__ import annotations

_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB"))


def seconds(value: float) -> str:
    """Write a duration with three digits: "1.20 s", "35.1 ms", "2 m 05 s"."""
    if value >= 60:
        minutes, rest = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02} m" if hours else f"{minutes} m {rest:02} s"
    for unit, name in _SECONDS:
        if value >= unit:
            return f"{_digits(value / unit)} {name}"
    return f"{value * 1e9:.0f} ns" if value else "0"


def size(value: float) -> str:
    """Write a number of bytes with three digits: "8.00 MB"."""
    for unit, name in _BYTES:
        if value >= unit:
            return f"{_digits(value / unit)} {name}"
    return f"{value:.0f} B" if value else "0"


def percent(share: float) -> str:
    """Write a share: "4 %"."""
    return f"{100 * share:.0f} %"


def count(value: float) -> str:
    """Write a count, with thousands apart."""
    return f"{value:,.0f}"


def counted(value: float, noun: str, plural: str = "") -> str:
    """Write how many of something there are: "1 worker", "2 workers"."""
    return f"{count(value)} {noun if value == 1 else plural or noun + 's'}"


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
