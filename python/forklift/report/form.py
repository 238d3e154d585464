"""Reports as JSON. The form is described in `docs/reports.md`; `SCHEMA` is its version.

Who wrote a file is not known. So what is read has the types, ranges and sizes that `dumps` writes, or an error names
the field that has not: whatever draws a report may rely on that. Texts can hold anything, and are escaped where they
are shown.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import MISSING, asdict
from typing import Any

from forklift._plain import plain
from forklift.report.checks import (
    NUMBER_MAX,
    Check,
    Unfit,
    columned,
    listed,
    number,
    one_of,
    perhaps,
    record,
    row,
    sums,
    text,
    truth,
    whole,
)
from forklift.report.figures import (
    BYTES_IN,
    BYTES_OUT,
    PARENT,
    SCHEMA,
    STAFF,
    WORKERS,
    Chunk,
    Histogram,
    Lane,
    Look,
    Report,
)

#: A report of the longest call takes a tenth of it: records are folded, and looks at memory become rare.
BYTES_MAX = 64 << 20

_DERIVED = ("work", "speedup", "efficiency", "workers", "peak_memory", "throttled")
_TABLES: dict[str, Any] = {"memory": Look, "records": Chunk}
_HISTOGRAMS = ("item_seconds", "item_bytes_in", "item_bytes_out")

_COUNT, _SECONDS, _MOMENT = whole(), number(), number(-float(NUMBER_MAX))
_HISTOGRAM = record(
    Histogram,
    {
        "count": _COUNT,
        "mean": number(),
        "least": number(),
        "greatest": number(),
        "buckets": listed(row(number(), _COUNT)),
    },
)
_LANE = record(
    Lane,
    {
        "slot": _COUNT,
        "items": _COUNT,
        "answers": _COUNT,
        "begin": _MOMENT,
        "end": _MOMENT,
        "seconds": sums(WORKERS, _SECONDS, 0.0),
        "cpu": _SECONDS,
        "cpu_of_other_threads": _SECONDS,
    },
)
_LOOK: dict[str, Check[Any]] = dict.fromkeys(Look._fields, _COUNT) | {"at": _MOMENT}
_CHUNK: dict[str, Check[Any]] = {
    **dict.fromkeys(("begin", "end"), _MOMENT),
    **dict.fromkeys(("slot", "pid", "first", "bytes_in", "bytes_out"), _COUNT),
    **dict.fromkeys(("items", "answers"), whole(1)),
    **dict.fromkeys(("decode", "compute", "encode_result", "hand_over"), _SECONDS),
}
_FIELDS: dict[str, Check[Any]] = {
    **dict.fromkeys(("call", "function", "inherit", "version", "engine"), text),
    **dict.fromkeys(("processes", "cores", "fold"), whole(1)),
    **dict.fromkeys(("chunksize", "submitted", "answered", "failed", "lost", "chunks"), _COUNT),
    **dict.fromkeys(("repeated_bytes", "spilled_bytes", "inherited_bytes", "memory_available"), _COUNT),
    **dict.fromkeys(_HISTOGRAMS, _HISTOGRAM),
    "total": perhaps(_COUNT),
    "wall": _SECONDS,
    "finished": truth,
    "parent": sums(PARENT, _SECONDS, 0.0),
    "lanes": listed(_LANE),
    "bytes_in": sums(BYTES_IN, _COUNT, 0),
    "bytes_out": sums(BYTES_OUT, _COUNT, 0),
    "longest": perhaps(row(_COUNT, _SECONDS, _COUNT)),
    "firsts": row(_COUNT, _COUNT, _SECONDS, _SECONDS),
    "imported": listed(text),
    "staff": sums(STAFF, _COUNT, 0),
    "incidents": listed(row(_MOMENT, one_of("born", "ready", "left", "died", "stillborn"), _COUNT, _COUNT)),
    "memory": columned(Look, _LOOK),
    "records": columned(Chunk, _CHUNK),
    "nodes": listed(text),
    "admitted": listed(row(_MOMENT, _COUNT)),
}
# Fields that came later have defaults: what an earlier version saved has not got them.
_FIRST = {
    field.name for field in dataclasses.fields(Report) if field.default is field.default_factory is MISSING
}


def dumps(report: Report) -> str:
    """Write a report down."""
    fields: dict[str, Any] = {name: getattr(report, name) for name in Report.__dataclass_fields__}
    fields["lanes"] = [asdict(lane) for lane in report.lanes]
    for name in _HISTOGRAMS:
        fields[name] = asdict(fields[name])
    for name, kind in _TABLES.items():
        fields[name] = {"columns": kind._fields, "rows": fields[name]}
    derived = {name: getattr(report, name) for name in _DERIVED}
    advice = [asdict(each) for each in report.advice]
    return (
        json.dumps({"forklift_report": SCHEMA, **fields, **derived, "advice": advice}, allow_nan=False) + "\n"
    )


def loads(saved: bytes, name: str) -> Report:
    """Read what `dumps` wrote. Of later fields, and of what follows from others, nothing is used."""
    name = plain(name)
    if len(saved) > BYTES_MAX:
        raise ValueError(f"{name} is larger than any report: more than {BYTES_MAX >> 20} MiB")
    try:
        fields = json.loads(saved.decode("utf-8"))
    except (
        ValueError,
        RecursionError,
    ):  # Not UTF-8, not JSON, numbers of thousands of digits, or nested without end.
        fields = None
    if type(fields) is not dict or "forklift_report" not in fields:
        raise ValueError(f"{name} is not a report that was saved as .json")
    try:
        schema = whole()(fields["forklift_report"], "forklift_report")
        if schema != SCHEMA:
            raise ValueError(f"{name} has form {schema} of a report, and this forklift reads form {SCHEMA}")
        found = {}
        for field, check in _FIELDS.items():
            if field in fields:
                found[field] = check(fields[field], field)
            elif field in _FIRST:
                raise Unfit(f"{field} is missing")
    except Unfit as fault:
        raise ValueError(f"{name} is not a whole report: {fault}") from None
    return Report(**found)
