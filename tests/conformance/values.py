"""Items, results and callables of the kinds that programs define, for workers to import by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple


class Colour(Enum):
    RED = 1
    GREEN = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Record:
    name: str
    parts: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Multiplier:
    """A callable object, with a method and a class method that are functions for a pool too."""

    factor: int

    def __call__(self, x: int) -> int:
        return self.factor * x

    def times(self, x: int) -> int:
        return self.factor * x

    @classmethod
    def twice(cls, x: int) -> int:
        return cls(2).times(x)

    @staticmethod
    def thrice(x: int) -> int:
        return 3 * x
