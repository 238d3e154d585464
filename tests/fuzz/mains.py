"""Functions and classes of `__main__`, which travel by value, with the globals that they read.

They are made by `exec`, since `__main__` is somebody else's where a test runner runs this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["KINDS", "Globals", "main"]

SOURCE = """
from functools import partial as fuzz_partial
from tests.fuzz.functions import Keep as FuzzKeep, perform as fuzz_perform, read_beside as fuzz_read, told as fuzz_told
from tests.fuzz.shapes import shape as fuzz_shape

fuzz_table = {}
fuzz_scale = 1

class FuzzMain(FuzzKeep):
    level = []

    def work(self, *args, **kwargs):
        return fuzz_perform(self, *fuzz_told(args, kwargs))

    __call__ = work

def fuzz_stateless(*args, **kwargs):
    return fuzz_perform(None, *fuzz_told(args, kwargs))

def fuzz_globals(*args, **kwargs):
    index, seed, nap, subject = fuzz_told(args, kwargs)
    return index, (), (fuzz_shape(fuzz_table), fuzz_scale), fuzz_shape(subject)

def fuzz_classes(*args, **kwargs):
    index, seed, nap, subject = fuzz_told(args, kwargs)
    return index, (), fuzz_shape(FuzzMain.level), fuzz_shape(subject)

def fuzz_indirect(*args, **kwargs):
    return fuzz_globals(*args, **kwargs)

def fuzz_with(keep, *args, **kwargs):
    return fuzz_perform(keep, *fuzz_told(args, kwargs))

def fuzz_defaults(*args, parts={}, **kwargs):
    return fuzz_read(parts, *fuzz_told(args, kwargs))

def fuzz_as_main(keep):
    made = FuzzMain(keep.parts, keep.gives)
    made.kept = keep.kept
    return made
"""


def main() -> dict[str, Any]:
    """The names of `__main__`, with these among them."""
    names = vars(sys.modules["__main__"])
    if "fuzz_table" not in names:
        exec(compile(SOURCE, "<fuzz>", "exec"), names)
    return names


class Globals:
    """What a caller does to its globals between calls: change them in place, or bind them anew."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        names = main()
        names["fuzz_table"], names["fuzz_scale"], names["FuzzMain"].level = {}, 1, []
        names["fuzz_defaults"].__kwdefaults__["parts"].clear()

    def change(self, dice: Any, value: Any) -> None:
        names = main()
        way = dice.randrange(7)
        if way == 6:
            names["fuzz_defaults"].__kwdefaults__["parts"][dice.choice("abc")] = value
        elif way == 0:
            names["fuzz_table"] = {"new": value}
        elif way == 1:
            names["fuzz_table"][dice.choice("abc")] = value
        elif way == 2:
            names["fuzz_scale"] = dice.choice([1, True, 1.0, 2, "x"])
        elif way == 3:
            names["FuzzMain"].level.append(dice.randrange(9))
        elif way == 4:
            names["FuzzMain"].level = [dice.randrange(9)]

    def functions(self) -> list[Callable[..., Any]]:
        names = main()
        return [names["fuzz_globals"], names["fuzz_indirect"], names["fuzz_classes"], names["fuzz_defaults"]]


#: Kinds of callables of `__main__` over what a function keeps.
KINDS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "bound method of __main__": lambda keep: main()["fuzz_as_main"](keep).work,
    "instance of __main__": lambda keep: main()["fuzz_as_main"](keep),
    "partial of __main__": lambda keep: main()["fuzz_partial"](main()["fuzz_with"], keep),
}
