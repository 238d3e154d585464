"""What a value that was read from a file has to be: checks that name the place at which it is not.

A check takes a value, as JSON gives it, and the place where it stood; it returns the value that is to be used, or
raises `Unfit`. It never runs anything that the file names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from forklift._plain import plain

T = TypeVar("T")
Check = Callable[[Any, str], T]

#: Neither bytes nor nanoseconds nor counts of anything real come near it, and products of two are still numbers.
NUMBER_MAX = 2**63
#: More than names of functions and reasons in words take.
TEXT_MAX = 16_384
#: More than a pool has seats, or a report rows.
ROWS_MAX = 200_000
#: What of a value is shown in an error.
SHOWN_MAX = 60


class Unfit(ValueError):
    """A value is not what stands at its place in a report."""


def unfit(value: object, place: str, wanted: str) -> Unfit:
    """Say what was found where something else was wanted."""
    if isinstance(value, (list, dict)):
        found = f"a {'list' if isinstance(value, list) else 'table'} of {len(value)}"
    else:
        found = plain(repr(value)[:SHOWN_MAX])
    return Unfit(f"{place} must be {wanted}, not {found}")


def whole(least: int = 0) -> Check[int]:
    """An integer."""

    def check(value: Any, place: str) -> int:
        if type(value) is not int or not least <= value <= NUMBER_MAX:
            raise unfit(value, place, f"a whole number from {least} on")
        return value

    return check


def number(least: float = 0.0) -> Check[float]:
    """A number that is finite."""

    def check(value: int | float, place: str) -> float:
        if type(value) not in (int, float) or not least <= value <= NUMBER_MAX:  # Of NaN nothing is true.
            wanted = "a number" if least < 0 else f"a number from {least:g} on"
            raise unfit(value, place, f"{wanted} that is finite and no larger than 2**63")
        return value

    return check


def truth(value: Any, place: str) -> bool:
    if type(value) is not bool:
        raise unfit(value, place, "true or false")
    return value


def text(value: Any, place: str) -> str:
    if type(value) is not str:
        raise unfit(value, place, "text")
    if len(value) > TEXT_MAX:
        raise Unfit(f"{place} has {len(value)} characters, and at most {TEXT_MAX} are read")
    return value


def one_of(*known: str) -> Check[str]:
    """One of these words."""

    def check(value: Any, place: str) -> str:
        if type(value) is not str or value not in known:
            raise unfit(value, place, f"one of {', '.join(known)}")
        return value

    return check


def perhaps(check: Check[T]) -> Check[T | None]:
    """What the check says, or null."""
    return lambda value, place: None if value is None else check(value, place)


def listed(check: Check[T]) -> Check[list[T]]:
    """A list of such."""

    def of_all(value: Any, place: str) -> list[T]:
        if type(value) is not list:
            raise unfit(value, place, "a list")
        if len(value) > ROWS_MAX:
            raise Unfit(f"{place} has {len(value)} elements, and at most {ROWS_MAX} are read")
        return [check(each, f"{place}[{index}]") for index, each in enumerate(value)]

    return of_all


def row(*checks: Check[Any]) -> Check[Any]:
    """A list of so many, which becomes a tuple."""

    def check(value: Any, place: str) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(checks):
            raise unfit(value, place, f"a list of {len(checks)}")
        pairs = enumerate(zip(checks, value, strict=True))
        return tuple(own(each, f"{place}[{index}]") for index, (own, each) in pairs)

    return check


def sums(known: Iterable[str], check: Check[T], zero: T) -> Check[dict[str, T]]:
    """A table of numbers by name. Of an earlier version some may be missing; other names have no meaning here."""
    names = tuple(known)

    def of_all(value: Any, place: str) -> dict[str, T]:
        if type(value) is not dict:
            raise unfit(value, place, "a table")
        for name in value:
            if name not in names:
                raise Unfit(f"{place} has {plain(repr(name)[:SHOWN_MAX])}, which this forklift does not know")
        found = {name: check(each, f"{place}.{name}") for name, each in value.items()}
        return found | {name: zero for name in names if name not in found}

    return of_all


def record(kind: Callable[..., T], checks: dict[str, Check[Any]]) -> Check[T]:
    """A table with these fields and no others, which becomes one of that kind."""

    def check(value: Any, place: str) -> T:
        if type(value) is not dict:
            raise unfit(value, place, "a table")
        for name in (*checks, *value):
            if name not in value:
                raise Unfit(f"{place}.{name} is missing")
            if name not in checks:
                raise Unfit(f"{place} has {plain(repr(name)[:SHOWN_MAX])}, which this forklift does not know")
        return kind(**{name: own(value[name], f"{place}.{name}") for name, own in checks.items()})

    return check


def columned(kind: Callable[..., T], checks: dict[str, Check[Any]]) -> Check[list[T]]:
    """A table of columns and rows, which becomes a list of that kind."""

    def check(value: Any, place: str) -> list[T]:
        if type(value) is not dict or "columns" not in value or "rows" not in value:
            raise unfit(value, place, "a table of columns and rows")
        columns = listed(one_of(*checks))(value["columns"], f"{place}.columns")
        if sorted(columns) != sorted(checks):
            raise Unfit(f"{place}.columns must be {', '.join(checks)}, each once")
        of_row = row(*(checks[name] for name in columns))
        rows = listed(of_row)(value["rows"], f"{place}.rows")
        return [kind(**dict(zip(columns, values, strict=True))) for values in rows]

    return check
