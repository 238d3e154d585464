"""Results that were pickled together, where one of them cannot be rebuilt: what becomes of those beside it.

The interpreter's unpickler gives up at the first failure, and the worker has let go of the results. So the pickle is
cut where one element of its outermost list ends and the next begins, and each element is rebuilt by itself, with the
memo of those before it. Slow, and only for failures.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import sys
from types import BuiltinFunctionType, FunctionType
from typing import Any

__all__ = ["salvage"]

#: A longer pickle is not cut: that takes about a second for each 5 MB of small objects.
STREAM_BYTES_MAX = 16 << 20

#: An operation of a pickle: what `pickletools` knows of it, and its code with its argument.
Op = tuple[Any, bytes]


def salvage(stream: bytes, buffers: list[Any], count: int) -> list[tuple[Any, BaseException | None]] | None:
    """Rebuild the `count` elements of a pickled list one by one: each with None, or None with what went wrong.

    None if the pickle is too long, or is not such a list.
    """
    if len(stream) > STREAM_BYTES_MAX:
        return None
    try:
        prologue, elements = _cut(stream)
    except Exception:
        return None
    if len(elements) != count:
        return None
    memo = _Memo()
    _Patient(memo, []).rebuild(prologue)
    outcomes = []
    for ops in elements:
        used = sum(opcode.name == "NEXT_BUFFER" for opcode, _ in ops)
        outcomes.append(_Patient(memo, buffers[:used]).rebuild(ops))
        buffers = buffers[used:]
    return outcomes


def _cut(stream: bytes) -> tuple[list[Op], list[list[Op]]]:
    """Divide a pickled list into the operations that make the list itself, and those of each element.

    Plays the pickle on a stack that holds, for every object, which operations it is made by.
    """
    found = [(opcode, position) for opcode, _, position in pickletools.genops(stream)]
    ends = [position for _, position in found[1:]] + [len(stream)]
    ops = [(opcode, stream[start:end]) for (opcode, start), end in zip(found, ends, strict=True)]
    stack: list[_Entry] = []
    elements: list[_Entry] = []
    for number, (opcode, _) in enumerate(ops):
        taken = _take(stack, opcode)
        if opcode.name in ("APPEND", "APPENDS") and not stack:
            elements += [entry for entry in taken[1:] if not entry[2]]
        first = min([number, *(entry[0] for entry in taken)])
        stack += [(first, number, kind is pickletools.markobject) for kind in opcode.stack_after]
    kept = [[op for op in ops[first : last + 1] if op[0].name != "FRAME"] for first, last, _ in elements]
    start = elements[0][0] if elements else len(ops)
    return [op for op in ops[:start] if op[0].name in ("EMPTY_LIST", "MEMOIZE")], kept


#: The numbers of the first and the last operation that something is made by, and whether it is a mark.
_Entry = tuple[int, int, bool]


def _take(stack: list[_Entry], opcode: Any) -> list[_Entry]:
    """Take off what the operation takes: from the topmost mark on, if it is one of those, and so many below."""
    taken = []
    count = len(opcode.stack_before)
    if pickletools.markobject in opcode.stack_before:
        count = opcode.stack_before.index(pickletools.markobject)
        taken.append(stack.pop())
        while not taken[-1][2]:
            taken.append(stack.pop())
    for _ in range(count):
        taken.append(stack.pop())
    return taken[::-1]


class _Lost:
    """Stands where something could not be rebuilt, and for all that would have been built upon it."""


LOST = _Lost()

#: What is there as soon as it is there: names, numbers, and what names lead to.
WHOLE = (str, bytes, int, float, type, FunctionType, BuiltinFunctionType)


def _is_whole(value: object) -> bool:
    """Say whether nothing of it can be missing. Arrays of one kind refer to one dtype, made with the first of them."""
    numpy = sys.modules.get("numpy")
    return isinstance(value, WHOLE) or (numpy is not None and isinstance(value, numpy.dtype))


#: Operations that run nobody's code although they take something off the stack. (What a name leads to is imported, as
#: the next element that mentions it would have it.)
HARMLESS = ("MEMOIZE", "POP", "POP_MARK", "STACK_GLOBAL")


class _Memo(dict[int, Any]):
    """What was built so far, by number. What is lost is as if it had never been there."""

    def __getitem__(self, key: int) -> Any:
        value = super().__getitem__(key)
        if value is LOST:
            raise KeyError(key)
        return value

    def lose_since(self, start: int) -> None:
        """What an element left behind half built is for nobody; see `_is_whole` for what is not."""
        for key in range(start, len(self)):
            if not _is_whole(self.get(key)):
                self[key] = LOST


_Unpickler: Any = pickle._Unpickler  # The interpreter's own, in Python: it can be driven step by step.


class _Patient(_Unpickler):  # type: ignore[misc]
    """Rebuilds one element, operation by operation.

    After the first failure it runs nobody's code any more, but goes on as far as the memo needs it: later elements
    refer by number to names and classes that this one was the first to mention.
    """

    def __init__(self, memo: _Memo, buffers: list[Any]) -> None:
        super().__init__(io.BytesIO(), buffers=buffers)
        self.memo = memo
        self.begun = len(memo)
        self.proto = 5
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.failure: BaseException | None = None

    def rebuild(self, ops: list[Op]) -> tuple[Any, BaseException | None]:
        """Return the element with None, or None with what went wrong."""
        for opcode, code in ops:
            self.play(opcode, code)
        if self.failure is None:
            return self.stack[-1], None
        self.memo.lose_since(self.begun)
        return None, self.failure

    def play(self, opcode: Any, code: bytes) -> None:
        """Run an operation, or if it fails, or one before it did, leave on the stack what shows that."""
        argument = io.BytesIO(code[1:])
        self.read, self.readline, self.readinto = argument.read, argument.readline, argument.readinto
        marked = pickletools.markobject in opcode.stack_before
        below = opcode.stack_before.index(pickletools.markobject) if marked else len(opcode.stack_before)
        depth, marks = len(self.stack), len(self.metastack)
        if self.failure is None or not opcode.stack_before or opcode.name in HARMLESS:
            try:
                self.dispatch[code[0]](self)
                return
            except KeyboardInterrupt:
                raise
            except (
                BaseException
            ) as error:  # What an object raises, SystemExit too, is its own element's failure.
                self.failure = self.failure or error
        if marked:
            if len(self.metastack) == marks:
                self.pop_mark()
            depth = len(self.stack)
        del self.stack[max(0, depth - below) :]
        for _ in opcode.stack_after:
            self.append(LOST)
