"""How workers are started, seen from the user's process: what the native code is told about it."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any

from forklift import _bindings, _identities, _native, _pickling, _reducers, _zygote

# Types whose import costs nothing, or that only exist in the user's process.
_NOT_PRELOADED = {"builtins", "__main__", "__mp_main__"}


def start_method(context: BaseContext | str | None, elsewhere: bool = False) -> str:
    """Return "zygote", "fork" or "spawn" for a context, a start method's name, or None; "relays" for other machines."""
    if elsewhere and context is None:
        return "relays"
    if elsewhere:
        raise ValueError(f"context={context!r} starts workers on this machine: it excludes backend")
    method = context.get_start_method() if isinstance(context, BaseContext) else context
    if method is None or method == "forkserver":
        return "zygote"
    if method in ("fork", "spawn"):
        return method
    raise ValueError(
        f"context must be a multiprocessing context or 'fork', 'spawn' or 'forkserver', not {context!r}"
    )


def must_be_inherited(start: tuple[Callable[..., object], tuple[Any, ...]]) -> bool:
    """Whether an initializer or its arguments are made to be inherited by a fork: they refuse to be pickled, or can be
    sent only once.

    Asked only where `multiprocessing` itself would fork, so that replacing the import is enough.
    """
    import multiprocessing

    from forklift._failure import Nowhere

    if multiprocessing.get_start_method(allow_none=True) not in (None, "fork") or sys.version_info >= (3, 14):
        return False
    _reducers.asking.whether = True
    try:
        for pickler in (lambda: _pickling.Pickler, _pickling.cloud_pickler_class):
            try:
                pickler()(Nowhere, 5, buffer_callback=Nowhere.buffer).dump(start)
            except RuntimeError as error:
                return "inheritance" in str(error)
            except Exception:
                continue
            return False
    finally:
        _reducers.asking.whether = False
    return False


# What workers forked from this process inherit, by the number under which they ask for it.
_inheritance: dict[int, tuple[Callable[..., object], tuple[Any, ...]]] = {}


def inherited(
    pool: object, start: tuple[Callable[..., object], tuple[Any, ...]]
) -> tuple[Callable[..., object], tuple[Any, ...]]:
    """Return an initializer that finds the real one, with its arguments, in what a forked worker inherits."""
    number = id(pool)
    _inheritance[number] = start
    _note_globals(start[0])
    weakref.finalize(pool, _inheritance.pop, number, None).atexit = False
    return run_inherited, (number,)


def _note_globals(initializer: Callable[..., object]) -> None:
    """Note what the globals are that an initializer can change, as if it was sent: what it makes of them stays then."""
    from forklift._failure import Nowhere

    for pickler in (lambda: _pickling.Pickler, _pickling.cloud_pickler_class):
        try:
            pickler()(Nowhere, 5, buffer_callback=Nowhere.buffer).dump(initializer)
        except Exception:  # It need not be sent.
            continue
        return


def run_inherited(number: int) -> None:
    """Run the initializer of a pool in a worker that was forked from the pool's process."""
    initializer, arguments = _inheritance[number]
    _bindings.believe()
    initializer(*arguments)


def start(initializer: tuple[Any, ...] | None, **options: Any) -> _native.Pool:
    """Start a native pool.

    Raises:
        EncodeError: for an initializer, or arguments, that cannot be pickled.
        ValueError: for a variable of the environment that means nothing.
    """
    _native.check_environment()
    try:
        return _native.Pool(initializer=initializer, **options)
    except Exception as error:
        from forklift._failure import refusal

        raise refusal(initializer, "(initializer, initargs)", error)  # noqa: B904


def command(method: str) -> list[str]:
    """Return the command line of the interpreter that workers come from. It finds its socket as standard input."""
    return [] if method in ("fork", "relays") else _zygote.command_line(method)


def environment(processes: int) -> list[tuple[str, str]]:
    """Return the variables by which workers share the cores out between their native threads."""
    return list(_zygote.thread_caps(processes, _native.cores()).items())


def preparation(modules: Iterable[str]) -> bytes:
    """Return what a fresh interpreter has to know before it becomes a worker, or the mother of workers."""
    return _zygote.preparation(modules)


def module_names(preload: Iterable[str], elsewhere: bool = False) -> list[str]:
    """Check the user's `preload`. What other machines have installed is not known here."""
    if isinstance(preload, str):
        raise TypeError(f"preload must be names of modules in a list or tuple, not the text {preload!r}")
    names = list(preload)
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"preload must hold names of modules, not {name!r}")
        package = name.partition(".")[0]
        if elsewhere or package in sys.modules:
            continue
        if not package or importlib.util.find_spec(package) is None:
            raise ValueError(f"preload names {name!r}, but there is no module or package {package!r} here")
    return names


def modules_of(func: Any, sample: object) -> set[str]:
    """Return the modules that workers will import for a call: those of the function and of the first item's types.

    The zygote imports them once, and every worker is born with them.
    """
    while isinstance(func, partial):
        func = func.func
    func = getattr(func, "__func__", func)
    names = {getattr(func, "__module__", None) or type(func).__module__}
    if isinstance(sample, (list, tuple)) and sample:
        item = sample[0]
        parts = [item]
        if isinstance(item, (list, tuple)):
            parts += item[:4]
        elif isinstance(item, dict):
            parts += list(item.values())[:4]
        names |= {type(part).__module__.partition(".")[0] for part in parts}
    return {name for name in names if name in sys.modules} - _NOT_PRELOADED


def pickled_names(modules: Iterable[str]) -> bytes:
    """Return names as the zygote reads them."""
    return pickle.dumps(sorted(modules), 5)


def import_before_forks() -> None:
    """Import what both sides import when the first answers come.

    A fork that is made while another thread imports a module waits for ever for that import.
    """
    import forklift._failure
    import forklift._outcome  # noqa: F401


def serve_forks(native: _native.Pool) -> None:
    """Fork workers from this process when the pool wants some, in a thread, as `multiprocessing.Pool` does."""
    import_before_forks()
    thread = threading.Thread(target=_serve_forks, args=(native,), name="forklift-births", daemon=True)
    thread.start()


def _serve_forks(native: _native.Pool) -> None:
    while (order := native.fork_order(0.5)) is not False:
        if order is None:
            continue
        slot, generation, channel, life = order
        try:
            _identities.introduce()
            pid = _zygote.fork(channel, life, slot, generation, ())
        except BaseException as error:  # Also what an audit hook, or a stream that is flushed, raises.
            native.forked(slot, generation, None, str(error) or type(error).__name__)
        else:
            native.forked(slot, generation, pid, "")
        os.close(channel)
        os.close(life)
