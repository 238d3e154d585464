"""Objects that refer to one another, and functions that write to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

LARGE = 100_000


class Node:
    """Points back to its tree."""

    def __init__(self, root: Any) -> None:
        self.root = root


class Tree:
    """Knows its nodes, which know it."""

    def __init__(self, nodes: int, weight: int) -> None:
        self.bulk = [0.5] * weight
        self.nodes = [Node(self) for _ in range(nodes)]

    def has(self, node: Node) -> bool:
        """Whether the node arrived beside the tree as one of its own."""
        return node.root is self and any(node is mine for mine in self.nodes)

    def has_both(self, first: Node, *, second: Node) -> bool:
        return self.has(first) and self.has(second)


@dataclass
class Slotted:
    part: Any
    more: list[Any] = field(default_factory=list)


class Holder:
    """Has something in an attribute of an attribute."""

    def __init__(self, part: Any) -> None:
        self.inner = {"deep": [Slotted(part)]}

    @property
    def part(self) -> Any:
        return self.inner["deep"][0].part


class Task:
    """What many programs send: a plain object with a configuration and a number."""

    def __init__(self, part: Any, number: int) -> None:
        self.part = part
        self.number = number


def change(part: Any) -> None:
    """Write to a part, whatever it is."""
    if isinstance(part, np.ndarray):
        part[0] = -1
    elif isinstance(part, (list, bytearray)):
        part[0] = 7
    elif isinstance(part, dict):
        part["changed"] = True
    elif isinstance(part, set):
        part.add("changed")
    else:
        part.changed = True


def is_changed(part: Any) -> bool:
    """Whether `change` wrote to it."""
    if isinstance(part, np.ndarray):
        return bool(part[0] == -1)
    if isinstance(part, (list, bytearray)):
        return part[0] == 7
    if isinstance(part, dict):
        return "changed" in part
    if isinstance(part, set):
        return "changed" in part
    return hasattr(part, "changed")


def one_object(part: Any, holder: Holder) -> bool:
    """Whether two arguments hold one object, which shows what is written to it by either way."""
    same = holder.part is part and not is_changed(part)
    change(part)
    return same and is_changed(holder.part)


def one_object_of_pair(pair: tuple[Any, Holder]) -> bool:
    return one_object(*pair)


def is_untouched(task: Task) -> bool:
    """Whether no other call has written to the part; then writes to it."""
    untouched = not is_changed(task.part)
    change(task.part)
    return untouched


def count(task: Task) -> int:
    """Append to what the caller's tasks share; how much is in it."""
    task.part.append(task.number)
    return len(task.part)


def write_and_look(task: Task) -> bool:
    """Fill the array with the task's own number, and see whether it stays."""
    import time

    task.part[:] = task.number
    time.sleep(0.0003)
    return bool((task.part == task.number).all())


class Accumulator:
    """Keeps what it returned, and changes it later."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.array = np.zeros(LARGE)

    def list(self, number: int) -> list[int]:
        self.seen.append(number)
        return self.seen

    def view(self, number: int) -> np.ndarray:
        self.array[:] = number
        return self.array

    def mixed(self, number: int) -> Any:
        """Results of all kinds: some that cannot change, some that do, small and large, and failures."""
        kind = number % 6
        if kind == 0:
            return number
        if kind == 1:
            return self.list(number)
        if kind == 2:
            return self.view(number)
        if kind == 3:
            return np.full(LARGE, number, dtype=float)
        if kind == 4:
            raise ValueError(number)
        return lambda: number


class Predictor:
    """Has more parts than are told to each item."""

    def __init__(self) -> None:
        self.table = {"a": 1}
        self.weights = np.ones(LARGE)
        self.layers = [[number] for number in range(40)]

    def knows(self, item: dict[str, Any]) -> tuple[bool, bool, bool]:
        return item["table"] is self.table, item["weights"] is self.weights, item["layer"] is self.layers[3]


def is_mine(mine: Any, theirs: Any) -> bool:
    return mine is theirs


def was_changed(part: Any) -> bool:
    """As `is_untouched`, for the part itself."""
    changed = is_changed(part)
    change(part)
    return changed


def row_is_in_table(table: dict[str, Any], row: Any, name: str) -> bool:
    return any(row is mine for mine in table[name])


def row_is_in_holder(holder: Holder, row: Any) -> bool:
    return holder.part is row


def have_one_part(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first["part"] is second["part"]


def twice(number: int) -> tuple[list[int], list[int]]:
    made = [number]
    return made, made


_kept: list[int] = []


def always_the_same(_number: int) -> list[int]:
    return _kept


class Broken:
    """Cannot be rebuilt where results arrive."""

    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    import os

    if os.environ.get("FORKLIFT_TEST_PARENT") == str(os.getpid()):
        raise LookupError("not here")


def broken_or(number: int) -> Any:
    return Broken() if number == 3 else {"number": [number]}
