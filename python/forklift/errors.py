"""The exceptions of forklift, and texts about objects that stay short.

Every exception of the package derives from `ForkliftError`, keeps what it knows in attributes, survives pickling with
all of them, and has a text of bounded length whatever object it speaks of.

Some also have to be instances of classes that only `multiprocessing` or `concurrent.futures` define. Importing those
takes longer than starting a worker, and workers never raise these exceptions, so the classes concerned
(`TaskTimeout`, `CancelledError`, `ResultEncodeError`, `BrokenWorkerDied`, `RemoteTraceback`) are made when someone
first asks this module for them.
"""

from __future__ import annotations

from _pickle import PicklingError, UnpicklingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import concurrent.futures
    import multiprocessing
    from collections.abc import Callable, Iterable
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing.pool import MaybeEncodingError, RemoteTraceback  # type: ignore[attr-defined]
    from typing import Any

__all__ = [
    "BrokenWorkerDied",
    "CancelledError",
    "DecodeError",
    "EncodeError",
    "ForkliftError",
    "MemoryLimitExceeded",
    "RemoteTraceback",
    "ResultEncodeError",
    "TaskExit",
    "TaskTimeout",
    "WorkerDied",
    "bounded_repr",
]

# What a person still reads in an error's text; the attributes of the exception hold the rest.
TEXT_CHARS_MAX = 2000

SIGNALS_IN_WORDS = {
    "SIGKILL": "possibly by the kernel's out-of-memory killer",
    "SIGSEGV": "segmentation fault in native code, or a stack that overflowed",
    "SIGBUS": "bus error: a file or memory behind a mapping has gone, or there is no room for it",
    "SIGABRT": "abort: an assertion in native code failed, or the interpreter gave up",
    "SIGFPE": "arithmetic error in native code",
    "SIGILL": "illegal instruction: native code built for another processor, or a deliberate trap",
    "SIGTRAP": "a trap in native code, or a debugger",
    "SIGTERM": "someone asked it to end",
    "SIGHUP": "its terminal or session was closed",
    "SIGQUIT": "someone asked it to quit and dump core",
    "SIGALRM": "an alarm (signal.alarm, setitimer) went off and nothing handled it",
    "SIGVTALRM": "a timer (setitimer) went off and nothing handled it",
    "SIGPROF": "a profiling timer went off and nothing handled it",
    "SIGUSR1": "someone sent it, and nothing handled it",
    "SIGUSR2": "someone sent it, and nothing handled it",
    "SIGPIPE": "it wrote to a pipe that nobody reads",
    "SIGXCPU": "its limit of processor time (ulimit -t) was reached",
    "SIGXFSZ": "its limit on the size of a file (ulimit -f) was reached",
    "SIGSYS": "a system call that the sandbox forbids",
}

# Who sent a SIGKILL, where the kernel's counts of its out-of-memory kills tell. The core compares them.
KILLERS_IN_WORDS = {
    ("memory", "cgroup"): (
        "by the kernel's out-of-memory killer: its cgroup's count of such kills has risen "
        "(use fewer processes or smaller items, or raise the cgroup's limit of memory)"
    ),
    ("memory", "machine"): (
        "most likely by the kernel's out-of-memory killer: the machine's count of such kills has risen "
        "(use fewer processes or smaller items)"
    ),
    ("sent", ""): (
        "and not by the kernel's out-of-memory killer, whose count of kills is as before: "
        "someone sent it (kill -9, os.kill, a job scheduler or the like)"
    ),
}


class ForkliftError(Exception):
    """What all exceptions of forklift have in common.

    Subclasses name their attributes in `_fields`, in the order of their constructor's arguments: pickling calls the
    constructor again with them, so that text and attributes can never disagree.
    """

    _fields: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from the attributes; what else hangs on the instance (notes) travels as state."""
        if not self._fields:
            return super().__reduce__()  # type: ignore[return-value]
        state = {name: value for name, value in self.__dict__.items() if name not in self._fields}
        return type(self), tuple(getattr(self, name) for name in self._fields), state or None


class WorkerDied(ForkliftError, RuntimeError):
    """A worker ended without being asked to, and an item was lost with it.

    `index` is the item's index in its job (None if it cannot be said), `pid` the worker's, `exitcode` its exit code,
    negative for a signal as in `multiprocessing`, None if nobody could collect it. `signal` is that signal's name.
    `reason` says in words what that likely means.
    """

    _fields = ("index", "pid", "exitcode", "reason")

    def __init__(
        self,
        index: int | None = None,
        pid: int | None = None,
        exitcode: int | None = None,
        reason: str | None = None,
    ) -> None:
        self.index = index
        self.pid = pid
        self.exitcode = exitcode
        self.signal = signal_name(-exitcode) if exitcode is not None and exitcode < 0 else None
        self.reason = bounded_text(reason or death_in_words(exitcode))
        where = "" if index is None else f" while it worked on item {index}"
        who = "A worker" if pid is None else f"The worker with pid {pid}"
        super().__init__(f"{who} died{where}: {self.reason}.")


class TaskExit(ForkliftError, RuntimeError):
    """The function raised what ends a program: `SystemExit` (by `sys.exit()`), `KeyboardInterrupt` or `GeneratorExit`.

    Its item has failed, and nothing else: the worker goes on, and so does whoever asks for the result. (Futures of an
    `Executor` have what was raised itself, as those of `concurrent.futures`.) `exc` is what
    was raised, as text; `code` what `sys.exit()` was given, if that is a number, a text or None.
    """

    _fields = ("exc", "code")

    def __init__(self, exc: str, code: int | str | None = None) -> None:
        self.exc = bounded_text(exc)
        self.code = bounded_text(code) if isinstance(code, str) else code
        super().__init__(
            f"the function raised {self.exc}, which would end this program if it were raised here"
        )

    def original(self) -> BaseException:
        """Return what the function raised, as `concurrent.futures` gives it to whoever asks for the result."""
        if self.exc.startswith("KeyboardInterrupt"):
            return KeyboardInterrupt()
        if self.exc.startswith("GeneratorExit"):
            return GeneratorExit()
        return SystemExit() if self.code is None else SystemExit(self.code)


class MemoryLimitExceeded(ForkliftError, MemoryError):
    """A limit on memory does not leave room for what was asked.

    `asked` and `limit` are bytes (None if unknown), `holder` says what holds the memory, `index` names the item.
    """

    _fields = ("asked", "limit", "holder", "index")

    def __init__(
        self,
        asked: int | None = None,
        limit: int | None = None,
        holder: str | None = None,
        index: int | None = None,
    ) -> None:
        self.asked = asked
        self.limit = limit
        self.holder = bounded_text(holder) if holder else None
        self.index = index
        what = "More memory was needed" if asked is None else f"{asked:,} bytes were needed"
        item = "" if index is None else f" for item {index}"
        text = what + item + ("" if limit is None else f", the limit is {limit:,} bytes")
        super().__init__(text + (f"; held by {self.holder}." if self.holder else "."))


class EncodeError(ForkliftError, PicklingError):
    """Something cannot be sent to another process.

    `path` leads to the smallest part that cannot (`items[3].conn.lock`), `reason` says why. `exc` and `value` are
    texts about both, under the names that `multiprocessing.pool.MaybeEncodingError` gives them. `index` names the
    item where one can be named.
    """

    _fields = ("path", "reason", "value", "index")

    def __init__(self, path: str, reason: str, value: str = "", index: int | None = None) -> None:
        self.path = bounded_text(path)
        self.reason = bounded_text(reason)
        self.value = bounded_text(value)
        self.exc = self.reason
        self.index = index
        super().__init__(self._text())

    def _text(self) -> str:
        what = f" ({self.value})" if self.value else ""
        return f"{self.path}{what} cannot be sent to another process: {self.reason}"

    def __str__(self) -> str:
        # Not left to the bases: `MaybeEncodingError` has a text of its own, which has no room for the path.
        return self._text()

    def __reduce__(self) -> tuple[Any, ...]:
        """As every error, without the attribute that the constructor derives."""
        kind, arguments, state = super().__reduce__()
        state = {name: value for name, value in (state or {}).items() if name != "exc"}
        if kind.__name__ == "EncodeError" and kind is not EncodeError:
            return rebuild_encode_error, (kind.__bases__[1].__name__, *arguments), state or None
        return kind, arguments, state or None


# What pickling raises of itself or in a careless `__reduce__`, and can share a class with `EncodeError`.
PICKLING_RAISES = (
    "ArithmeticError AssertionError AttributeError IndexError KeyError LookupError NameError NotImplementedError "
    "RecursionError RuntimeError TypeError ValueError ZeroDivisionError"
).split()


def rebuild_encode_error(kind: str, *fields: Any) -> EncodeError:
    """Build an `EncodeError` that is also of the built-in class `kind`, if that is one of `PICKLING_RAISES`.

    `multiprocessing.Pool` raises what pickling raised, a TypeError for a lock, and programs catch that.
    """
    if kind not in PICKLING_RAISES:
        return EncodeError(*fields)
    if kind not in _both:
        import builtins

        _both[kind] = type("EncodeError", (EncodeError, getattr(builtins, kind)), {"__module__": __name__})
    return _both[kind](*fields)


_both: dict[str, type[EncodeError]] = {}


class DecodeError(ForkliftError, UnpicklingError):
    """Something arrived and cannot be turned into an object again. `side` is "worker" or "parent"."""

    _fields = ("reason", "side", "index")

    def __init__(self, reason: str, side: str, index: int | None = None) -> None:
        self.reason = bounded_text(reason)
        self.side = side
        self.index = index
        item = "" if index is None else f" (item {index})"
        super().__init__(f"An object could not be rebuilt in the {side}{item}: {self.reason}")


if TYPE_CHECKING:

    class TaskTimeout(ForkliftError, TimeoutError, multiprocessing.TimeoutError):
        """An item took longer than `seconds`; `index` names it."""

        index: int | None
        seconds: float | None

        def __init__(self, index: int | None = None, seconds: float | None = None) -> None: ...

    class CancelledError(ForkliftError, concurrent.futures.CancelledError):
        """The call was cancelled before it was done."""

    class ResultEncodeError(EncodeError, MaybeEncodingError):  # type: ignore[misc]
        """The function's result cannot be sent back."""

    class BrokenWorkerDied(WorkerDied, BrokenProcessPool):
        """`WorkerDied` as an Executor raises it."""


def _make_task_timeout() -> type[ForkliftError]:
    import multiprocessing

    class TaskTimeout(ForkliftError, TimeoutError, multiprocessing.TimeoutError):
        """An item took longer than `seconds`; `index` names it."""

        _fields = ("index", "seconds")

        def __init__(self, index: int | None = None, seconds: float | None = None) -> None:
            self.index = index
            self.seconds = seconds
            item = "A call" if index is None else f"Item {index}"
            limit = "its time limit" if seconds is None else f"its limit of {seconds:g} s"
            super().__init__(f"{item} took longer than {limit}; its worker was replaced.")

    return TaskTimeout


def _make_cancelled_error() -> type[ForkliftError]:
    import concurrent.futures

    class CancelledError(ForkliftError, concurrent.futures.CancelledError):
        """The call was cancelled before it was done."""

    return CancelledError


def _make_result_encode_error() -> type[ForkliftError]:
    from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]

    class ResultEncodeError(EncodeError, MaybeEncodingError):  # type: ignore[misc]
        """The function's result cannot be sent back."""

        def __init__(self, path: str, reason: str, value: str = "", index: int | None = None) -> None:
            # The other base would take the two arguments for objects and put their `repr` over our texts.
            self.path = bounded_text(path)
            self.reason = bounded_text(reason)
            self.value = bounded_text(value)
            self.exc = self.reason
            self.index = index
            Exception.__init__(self, self.exc, self.value)

        __repr__ = Exception.__repr__

    return ResultEncodeError


def _make_broken_worker_died() -> type[ForkliftError]:
    from concurrent.futures.process import BrokenProcessPool

    class BrokenWorkerDied(WorkerDied, BrokenProcessPool):
        """`WorkerDied` as an Executor raises it: code that expects `BrokenProcessPool` catches it."""

    return BrokenWorkerDied


def _find_remote_traceback() -> type[Exception]:
    # The very class: programs, and CPython's tests, look for it as the cause of what a worker raised.
    from multiprocessing import pool

    found: type[Exception] = pool.RemoteTraceback  # type: ignore[attr-defined]
    return found


_ON_DEMAND: dict[str, Callable[[], type[Exception]]] = {
    "TaskTimeout": _make_task_timeout,
    "CancelledError": _make_cancelled_error,
    "ResultEncodeError": _make_result_encode_error,
    "BrokenWorkerDied": _make_broken_worker_died,
    "RemoteTraceback": _find_remote_traceback,
}


def __getattr__(name: str) -> Any:
    make = _ON_DEMAND.get(name)
    if make is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = make()
    # Defined in a function, but found, and so pickled, as an attribute of its module.
    made.__qualname__ = name
    # Two threads may both have come here: the first class stays, or `except TaskTimeout` could miss one.
    return globals().setdefault(name, made)


def broken_worker_died(died: WorkerDied) -> BrokenWorkerDied:
    """Return the same news as an exception that is also a `BrokenProcessPool`, for an Executor to raise."""
    kind: type[BrokenWorkerDied] = __getattr__("BrokenWorkerDied")
    return kind(died.index, died.pid, died.exitcode, died.reason)


def remote_traceback(text: str) -> Exception:
    """Return what stands as the cause of an exception that a worker raised, and prints that worker's traceback."""
    cause = __getattr__("RemoteTraceback")(f'\n"""\n{text}"""')
    assert isinstance(cause, Exception)
    return cause


def rebuild_result_encode_error(*fields: Any) -> ForkliftError:
    """Build a `ResultEncodeError` where it arrives, so that the worker that sends it need not import its base."""
    made = __getattr__("ResultEncodeError")(*fields)
    assert isinstance(made, ForkliftError)
    return made


def signal_name(number: int) -> str:
    """Return "SIGKILL" for 9, "signal 99" for a number without a name."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def death_in_words(exitcode: int | None, evidence: tuple[str, str] | None = None) -> str:
    """Say what an exit code, negative for a signal, likely means.

    `evidence` is what the core knows beyond it: that forklift itself killed the worker, and why ("expelled", reason),
    that the worker ended for something else ("aside"), or who sent a SIGKILL (see `KILLERS_IN_WORDS`).
    """
    if evidence is not None and evidence[0] == "aside":
        return (
            "it ended for the sake of another item or call; this item had begun, and could not be run again from what "
            "it saw first"
        )
    if evidence is not None and evidence[0] == "expelled":
        return f"forklift itself killed it, since it could not be dealt with: {evidence[1]}"
    if evidence is not None and evidence[0] == "told":
        return evidence[1]
    if exitcode is None:
        return "it vanished, and nobody could collect its exit code"
    if exitcode < 0:
        name = signal_name(-exitcode)
        known = KILLERS_IN_WORDS.get(evidence) if evidence is not None else None
        words = known or SIGNALS_IN_WORDS.get(name)
        return f"killed by {name}" + (f", {words}" if words else "")
    if exitcode == 0:
        return "it exited with code 0 before it had answered; something called os._exit(0) or sys.exit()"
    return (
        f"it exited with code {exitcode}; something called os._exit({exitcode}), or the interpreter failed, "
        "which it then said on standard error"
    )


def bounded_text(text: str, limit: int = TEXT_CHARS_MAX) -> str:
    """Shorten a text in its middle to at most `limit` characters: its beginning and its end say the most."""
    if len(text) <= limit:
        return text
    mark = f" ... [{len(text) - limit:,} characters left out] ... "
    room = max(limit - len(mark), 2)
    head = room // 3
    return (text[:head] + mark + text[len(text) - (room - head) :])[: max(limit, len(mark) + 2)]


# How much of a container a bounded repr shows.
ELEMENTS_SHOWN = 6
DEPTH_SHOWN = 3
# An object of unknown type that claims more elements is not asked for its repr: it may print them all.
ELEMENTS_TRUSTED = 100


_CONTAINERS: tuple[tuple[Any, str], ...] = ((list, "[]"), (tuple, "()"), (set, "{}"), (frozenset, "{}"))


def bounded_repr(obj: object, limit: int = 200) -> str:
    """Return something like `repr(obj)` of at most `limit` characters.

    Containers, dataclasses and exceptions are walked, a few elements of each; arrays and tables show shape and type.
    The object's own `__repr__` is called only where it is not expected to print a whole collection, and may raise.
    """
    try:
        text = _brief(obj, limit, DEPTH_SHOWN)
    except Exception as error:
        # Also a RecursionError of a careless __repr__. The type's name cannot fail.
        text = f"<{type(obj).__module__}.{type(obj).__qualname__}: its repr raised {type(error).__name__}>"
    return text if len(text) <= limit else text[: max(limit - 3, 0)] + "..."


def _brief(obj: object, limit: int, depth: int) -> str:
    kind = type(obj)
    if kind is int:
        assert isinstance(obj, int)
        # Decimal digits of a huge integer take quadratic time, and Python may refuse to compute them.
        return repr(obj) if obj.bit_length() < 1000 else f"<int of {obj.bit_length():,} bits>"
    if isinstance(obj, (str, bytes, bytearray)):
        head = obj[:limit]
        return repr(head) if len(head) == len(obj) else f"{head!r}... ({len(obj):,} in all)"
    if isinstance(obj, dict):
        shown = (f"{_inner(k, limit, depth)}: {_inner(v, limit, depth)}" for k, v in dict.items(obj))
        return _enclosed(obj, dict, "{}", shown, depth)
    for container, brackets in _CONTAINERS:
        if isinstance(obj, container):
            items = (_inner(item, limit, depth) for item in container.__iter__(obj))
            return _enclosed(obj, container, brackets, items, depth)
    if isinstance(obj, BaseException):
        arguments = (_inner(argument, limit, depth) for argument in obj.args)
        return f"{kind.__name__}({_first(arguments, len(obj.args), depth)})"
    fields = getattr(kind, "__dataclass_fields__", None)
    if fields is not None:
        shown = (f"{name}={_inner(getattr(obj, name, None), limit, depth)}" for name in fields)
        return f"{kind.__qualname__}({_first(shown, len(fields), depth)})"
    if not isinstance(obj, type) and hasattr(kind, "shape") and getattr(obj, "shape", ()) != ():
        dtype = getattr(obj, "dtype", None)
        words = f"{kind.__module__}.{kind.__qualname__} of shape {getattr(obj, 'shape', None)}"
        return f"<{words}>" if dtype is None else f"<{words}, {dtype}>"
    if hasattr(kind, "__len__") and len(obj) > ELEMENTS_TRUSTED:  # type: ignore[arg-type]
        return f"<{kind.__module__}.{kind.__qualname__} of length {len(obj):,}>"  # type: ignore[arg-type]
    return repr(obj)


def _inner(obj: object, limit: int, depth: int) -> str:
    return "..." if depth <= 0 else bounded_repr_at(obj, max(limit // 2, 20), depth - 1)


def bounded_repr_at(obj: object, limit: int, depth: int) -> str:
    """`bounded_repr` at a given depth: one element that cannot be shown does not hide the others."""
    try:
        text = _brief(obj, limit, depth)
    except Exception as error:
        text = f"<{type(obj).__qualname__}: its repr raised {type(error).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _enclosed(obj: Any, container: Any, brackets: str, shown: Iterable[str], depth: int) -> str:
    """Put the first few of `shown` into brackets, with the type's name where it is not the container itself."""
    body = _first(shown, container.__len__(obj), depth)
    if not body and brackets == "{}" and container is not dict:
        return f"{type(obj).__name__}()"  # Empty braces are a dict.
    if type(obj) is tuple and len(obj) == 1:
        body += ","
    if type(obj) is container and container is not frozenset:
        return f"{brackets[0]}{body}{brackets[1]}"
    return f"{type(obj).__name__}({brackets[0]}{body}{brackets[1]})"


def _first(shown: Iterable[str], size: int, depth: int) -> str:
    texts = [] if depth <= 0 else [text for _, text in zip(range(ELEMENTS_SHOWN), shown, strict=False)]
    if size > len(texts):
        texts.append(f"... ({size:,} in all)" if texts else "...")
    return ", ".join(texts)
