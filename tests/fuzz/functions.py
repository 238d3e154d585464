"""What workers do: read and write what they are given as dice say, and return parts of it.

`perform` is the one thing that is done. Everything else here is a kind of callable that does it: of a module, a bound
method, a `partial`, an instance, a closure. What a function keeps is a `Keep`; in it stands which items were there
before, and so the oracle can do the same again in the same order.
"""

from __future__ import annotations

import array
import random
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.fuzz.graphs import Reduced, Task
from tests.fuzz.shapes import mutables, shape

__all__ = [
    "KINDS",
    "TROUBLE",
    "Keep",
    "Trouble",
    "bare",
    "change",
    "elementwise",
    "perform",
    "stateless",
    "stateless_block",
    "told",
]

#: Of shapes that are longer, the hash is returned.
SHAPE_MAX = 20_000


#: Items whose seed is a multiple of this raise.
TROUBLE = 50


class Trouble(Exception):
    """What a function raises that is told to."""


class Keep:
    """What a function has of its own: parts that its items may have as well, what it has kept, whom it has served.

    `gives`: whether it keeps parts of its arguments, and returns what it keeps.
    """

    def __init__(self, parts: Any, gives: bool = True) -> None:
        self.parts = parts
        self.gives = gives
        self.kept: list[Any] = []
        self.history: tuple[int, ...] = ()

    def work(self, *args: Any, **kwargs: Any) -> Any:
        return perform(self, *told(args, kwargs))

    __call__ = work


class Slotted(Keep):
    """One with slots as well, and a state of its own making."""

    __slots__ = ("extra",)

    def __getstate__(self) -> Any:
        return [self.parts, self.gives, self.kept, self.history]

    def __setstate__(self, state: Any) -> None:
        self.parts, self.gives, self.kept, self.history = state


def told(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int, float, Any]:
    """Index, seed, nap and subject, from whichever arguments they came in."""
    if len(args) == 1 and not kwargs:
        (item,) = args
        if isinstance(item, Task):
            return item.index, item.seed, item.nap, item.subject
        if isinstance(item, dict):
            return item["index"], item["seed"], item["nap"], item["subject"]
        args = tuple(item)
    index, seed, nap, *subject = args
    return (
        index,
        seed,
        nap,
        (*subject, kwargs) if kwargs else subject[0] if len(subject) == 1 else tuple(subject),
    )


def perform(keep: Keep | None, index: int, seed: int, nap: float, subject: Any) -> Any:
    """Look at everything, change some, return some: (index, who was here before, what was seen, some)."""
    dice = random.Random(seed)
    history = () if keep is None else keep.history
    if keep is not None:
        keep.history += (index,)
    seen = shape(keep, subject)
    if len(seen) > SHAPE_MAX:
        seen = zlib.crc32(seen.encode())
    if nap:
        time.sleep(nap)
    for _ in range(dice.randrange(4)):
        within = mutables(subject, None if keep is None else (keep.parts, keep.kept))
        if keep is not None and not keep.gives:
            within = mutables(subject if dice.random() < 0.5 else keep.parts)
        if within:
            change(dice, dice.choice(within), within)
    if keep is not None and not keep.gives:
        keep = None
    within = mutables(subject, None if keep is None else (keep.parts, keep.kept))
    if keep is not None and within and dice.random() < 0.4 and len(keep.kept) < 6:
        keep.kept.append(dice.choice(within))
    if seed % TROUBLE == 0:
        raise Trouble(index, history, seen, dice.choice(within) if within and dice.random() < 0.3 else None)
    return index, history, seen, chosen(dice, within, subject, keep)


def stateless(*args: Any, **kwargs: Any) -> Any:
    """A function of a module."""
    return perform(None, *told(args, kwargs))


def reading(*args: Any, **kwargs: Any) -> Any:
    """A function that changes nothing."""
    index, _, nap, subject = told(args, kwargs)
    time.sleep(nap)
    return index, (), shape(subject), None


def read_beside(other: Any, index: int, seed: int, nap: float, subject: Any) -> Any:
    """Looks at something and at its item, each by itself."""
    time.sleep(nap)
    return index, (), shape(other), shape(subject)


def bare(item: Any) -> Any:
    """A function whose items are just what they are; what it does follows from how they look."""
    return perform(None, 0, zlib.crc32(shape(item).encode()) | 1, 0.0, item)


def with_keep(keep: Keep, *args: Any, **kwargs: Any) -> Any:
    return perform(keep, *told(args, kwargs))


def with_keyword(*args: Any, keep: Keep, **kwargs: Any) -> Any:
    return perform(keep, *told(args, kwargs))


def elementwise(block: Any) -> Any:
    """A function of blocks of arrays: works in place, and says nothing of how they were cut."""
    block *= 3
    block += 1
    return block


def stateless_block(block: Any) -> Any:
    """A function of blocks of anything, that changes its block and returns it with what it saw."""
    seen = shape(block)
    change(random.Random(seen), block, [block])
    return seen, block


def change(dice: random.Random, target: Any, within: list[Any]) -> None:
    """Write to an object, in whichever way its type has."""
    if isinstance(target, np.ndarray):
        change_array(dice, target)
    elif isinstance(target, list):
        change_list(dice, target, within)
    elif isinstance(target, dict):
        target[dice.choice(["a", "b", 3])] = dice.choice([dice.randrange(99), dice.choice(within)])
    elif isinstance(target, set):
        target.add(dice.randrange(99))
    elif isinstance(target, (bytearray, array.array)):
        change_bytes(dice, target)
    elif hasattr(target, "iloc"):
        change_frame(dice, target)
    elif not isinstance(target, (Keep, Task, Reduced)):  # a Reduced that holds itself cannot be pickled
        name = next((name for name in ("root", "held", "second", "title") if hasattr(target, name)), None)
        if name is not None:
            setattr(target, name, dice.choice([dice.randrange(99), dice.choice(within)]))


def change_array(dice: random.Random, target: np.ndarray) -> None:
    if not target.flags.writeable or not target.size or not target.ndim:
        return
    if target.dtype.hasobject:
        target[0] = dice.randrange(99)
        return
    way = dice.randrange(4)
    if way == 0:
        target += np.asarray(1, target.dtype)
    elif way == 1:
        target[dice.randrange(len(target))] = dice.randrange(99)
    elif way == 2:
        target[...] = dice.randrange(99)
    else:
        target[: len(target) // 2] = target[::-1][: len(target) // 2].copy()


def change_list(dice: random.Random, target: list[Any], within: list[Any]) -> None:
    way = dice.randrange(5)
    if way == 0:
        target.append(dice.randrange(99))
    elif way == 1:
        target.append(dice.choice(within))
    elif way == 2 and target:
        target[dice.randrange(len(target))] = dice.randrange(99)
    elif way == 3 and target:
        del target[dice.randrange(len(target))]
    else:
        target.reverse()


def change_bytes(dice: random.Random, target: Any) -> None:
    way = dice.randrange(3)
    if way == 0:
        target.append(7)
    elif way == 1 and len(target):
        target[dice.randrange(len(target))] = 9
    else:
        del target[len(target) // 2 :]


def change_frame(dice: random.Random, target: Any) -> None:
    row = dice.randrange(len(target))
    if target.ndim == 1:
        target.iloc[row] = 77
    elif dice.random() < 0.5:
        target.iloc[row, 0] = 77
    else:
        target["new"] = float(dice.randrange(9))


def chosen(dice: random.Random, within: list[Any], subject: Any, keep: Keep | None) -> Any:
    """What is returned."""
    if not within:
        return subject
    one, other = dice.choice(within), dice.choice(within)
    way = dice.randrange(10)
    if way == 0:
        return None
    if way == 1:
        return subject
    if way == 2:
        return [one, one]
    if way == 3:
        return (one, other, {"again": one})
    if way == 4:
        return keep.parts if keep is not None else subject
    if way == 5 and keep is not None:
        return keep
    if way == 6:
        return np.arange(dice.choice([3, 9_000, 40_000])) + dice.randrange(9)
    if way == 7:
        arrays = [
            found for found in within if isinstance(found, np.ndarray) and found.ndim and len(found) > 1
        ]
        return [(found[1:], found[::2], found) for found in arrays[:2]]
    return one


# Kinds of callables ----------------------------------------------------------------------------------------------


def closure(keep: Keep) -> Callable[..., Any]:
    def inner(*args: Any, **kwargs: Any) -> Any:
        return perform(keep, *told(args, kwargs))

    return inner


def nested(keep: Keep) -> Callable[..., Any]:
    """A closure over a closure, each of which has the state."""
    deep = closure(keep)

    def outer(*args: Any, **kwargs: Any) -> Any:
        return deep(*args, **kwargs) if keep.parts is not deep else None

    return outer


def defaults(keep: Keep) -> Callable[..., Any]:
    """A function with a default that it only reads.

    What a worker makes of a default stays there while the caller leaves it as it is, as with globals; and a default and
    a part of an item that are one object here are two there.
    """
    return lambda *args, keep=keep, **kwargs: read_beside(keep.parts, *told(args, kwargs))


#: Kinds of callables over what a function keeps, by name.
KINDS: dict[str, Callable[[Keep], Callable[..., Any]]] = {
    "bound method": lambda keep: keep.work,
    "instance": lambda keep: keep,
    "partial": lambda keep: partial(with_keep, keep),
    "partial by keyword": lambda keep: partial(with_keyword, keep=keep),
    "partial of a bound method": lambda keep: partial(keep.work),
    "closure": closure,
    "nested closure": nested,
    "defaults": defaults,
}
