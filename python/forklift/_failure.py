"""What went wrong, carried from one process to another, and the part of an object that cannot be sent.

Nothing here runs unless something failed, so it is imported then. Nothing here raises: a failure must not turn into
another one on its way.
"""

from __future__ import annotations

import _pickle
import sys
import time
from types import FunctionType, MethodType

from forklift import _byvalue
from forklift._pickling import PROTOCOL, ResultPickler, _Sink, cloud_pickler_class
from forklift.errors import (
    DecodeError,
    EncodeError,
    TaskExit,
    bounded_repr,
    bounded_text,
    rebuild_encode_error,
    rebuild_result_encode_error,
    remote_traceback,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    # Pickled exception or None, type, arguments, traceback, notes.
    Packed = tuple[bytes | None, str, str, str, tuple[str, ...]]

__all__ = [
    "encode_error",
    "find_culprit",
    "pack_exception",
    "pack_exit",
    "pack_result_failure",
    "refusal",
    "unpack_exception",
    "words",
]

TRACEBACK_CHARS_MAX = 64 << 10
NOTES_MAX = 20
SEARCH_SECONDS_MAX = 2.0
SEARCH_DUMPS_MAX = 10_000
SEARCH_DEPTH_MAX = 100


# The part that cannot be sent ------------------------------------------------------------------------------------


def find_culprit(obj: object, root: str) -> tuple[str, BaseException]:
    """Find the smallest part of `obj` that cannot be pickled: its path from `root`, and the error it gives.

    Tries parts by pickling them to nowhere, halving long containers. Gives up, with the smallest part found so far,
    after two seconds, 10,000 attempts or 100 levels.
    """
    search = _Search(obj, root)
    return search.path, search.error


def encode_error(obj: object, root: str, index: int | None = None) -> EncodeError:
    """Make the `EncodeError` for an object that could not be pickled."""
    return _encode_error(_Search(obj, root), index)


def refusal(obj: object, root: str, error: Exception) -> BaseException:
    """Return what to raise where `error` ended the encoding of an object: that error itself if it says that the system
    is short of something, else an `EncodeError`.
    """
    if isinstance(error, MemoryError):
        return error
    search = _Search(obj, root)
    if isinstance(error, OSError) and search.found_nothing:
        return error
    found = _encode_error(search, None)
    found.__cause__ = error
    return found


def _encode_error(search: _Search, index: int | None) -> EncodeError:
    kind = type(search.error).__name__
    error = rebuild_encode_error(kind, search.path, words(search.error), bounded_repr(search.part), index)
    error.__cause__ = search.error
    return error


class _Search:
    """One search. `part` cannot be pickled, `path` leads to it, `error` says why.

    In a worker (`everything`) whatever pickling raises is taken for an answer, a SystemExit too; in the user's process
    what is no Exception, Ctrl-C above all, ends the search.
    """

    def __init__(self, obj: object, root: str, everything: bool = False) -> None:
        self.answers: type[BaseException] = BaseException if everything else Exception
        self.part: object = obj
        self.path = root
        self.dumps = 0
        self.deadline = time.monotonic() + SEARCH_SECONDS_MAX
        failed = self.attempt(obj)
        self.found_nothing = failed is None
        self.error = failed or _pickle.PicklingError("it could not be pickled, but now it can")
        try:
            self.descend()
        except self.answers:
            pass  # The object's own methods take part in the search; what was found before one failed stands.

    def attempt(self, obj: object) -> BaseException | None:
        """Pickle to nowhere."""
        self.dumps += 1
        try:
            cloud_pickler_class()(Nowhere, PROTOCOL, buffer_callback=Nowhere.buffer).dump(obj)
        except self.answers as error:
            return error.with_traceback(None)
        return None

    def exhausted(self) -> bool:
        return self.dumps >= SEARCH_DUMPS_MAX or time.monotonic() > self.deadline

    def descend(self) -> None:
        above = [self.part]  # Kept alive, so that addresses stay unique.
        for _ in range(SEARCH_DEPTH_MAX):
            parts = [(label, part) for label, part in _parts(self.part) if not any(part is a for a in above)]
            found = self.first_failing(parts)
            if found is None:
                return
            label, self.part, self.error = found
            self.path += label
            above.append(self.part)

    def first_failing(self, parts: list[tuple[str, object]]) -> tuple[str, object, BaseException] | None:
        """Find a part that fails by halving: as many attempts as the logarithm of the number."""
        while len(parts) > 1:
            if self.exhausted():
                return None
            half = len(parts) // 2
            left = self.attempt([part for _, part in parts[:half]]) is not None
            parts = parts[:half] if left else parts[half:]
        if not parts or self.exhausted():
            return None
        label, part = parts[0]
        error = self.attempt(part)
        return None if error is None else (label, part, error)


class Nowhere:
    """A sink that keeps nothing: whether an object can be pickled, and no more."""

    @staticmethod
    def write(piece: object) -> None:
        pass

    @staticmethod
    def buffer(buffer: object) -> None:
        pass


def _parts(obj: Any) -> Iterator[tuple[str, object]]:
    """Name the parts that pickling `obj` would pickle."""
    if isinstance(obj, dict) and type(obj).__reduce_ex__ is object.__reduce_ex__:
        for key, value in dict.items(obj):
            yield f"[{bounded_repr(key, 60)}]", value
            yield f".<key {bounded_repr(key, 60)}>", key
    elif isinstance(obj, tuple) and hasattr(obj, "_fields"):
        yield from ((f".{name}", value) for name, value in zip(obj._fields, obj, strict=False))
    elif isinstance(obj, (list, tuple)):
        yield from ((f"[{index}]", value) for index, value in enumerate(obj))
    elif isinstance(obj, (set, frozenset)):
        yield from ((f".<element {bounded_repr(value, 60)}>", value) for value in obj)
    elif isinstance(obj, FunctionType):
        yield from _parts_of_function(obj)
        return
    elif isinstance(obj, MethodType):
        yield from ((".__self__", obj.__self__), (".__func__", obj.__func__))
        return
    elif isinstance(obj, type):
        if _byvalue.is_dynamic(obj):
            yield from ((f".{name}", value) for name, value in vars(obj).items())
        return
    elif _is_partial(obj):
        yield ".func", obj.func
        yield from ((f".args[{index}]", value) for index, value in enumerate(obj.args))
        yield from ((f".keywords[{name!r}]", value) for name, value in obj.keywords.items())
        return
    if type(obj) not in (dict, list, tuple, set, frozenset):
        yield from _parts_of_reduced(obj)


def _is_partial(obj: object) -> bool:
    functools = sys.modules.get("functools")
    return functools is not None and type(obj) is functools.partial


def _parts_of_function(func: FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=False):
        try:
            yield f".<closure {name}>", cell.cell_contents
        except ValueError:
            continue
    names = _byvalue.global_names(func.__code__)
    yield from ((f".<global {n}>", func.__globals__[n]) for n in names if n in func.__globals__)
    yield from ((f".<default {index}>", value) for index, value in enumerate(func.__defaults__ or ()))
    yield from ((f".<default {name}>", value) for name, value in (func.__kwdefaults__ or {}).items())
    yield from ((f".{name}", value) for name, value in func.__dict__.items())


def _parts_of_reduced(obj: Any) -> Iterator[tuple[str, object]]:
    """Name the parts that the object itself says it consists of. One that cannot say so is the culprit itself."""
    import copyreg

    reducer = copyreg.dispatch_table.get(type(obj))
    reduced = obj.__reduce_ex__(PROTOCOL) if reducer is None else reducer(obj)
    if not isinstance(reduced, tuple):
        return
    _, arguments, state, items, pairs = (*reduced, None, None, None, None)[:5]
    states = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    for attributes in states:
        if isinstance(attributes, dict):
            yield from ((f".{name}", value) for name, value in attributes.items())
        elif attributes is not None:
            yield ".<state>", attributes
    label = ".args[{}]" if isinstance(obj, BaseException) else ".<argument {}>"
    yield from ((label.format(index), value) for index, value in enumerate(arguments))
    yield from ((f"[{index}]", value) for index, value in enumerate(items or ()))
    yield from ((f"[{bounded_repr(key, 60)}]", value) for key, value in pairs or ())


# Exceptions on their way -----------------------------------------------------------------------------------------


def pack_exception(exc: BaseException, limit: int = TRACEBACK_CHARS_MAX) -> Packed:
    """Take an exception apart for the way to the parent; `limit` bounds the traceback's text.

    The exception is pickled only if it can also be read again: one that cannot (a constructor that wants more than
    `args` holds) would fail in the parent, where less is known of it.
    """
    try:
        dumped = _dump_result(exc)
        data = dumped if type(_pickle.loads(dumped)) is type(exc) else None
    except BaseException:  # Reading calls the exception's constructor, and that may raise anything.
        data = None
    return data, _name(type(exc)), _arguments(exc), _traceback_text(exc, limit), _notes(exc)


def pack_exit(exc: BaseException) -> Packed:
    """Say that the function raised what ends a program, in the same form as `pack_exception`.

    As itself it would end the program that asks for the result: one item of thousands.
    """
    code = getattr(exc, "code", None)
    told = TaskExit(_name(type(exc)) + _arguments(exc), code if type(code) in (int, bool, str) else None)
    return (*pack_exception(told)[:3], _traceback_text(exc, TRACEBACK_CHARS_MAX), _notes(exc))


def pack_result_failure(result: object, exc: BaseException, limit: int = TRACEBACK_CHARS_MAX) -> Packed:
    """Say that the function's result could not be pickled, in the same form as `pack_exception`."""
    search = _Search(result, "result", everything=True)
    value = bounded_repr(search.part)
    data = _dump_result(_Later((search.path, words(search.error), value)))
    return data, "forklift.errors.EncodeError", search.path, _traceback_text(exc, limit), ()


class _Later:
    """Becomes a `ResultEncodeError` where it is read: its base costs an import that the worker need not pay."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        self.fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_result_encode_error, self.fields


def unpack_exception(packed: Packed, index: int | None = None) -> BaseException:
    """Return the exception that a worker packed, with the worker's traceback as its cause and a note of the item.

    Where it cannot be rebuilt, a `DecodeError` says what it was.
    """
    data, name, arguments, text, notes = packed
    error: BaseException | None = None
    side, reason = "worker", "it cannot be pickled and read again"
    if data is not None:
        try:
            error = _pickle.loads(data)
        except KeyboardInterrupt:
            raise
        except (
            BaseException
        ) as failure:  # What a constructor raises, SystemExit too, is not the program's end.
            side, reason = "parent", words(failure)
    if not isinstance(error, BaseException):
        error = DecodeError(f"the function raised {name}{arguments}, but {reason}", side, index)
    if isinstance(error, EncodeError) and error.index is None:
        error.index = index
    error.__cause__ = remote_traceback(text)
    here = () if index is None else (f"forklift: raised for item {index}",)
    try:
        present = getattr(error, "__notes__", ())
        for note in (*notes, *here):
            if note not in present:
                error.add_note(note)
    except Exception:
        pass  # An exception may have made its notes something other than a list.
    return error


def _dump_result(obj: object) -> bytes:
    sink = _Sink()
    try:
        ResultPickler(sink, PROTOCOL).dump(obj)
    except Exception:
        sink = _Sink()
        cloud_pickler_class(upward=True)(sink, PROTOCOL).dump(obj)
    return sink.bytes()


def words(error: BaseException) -> str:
    """The type and text of an exception, of bounded length."""
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be had)"
    return bounded_text(f"{type(error).__name__}: {text}")


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _arguments(exc: BaseException) -> str:
    try:
        return "(" + ", ".join(bounded_repr(argument) for argument in exc.args[:10]) + ")"
    except Exception:
        return "(...)"


def _notes(exc: BaseException) -> tuple[str, ...]:
    try:
        return tuple(bounded_text(str(note)) for note in list(getattr(exc, "__notes__", ()))[:NOTES_MAX])
    except Exception:
        return ()


def _traceback_text(exc: BaseException, limit: int) -> str:
    """Format the traceback, with those of causes and contexts; keep its beginning and its end."""
    try:
        import traceback

        return bounded_text("".join(traceback.format_exception(exc)), limit)
    except Exception as failure:
        return f"{_name(type(exc))} (its traceback cannot be formatted: {type(failure).__name__})\n"
