"""Who is who among definitions that travel by value, and the globals that they share.

A class, a function without closure and an `lru_cache` bear an identity: "pid:serial:address" of the process that first
sent it. Where an object of that identity lives already, it is used instead of a copy.

    named     the process that this one serves has sent it, and knows it by its identity
    settled   its state has been set here once, and is only brought up to date from then on
    kept      this process has sent it, and keeps it alive in case that it comes back
"""

from __future__ import annotations

import builtins
import os
import sys
from _pickle import UnpicklingError
from _thread import allocate_lock
from types import FunctionType, ModuleType
from weakref import WeakKeyDictionary, WeakValueDictionary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

# The main module's names: in a child of multiprocessing's spawn it is called `__mp_main__`.
MAIN_MODULES = ("__main__", "__mp_main__")
# What was sent is kept alive, so that it is still there when it comes back. A function object is 200 bytes.
KEPT_MAX = 1024
# Globals dicts that belong to no module (exec, doctest, %run) are kept alive too, to know them again.
NAMESPACES_MAX = 64

_known: WeakValueDictionary[str, Any] = WeakValueDictionary()
_identities: WeakKeyDictionary[Any, tuple[str, Any, Any, Any]] = WeakKeyDictionary()
_kept: dict[str, Any] = {}
_settled: set[str] = set()
_named: set[str] = set()
_namespaces: dict[str, dict[str, Any]] = {}
_inherited: dict[str, Any] = {}
_upstream = 0
_serial = 0
_lock = allocate_lock()
# Told of owners of names (see `owned`) that are kept no longer.
forgetting: list[Callable[[str], None]] = []


def become_worker(upstream: int, inherited: bool) -> None:
    """See `_byvalue.become_worker`."""
    global _upstream
    _upstream = upstream
    _named.clear()
    if inherited:
        _inherited.update(main_namespace())
        _named.update(_kept)  # What that process has sent, it keeps.
    _kept.clear()


def _after_fork() -> None:
    global _lock
    _lock = allocate_lock()  # Another thread may have held it at the moment of the fork.
    _settled.update(_known.keys())  # What was ours is our parent's now, and as complete as before.


os.register_at_fork(after_in_child=_after_fork)


def is_upstream(origin: int) -> bool:
    """Say whether this is the process that this one was born for."""
    return origin == _upstream


def next_serial() -> int:
    """Return a number that this process has not given before."""
    global _serial
    with _lock:
        _serial += 1
        return _serial


# Identity --------------------------------------------------------------------------------------------------------


def is_dynamic(obj: Any) -> bool:
    """Say whether this function or class has to travel by value: importing its module would not give it."""
    module = getattr(obj, "__module__", None)
    if not isinstance(module, str) or module in MAIN_MODULES:
        return True
    found: Any = sys.modules.get(module)
    if found is None:
        return True
    for name in getattr(obj, "__qualname__", "").split("."):
        found = getattr(found, name, None)
    return found is not obj


def _shape(obj: Any) -> tuple[Any, Any, Any]:
    if isinstance(obj, FunctionType):
        return obj.__code__, obj.__defaults__, obj.__kwdefaults__
    return None, None, None


def identity_of(obj: Any) -> str | None:
    """Return the identity of a class, a function without closure or an `lru_cache`; None if it can have none.

    A function whose code or defaults were replaced is another function.
    """
    global _serial
    shape = _shape(obj)
    try:
        with _lock:
            entry = _identities.get(obj)
            if entry is not None and all(a is b for a, b in zip(entry[1:], shape, strict=True)):
                identity = entry[0]
            else:
                _serial += 1
                identity = f"{os.getpid()}:{_serial}:{id(obj):x}"
                _identities[obj] = (identity, *shape)
                _known[identity] = obj
            if identity not in _kept and _holds_little(obj):
                _kept[identity] = obj
                if len(_kept) > KEPT_MAX:
                    _forget(_kept)
            return identity
    except TypeError:  # A metaclass without hash.
        return None


# What a definition that is kept may have in it.
_LITTLE = (int, float, complex, bool, str, bytes, type(None), type, FunctionType)


def _holds_little(obj: Any) -> bool:
    """Say whether a definition can be kept for a worker to name it.

    Not one that has objects of the user's: they may be results of any size. It is known as long as the user has it.
    """
    if not isinstance(obj, FunctionType):
        return True
    values = (*(obj.__defaults__ or ()), *(obj.__kwdefaults__ or {}).values(), *obj.__dict__.values())
    return all(isinstance(value, _LITTLE) for value in values)


def _forget(kept: dict[str, Any]) -> None:
    """Let go of what was kept first."""
    owner = next(iter(kept))
    del kept[owner]
    for forget in forgetting:
        forget(owner)


def introduce(others: Iterable[Any] = ()) -> None:
    """Give the classes and functions of the main module, and others, their identities.

    Whatever is forked from this process then names them to it, and need not have been sent them before.
    """
    waiting = [*main_namespace().values(), *others]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if (
            not isinstance(value, (type, FunctionType))
            or value.__module__ not in MAIN_MODULES
            or id(value) in seen
        ):
            continue
        seen.add(id(value))
        if isinstance(value, type):
            waiting.extend(inner for inner in value.__dict__.values() if isinstance(inner, type))
        elif value.__closure__ is not None:
            continue
        if is_dynamic(value):
            identity_of(value)


def upstream_identity(obj: Any) -> str | None:
    """Return the identity of something that came from upstream, which need not be sent back to be known there."""
    try:
        entry = _identities.get(obj)
    except TypeError:
        return None
    return entry[0] if entry is not None and entry[0] in _named else None


def known(identity: str) -> Any:
    """Return what bears the identity. Pickled in place of an object that the receiver itself once sent."""
    found = _known.get(identity)
    if found is None:
        raise UnpicklingError("a definition that was sent to a worker has been deleted here meanwhile")
    return found


def living(identity: str) -> Any:
    """Return what bears the identity here, or None."""
    return _known.get(identity)


def is_ours(identity: str | None) -> bool:
    """Say whether this process gave the identity."""
    return identity is not None and sender(identity) == os.getpid()


def sender(name: str) -> int:
    """Return the pid with which an identity or the name of an edition begins."""
    return int(name.partition(":")[0])


def remember(identity: str, obj: Any) -> Any:
    """Register what was just built for the identity; return the one that counts if two threads built it."""
    _settled.discard(identity)  # Another object may have borne the identity and have died.
    if len(_settled) > 8 * KEPT_MAX:
        _settled.intersection_update(list(_known.keys()))
        _named.intersection_update(_settled)
    _identities[obj] = (identity, *_shape(obj))
    return _known.setdefault(identity, obj)


def reshape(func: FunctionType) -> None:
    """Note that a function has been given its defaults, and is still the same function."""
    entry = _identities.get(func)
    if entry is not None:
        _identities[func] = (entry[0], *_shape(func))


def existing(identity: str | None, qualname: str) -> Any:
    """Return the living object of the identity; a forked worker finds those it inherited by name and address."""
    if identity is None:
        return None
    found = _known.get(identity)
    if found is None and _inherited and sender(identity) == _upstream:
        first, *rest = qualname.split(".")
        found = _inherited.get(first)
        for name in rest:
            found = getattr(found, name, None)
        if found is None or f"{id(found):x}" != identity.rpartition(":")[2]:
            return None
        found = remember(identity, found)
        _settled.add(identity)
    return found


def settle(identity: str | None, origin: int) -> bool:
    """Say whether the state of this object has been set before (and so is not to be set again)."""
    if identity is None:
        return False
    if origin == _upstream:
        _named.add(identity)
    if identity in _settled:
        return True
    _settled.add(identity)
    return False


# Namespaces ------------------------------------------------------------------------------------------------------


def main_namespace() -> dict[str, Any]:
    """Return the globals of the main module, made if it is missing."""
    main = sys.modules.get("__main__")
    if main is None:
        main = sys.modules["__main__"] = ModuleType("__main__")
    return main.__dict__


def namespace(key: str, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the globals that functions of this key share in this process."""
    if key == "__main__":
        found = main_namespace()
        found.setdefault("__builtins__", builtins)  # C code that imports looks for it.
        return found
    if key not in _namespaces:
        _namespaces[key] = {**base, "__builtins__": builtins}
        while len(_namespaces) > NAMESPACES_MAX:
            del _namespaces[next(iter(_namespaces))]
    return _namespaces[key]


def namespace_key(variables: dict[str, Any]) -> str:
    """Name a globals dict: "__main__" for that of the main module, else a name no other process would give."""
    global _serial
    if variables is main_namespace():
        return "__main__"
    with _lock:
        for key, known_variables in _namespaces.items():
            if known_variables is variables:
                return key
        _serial += 1
        key = f"{variables.get('__name__')}#{os.getpid()}:{_serial}"
        _namespaces[key] = variables
        if len(_namespaces) > NAMESPACES_MAX:
            _forget(_namespaces)
        return key


def owned(owner: str) -> Any:
    """Return what the owner of names is here: a globals dict, a class or a function; None if it is no more."""
    if owner == "__main__":
        return main_namespace()
    return _namespaces.get(owner) if "#" in owner else _known.get(owner)


def was_inherited(name: str, value: Any) -> bool:
    """Say whether a global of the main module is what this worker was forked with."""
    return name in _inherited and _inherited[name] is value
