"""What must come back, as "What a call promises" has it, found out in this process by pickling alone.

    f, x = loads(dumps((func, item)))        f once for each worker and call, each item beside it
    loads(dumps(f(x)))

So an item's pickle is one on top of the function's: it refers to what the function's pickle has told already, and to
nothing of other items. A worker is known by what its function has seen (`history`, which functions return); for each
of them the same items are done again, in the same order, with a function of its own.
"""

from __future__ import annotations

import contextlib
import io
import pickle
from collections.abc import Iterator
from typing import Any

import cloudpickle

__all__ = ["Oracle", "Outcome", "copied"]

# As `multiprocessing` in Python 3.11: arrays arrive writable.
PROTOCOL = 4


class Outcome:
    """What a call of a function came to."""

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error

    def whole(self) -> Any:
        """The result, or what is to be told of an exception."""
        return self.value if self.error is None else (type(self.error).__name__, self.error.args)


class Oracle:
    """One call: takes the function when the call is made, and items when they are pulled."""

    def __init__(self, func: Any, shape: str = "one") -> None:
        self.shape = shape
        self.sink = io.BytesIO()
        self.pickler = cloudpickle.Pickler(self.sink, PROTOCOL)
        self.function = self._dumped(func)
        self.memo = self.pickler.memo.copy()
        self.items: list[bytes] = []
        self.known: dict[tuple[int, ...], list[Outcome]] = {}

    def take(self, item: Any) -> Any:
        """Note an item as it is now; returns it."""
        self.pickler.memo = self.memo
        self.items.append(self._dumped(item))
        return item

    def outcome(self, order: tuple[int, ...]) -> Outcome:
        """What the last of these items comes to, by a worker that has done the others before it, in this order."""
        for known, outcomes in self.known.items():
            if known[: len(order)] == order:
                return outcomes[len(order) - 1]
        self.known[order] = self._run(order)
        return self.known[order][-1]

    def _run(self, order: tuple[int, ...]) -> list[Outcome]:
        with classes_made_anew():
            return self._run_there(order)

    def _run_there(self, order: tuple[int, ...]) -> list[Outcome]:
        # The one in C continues to count where it was, whatever its memo is said to be.
        unpickler = pickle._Unpickler(io.BytesIO(self.function))  # type: ignore[attr-defined]
        func = unpickler.load()
        memo = dict(unpickler.memo)
        outcomes = []
        for index in order:
            beside = pickle._Unpickler(io.BytesIO(self.items[index]))  # type: ignore[attr-defined]
            beside.memo = dict(memo)
            # `load` begins with a stack of its own, and leaves the memo as it is.
            outcomes.append(self._called(func, beside.load()))
        return outcomes

    def _called(self, func: Any, item: Any) -> Outcome:
        try:
            if self.shape == "apply":
                args, kwargs = item
                return Outcome(copied(func(*args, **kwargs)))
            return Outcome(copied(func(*item) if self.shape == "star" else func(item)))
        except Exception as error:
            return Outcome(error=copied(error))

    def _dumped(self, value: Any) -> bytes:
        self.sink.seek(0)
        self.sink.truncate()
        self.pickler.dump(value)
        return self.sink.getvalue()


def copied(value: Any) -> Any:
    """A value that has crossed."""
    return pickle.loads(cloudpickle.dumps(value, PROTOCOL))


@contextlib.contextmanager
def classes_made_anew() -> Iterator[None]:
    """Within this context classes that travel by value arrive as copies, as in another process.

    cloudpickle would know them, and set the attributes of the caller's own.
    """
    known = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID
    before = dict(known)
    known.clear()
    try:
        yield
    finally:
        known.clear()
        known.update(before)
