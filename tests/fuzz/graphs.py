"""Random graphs of objects: shared, nested, cyclic, of plain types and of classes as users write them."""

from __future__ import annotations

import array
import random
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Graph", "Task", "large_array"]

#: Bytes of arrays and of other bulk: within a message, out of band, in blocks of their own, beyond a MiB.
SIZES = (0, 8, 400, 9_000, 20_000, 70_000, 70_000, 150_000, 70_000, 20_000, 9_000, 1_100_000)
DTYPES = ("u1", "i8", "f8", "f4", "i2")


class Node:
    """A plain class; `root` points back at the tree that it is in."""

    def __init__(self, value: Any, root: Any = None) -> None:
        self.value = value
        self.root = root


class Holder:
    """A class with slots."""

    __slots__ = ("held", "label")

    def __init__(self, held: Any) -> None:
        self.held = held
        self.label = "held"


@dataclass
class Record:
    """A dataclass."""

    first: Any = None
    second: Any = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Task:
    """An item of a map: what is done, with what, and how long it takes."""

    index: int
    seed: int
    nap: float
    subject: Any
    attempt: Any = None


class Reduced:
    """A class that says itself how it is rebuilt."""

    def __init__(self, held: Any, count: int) -> None:
        self.held = held
        self.count = count

    def __reduce__(self) -> Any:
        return Reduced, (self.held, self.count)


class Travelled:
    """A class with a state of its own making, which counts how often it was pickled."""

    def __init__(self, held: Any) -> None:
        self.held = held
        self.trips = 0

    def __getstate__(self) -> Any:
        return {"h": self.held, "t": self.trips + 1}

    def __setstate__(self, state: Any) -> None:
        self.held = state["h"]
        self.trips = state["t"]


class ListOf(list):
    """A list with an attribute."""


class DictOf(dict):
    """A dict with an attribute."""


class ArrayOf(np.ndarray):
    """An array of a class of the user's."""


class Graph:
    """Objects that are made one after another, each of some that were there before."""

    def __init__(
        self, dice: random.Random, *, shared: bool = True, frames: bool = False, pickled: bool = True
    ) -> None:
        self.dice = dice
        self.shared = shared
        self.objects: list[Any] = []
        self.kinds = [*(PLAIN_KINDS * 2), *USER_KINDS, *([frame] if frames else [])]
        if not pickled:  # These can be told from their pickled copies.
            self.kinds = [kind for kind in self.kinds if kind not in (array_view, travelled)]

    def any(self) -> Any:
        """One that is there, or a new one."""
        if self.shared and self.objects and self.dice.random() < 0.6:
            return self.dice.choice(self.objects)
        return self.new()

    def new(self, depth: int = 0) -> Any:
        made = self.dice.choice(self.kinds)(self, depth)
        self.objects.append(made)
        return made

    def part(self, depth: int) -> Any:
        """What another object holds."""
        if depth > 3 or self.dice.random() < 0.35:
            return leaf(self.dice)
        if self.shared and self.objects and self.dice.random() < 0.35:
            return self.dice.choice(self.objects)
        return self.new(depth + 1)

    def parts(self, depth: int) -> list[Any]:
        return [self.part(depth) for _ in range(self.dice.randrange(4))]

    def tie(self) -> None:
        """Have some objects point back at others."""
        for one in self.objects:
            if isinstance(one, (Node, Holder, list, dict)) and self.dice.random() < 0.2:
                other = self.dice.choice(self.objects)
                if isinstance(one, Node):
                    one.root = other
                elif isinstance(one, Holder):
                    one.held = other
                elif isinstance(one, list):
                    one.append(other)
                else:
                    one["back"] = other


def leaf(dice: random.Random) -> Any:
    """A value that nobody can change."""
    return dice.choice(
        [
            None,
            True,
            dice.randrange(-5, 2**40),
            dice.random(),
            f"word{dice.randrange(99)}",
            "text" * dice.randrange(9_000),
            "ä" * dice.randrange(40),
            bytes([dice.randrange(256)]) * size(dice),
            (1, 2.5, "three"),
            np.float32(dice.random()),
        ]
    )


def size(dice: random.Random) -> int:
    return dice.choice(SIZES) if dice.random() < 0.5 else dice.randrange(300)


def large_array(dice: random.Random, least: int = 0) -> np.ndarray:
    dtype = np.dtype(dice.choice(DTYPES))
    count = max(size(dice), least) // dtype.itemsize
    made = np.arange(count, dtype=np.int64) * dice.randrange(1, 5) + dice.randrange(50)
    return made.astype(dtype)


def plain_array(graph: Graph, depth: int) -> Any:
    return large_array(graph.dice)


def array_view(graph: Graph, depth: int) -> Any:
    """A view of an array that others may have as well."""
    whole = large_array(graph.dice, 64)
    graph.objects.append(whole)
    views = [
        whole[1:],
        whole[::2],
        whole[::-1],
        whole.reshape(2, -1)[:, 1:] if whole.size % 2 == 0 else whole[:-1],
    ]
    views.append(whole[: whole.size // 4 * 4].reshape(4, -1).T)
    view = graph.dice.choice(views)
    if graph.dice.random() < 0.2:
        view.flags.writeable = False
    return view


def array_of_class(graph: Graph, depth: int) -> Any:
    return large_array(graph.dice).view(ArrayOf)


def object_array(graph: Graph, depth: int) -> Any:
    made = np.empty(2, object)
    made[0], made[1] = graph.part(depth), graph.part(depth)
    return made


def a_list(graph: Graph, depth: int) -> Any:
    return graph.parts(depth)


def numbers(graph: Graph, depth: int) -> Any:
    count = graph.dice.choice([50, 50, 300, 300, 2_500, 8_300])
    start = graph.dice.randrange(100)
    return [start + index * (0.5 if count % 200 else 1) for index in range(count)]


def a_tuple(graph: Graph, depth: int) -> Any:
    return tuple(graph.parts(depth))


def a_dict(graph: Graph, depth: int) -> Any:
    made = {graph.dice.choice([f"k{n}", n, (n, "t")]): part for n, part in enumerate(graph.parts(depth))}
    return OrderedDict(made) if graph.dice.random() < 0.2 else made


def a_set(graph: Graph, depth: int) -> Any:
    return {graph.dice.randrange(1000) for _ in range(graph.dice.randrange(6))}


def a_bytearray(graph: Graph, depth: int) -> Any:
    return bytearray(bytes([graph.dice.randrange(256)]) * size(graph.dice))


def typed_array(graph: Graph, depth: int) -> Any:
    return array.array("d", [1.5] * (size(graph.dice) // 8))


def node(graph: Graph, depth: int) -> Any:
    return Node(graph.part(depth), graph.part(depth))


def tree(graph: Graph, depth: int) -> Any:
    """A node whose children point back at it."""
    root = Node([])
    root.value += [Node(graph.part(depth), root) for _ in range(graph.dice.randrange(1, 4))]
    graph.objects.append(graph.dice.choice(root.value))
    return root


def holder(graph: Graph, depth: int) -> Any:
    return Holder(graph.part(depth))


def record(graph: Graph, depth: int) -> Any:
    return Record(graph.part(depth), graph.part(depth), {"n": graph.part(depth)})


def reduced(graph: Graph, depth: int) -> Any:
    return Reduced(graph.part(depth), graph.dice.randrange(9))


def travelled(graph: Graph, depth: int) -> Any:
    return Travelled(graph.part(depth))


def list_of_class(graph: Graph, depth: int) -> Any:
    made = ListOf(graph.parts(depth))
    made.title = graph.part(depth)  # type: ignore[attr-defined]
    return made


def dict_of_class(graph: Graph, depth: int) -> Any:
    made = DictOf(enumerate(graph.parts(depth)))
    made.title = graph.part(depth)  # type: ignore[attr-defined]
    return made


def frame(graph: Graph, depth: int) -> Any:
    import pandas as pd

    rows = graph.dice.choice([3, 50, 9_000])
    made = pd.DataFrame({"a": np.arange(rows) + graph.dice.randrange(9), "b": np.full(rows, 0.5)})
    if graph.dice.random() < 0.3:
        made["c"] = [f"s{row % 7}" for row in range(rows)]
    return made["a"] if graph.dice.random() < 0.3 else made


PLAIN_KINDS = [
    plain_array,
    plain_array,
    array_view,
    a_list,
    numbers,
    a_tuple,
    a_dict,
    a_set,
    a_bytearray,
]
USER_KINDS = [
    typed_array,
    array_of_class,
    object_array,
    node,
    node,
    tree,
    holder,
    record,
    reduced,
    travelled,
    list_of_class,
    dict_of_class,
]
