"""Reports as JSON. The form is described in `docs/reports.md`; `SCHEMA` is its version."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from forklift.report.figures import SCHEMA, Chunk, Histogram, Lane, Look, Report

_DERIVED = ("work", "speedup", "efficiency", "workers", "peak_memory", "throttled")
_TABLES: dict[str, Any] = {"memory": Look, "records": Chunk}
_HISTOGRAMS = ("item_seconds", "item_bytes_in", "item_bytes_out")


def dumps(report: Report) -> str:
    """Write a report down."""
    fields: dict[str, Any] = {name: getattr(report, name) for name in Report.__dataclass_fields__}
    fields["lanes"] = [asdict(lane) for lane in report.lanes]
    for name in _HISTOGRAMS:
        fields[name] = asdict(fields[name])
    for name, row in _TABLES.items():
        fields[name] = {"columns": row._fields, "rows": fields[name]}
    derived = {name: getattr(report, name) for name in _DERIVED}
    advice = [asdict(each) for each in report.advice]
    return json.dumps({"forklift_report": SCHEMA, **fields, **derived, "advice": advice}) + "\n"


def loads(text: str, name: str) -> Report:
    """Read what `dumps` wrote."""
    try:
        saved = json.loads(text)
        schema = saved.pop("forklift_report")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{name} is not a report that was saved as .json") from None
    if schema != SCHEMA:
        raise ValueError(f"{name} has form {schema} of a report, and this forklift reads form {SCHEMA}")
    fields = {field: value for field, value in saved.items() if field in Report.__dataclass_fields__}
    try:
        fields["lanes"] = [Lane(**lane) for lane in fields["lanes"]]
        for field in _HISTOGRAMS:
            fields[field]["buckets"] = [tuple(bucket) for bucket in fields[field]["buckets"]]
            fields[field] = Histogram(**fields[field])
        for field, row in _TABLES.items():
            columns = fields[field]["columns"]
            fields[field] = [
                row(**dict(zip(columns, values, strict=True))) for values in fields[field]["rows"]
            ]
        fields["incidents"] = [tuple(incident) for incident in fields["incidents"]]
        # Fields that came later have defaults, so that what an earlier version saved can be read.
        fields["admitted"] = [tuple(change) for change in fields.get("admitted", ())]
        for field in ("longest", "firsts"):
            fields[field] = None if fields[field] is None else tuple(fields[field])
        return Report(**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{name} is not a whole report: {error}") from None
