"""A report as a trace in Chrome's format: every chunk on every worker, for Perfetto or chrome://tracing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forklift.report.figures import Report

_PHASES = ("decode", "compute", "encode_result", "hand_over")


def trace(report: Report) -> str:
    """Write the events. Times are microseconds from the begin of the call; a worker's seat is a thread of the pool."""
    events: list[dict[str, Any]] = [_name("process_name", f"forklift {report.call}({report.function})", 0)]
    events += [_name("thread_name", f"worker {lane.slot}", lane.slot + 1) for lane in report.lanes]
    for chunk in report.records:
        thread = chunk.slot + 1
        words = (
            f"items {chunk.first}–{chunk.first + chunk.items - 1}"
            if chunk.items > 1
            else f"item {chunk.first}"
        )
        about = {
            "items": chunk.items,
            "answers": chunk.answers,
            "bytes in": chunk.bytes_in,
            "bytes out": chunk.bytes_out,
            "pid": chunk.pid,
        }
        events.append(_span(words, "chunk", chunk.begin, chunk.end - chunk.begin, thread, about))
        if chunk.answers == 1:
            begin = chunk.begin
            for phase in _PHASES:
                spent = getattr(chunk, phase)
                if spent:
                    events.append(_span(phase.replace("_", " "), "phase", begin, spent, thread, {}))
                begin += spent
    for look in report.memory:
        held = {name: getattr(look, name) for name in ("parent", "workers", "payload", "results")}
        events.append({"name": "memory", "ph": "C", "ts": look.at * 1e6, "pid": 1, "args": held})
    for at, what, slot, pid in report.incidents:
        events.append(
            {
                "name": what,
                "cat": "worker",
                "ph": "i",
                "s": "t",
                "ts": at * 1e6,
                "pid": 1,
                "tid": slot + 1,
                "args": {"pid": pid},
            }
        )
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events}, allow_nan=False) + "\n"


def _name(kind: str, name: str, thread: int) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": 1, "tid": thread, "args": {"name": name}}


def _span(
    name: str, kind: str, begin: float, spent: float, thread: int, about: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "cat": kind,
        "ph": "X",
        "ts": begin * 1e6,
        "dur": spent * 1e6,
        "pid": 1,
        "tid": thread,
        "args": about,
    }
