"""Functions and classes that travel as themselves instead of as names.

What stands in `__main__`, in a notebook or inside another function cannot be imported by a worker. It is taken apart
here and put together there. Taking functions apart needs nothing but this module; for classes, and for what else only
cloudpickle knows, `_pickling` brings cloudpickle in. Putting together never needs it, so that a worker need not spend
the 40 ms of its import.

Three promises go beyond what cloudpickle gives:

**One namespace.** All functions of one globals dict share one dict in a worker, whatever messages they came in; those
of `__main__` share that of the worker's own `__main__`. So an initializer can set a global that the function reads.

**A worker keeps what it made of a definition.** Globals, class attributes and function attributes travel as
`{name: (version, value)}`. The sender raises the version when the name is bound to another object (tested by
identity); the receiver binds a name only if the version is newer than the one it last bound. So `global counter`, a
cache in a module-level dict, a model loaded by the initializer survive the next job, and yet a redefinition in the
user's process arrives with it. What is changed in place in the user's process does not reach workers that have the
name already, as under `multiprocessing`.

**Identity.** A class or a function without a closure bears an identity: "pid:serial:address" of the process that
first sent it. Where an object of that identity lives already, it is used instead of a copy. So instances that come
back are instances of the sender's own class, a function that comes back is the very function, and a default argument
that a worker uses as its cache lives as long as that function does. Closures carry state that may differ from one
message to the next, so they have no identity and are always built anew.

Only the process that a worker was born for may change what the worker has bound (`become_worker`). Whatever comes from
elsewhere, results above all, adds missing names and changes none.

Limits: cells shared by two closures arrive as two cells; keyword arguments of a class statement are not repeated.
"""

from __future__ import annotations

import builtins
import os
import sys
from _functools import _lru_cache_wrapper  # type: ignore[import-not-found]
from _pickle import PicklingError, UnpicklingError
from _thread import allocate_lock
from types import CellType, CodeType, FunctionType, ModuleType
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from forklift._needs import Needs

    Versions = dict[str, tuple[int, Any]]

CachedFunction: Any = _lru_cache_wrapper  # What `functools.lru_cache` makes.

# The main module's names: in a child of multiprocessing's spawn it is called `__mp_main__`.
MAIN_MODULES = ("__main__", "__mp_main__")
# What the parent sent is kept alive, so that it is still there when it comes back. A function object is 200 bytes.
KEPT_MAX = 1024
# Globals dicts that belong to no module (exec, doctest, %run) are kept alive too, to know them again.
NAMESPACES_MAX = 64

_known: WeakValueDictionary[str, Any] = WeakValueDictionary()
_identities: WeakKeyDictionary[Any, tuple[str, Any, Any, Any]] = WeakKeyDictionary()
_kept: dict[str, Any] = {}
_settled: set[str] = set()
_namespaces: dict[str, dict[str, Any]] = {}
# Sender: owner -> name -> (reference to the object, whether it is weak, version). The owner is a namespace or identity.
_stamps: dict[str, dict[str, tuple[Any, bool, int]]] = {}
# Receiver: owner -> name -> version last bound.
_bound: dict[str, dict[str, int]] = {}
_serial = 0
_upstream = 0
_inherited: dict[str, Any] = {}
_lock = allocate_lock()

_MISSING = object()


def become_worker(upstream: int, inherited: bool = False) -> None:
    """Follow the definitions that the process `upstream` (a pid) sends. To be called once, before anything arrives.

    `inherited` says that this process was forked from that one and so has its main module already.
    """
    global _upstream
    _upstream = upstream
    _bound.clear()
    if inherited:
        _inherited.update(main_namespace())
        for owner, table in _stamps.items():
            _bound[owner] = {name: version for name, (_, _, version) in table.items()}
    _stamps.clear()
    _kept.clear()


def _after_fork() -> None:
    global _lock
    _lock = allocate_lock()  # Another thread may have held it at the moment of the fork.
    _settled.update(_known.keys())  # What was ours is our parent's now, and as complete as before.


os.register_at_fork(after_in_child=_after_fork)


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


def identity_of(obj: Any) -> str | None:
    """Return the identity of a class, a function without closure or an `lru_cache`; None if it can have none.

    A function whose code or defaults were replaced is another function.
    """
    global _serial
    if isinstance(obj, FunctionType):
        shape = (obj.__code__, obj.__defaults__, obj.__kwdefaults__)
    else:
        shape = (None, None, None)  # type: ignore[assignment]
    try:
        with _lock:
            entry = _identities.get(obj)
            if entry is not None and all(a is b for a, b in zip(entry[1:], shape, strict=True)):
                return entry[0]
            _serial += 1
            identity = f"{os.getpid()}:{_serial}:{id(obj):x}"
            _identities[obj] = (identity, *shape)
            _known[identity] = obj
            _kept[identity] = obj
            if len(_kept) > KEPT_MAX:
                _forget(next(iter(_kept)))
            return identity
    except TypeError:  # A metaclass without hash.
        return None


def upstream_identity(obj: Any) -> str | None:
    """Return the identity of something that came from upstream, which need not be sent back to be known there."""
    try:
        entry = _identities.get(obj)
    except TypeError:
        return None
    return entry[0] if entry is not None and _upstream and _from(entry[0]) == _upstream else None


def known(identity: str) -> Any:
    """Return what bears the identity. Pickled in place of an object that the receiver itself once sent."""
    found = _known.get(identity)
    if found is None:
        raise UnpicklingError("a definition that was sent to a worker has been deleted here meanwhile")
    return found


def living(identity: str) -> tuple[Any, bool]:
    """Return what bears the identity here, or None, and whether it is of this process itself."""
    return _known.get(identity), _from(identity) == os.getpid()


def _from(identity: str) -> int:
    return int(identity.partition(":")[0])


def _forget(identity: str) -> None:
    _kept.pop(identity, None)
    _stamps.pop(identity, None)


def _remember(identity: str, obj: Any) -> Any:
    """Register what was just built for the identity; return the one that counts if two threads built it."""
    _settled.discard(identity)  # Another object may have borne the identity and have died.
    _bound.pop(identity, None)
    if len(_settled) > 8 * KEPT_MAX:
        _settled.intersection_update(list(_known.keys()))
        for owner in [owner for owner in _bound if owner not in _settled and owner[:1].isdigit()]:
            del _bound[owner]
    if isinstance(obj, FunctionType):
        # The defaults follow with the state, and identity looks at them again then (`_settle`).
        _identities[obj] = (identity, obj.__code__, obj.__defaults__, obj.__kwdefaults__)
    else:
        _identities[obj] = (identity, None, None, None)
    return _known.setdefault(identity, obj)


def _existing(identity: str | None, qualname: str) -> Any:
    """Return the living object of the identity; a forked worker finds those it inherited by name and address."""
    if identity is None:
        return None
    found = _known.get(identity)
    if found is None and _inherited and _from(identity) == _upstream:
        first, *rest = qualname.split(".")
        found = _inherited.get(first)
        for name in rest:
            found = getattr(found, name, None)
        if found is None or f"{id(found):x}" != identity.rpartition(":")[2]:
            return None
        found = _remember(identity, found)
        _settled.add(identity)
    return found


def _settle(identity: str | None) -> bool:
    """Say whether the state of this object has been set before (and so is not to be set again)."""
    if identity is None:
        return False
    if identity in _settled:
        return True
    _settled.add(identity)
    return False


# Namespaces and versions -----------------------------------------------------------------------------------------


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


def _namespace_key(variables: dict[str, Any]) -> str:
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
            oldest = next(iter(_namespaces))
            del _namespaces[oldest]
            _stamps.pop(oldest, None)
        return key


def _versions(owner: str, values: Mapping[str, Any]) -> Versions:
    """Put to each value the version of its name: the old one if it still is the same object, else a new one."""
    global _serial
    versions: Versions = {}
    with _lock:
        table = _stamps.setdefault(owner, {})
        for name, value in values.items():
            entry = table.get(name)
            if entry is None or (entry[0]() if entry[1] else entry[0]) is not value:
                _serial += 1
                try:
                    entry = (ref(value), True, _serial)
                except (
                    TypeError
                ):  # Numbers, texts, lists, dicts: kept alive, or an address could be mistaken.
                    entry = (value, False, _serial)
                table[name] = entry
            versions[name] = (entry[2], value)
    return versions


def release_rebound(owner: str, values: Mapping[str, Any]) -> None:
    """Let go of objects that are no longer bound to the name they were sent under."""
    with _lock:
        table = _stamps.get(owner, {})
        gone = [n for n, (obj, weak, _) in table.items() if not weak and values.get(n, _MISSING) is not obj]
        for name in gone:
            del table[name]


def _follow(owner: str, origin: int, offered: Versions, values: dict[str, Any]) -> None:
    """Bind what was sent in a namespace: what is newer if it comes from upstream, else only what is missing."""
    if origin != _upstream:
        for name, (_, value) in offered.items():
            values.setdefault(name, value)
        return
    bound = _bound.setdefault(owner, {})
    for name, (version, value) in offered.items():
        last = bound.get(name)
        if last is None and name in values and not (name in _inherited and values[name] is _inherited[name]):
            bound[name] = version  # The worker itself bound it first, and keeps it until upstream rebinds it.
        elif last is None or version > last:
            bound[name] = version
            values[name] = value


# Functions -------------------------------------------------------------------------------------------------------


def reduce_function(func: FunctionType, needs: Needs | None) -> tuple[Any, ...]:
    """Take a function apart; `needs`, if given, is told all that the result depends on."""
    arguments, state = _function_parts(func, needs)
    return make_function, arguments, state, None, None, set_function


def _function_parts(func: FunctionType, needs: Needs | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    variables = func.__globals__
    key = _namespace_key(variables)
    identity = identity_of(func) if func.__closure__ is None else None
    release_rebound(key, variables)
    base = {}
    if key != "__main__":
        base = {
            n: variables[n] for n in ("__name__", "__package__", "__path__", "__file__") if n in variables
        }
    names = global_names(func.__code__)
    used = {name: variables[name] for name in names if name in variables}
    name = func.__qualname__
    if key == "__main__" and variables.get(name) is func:
        # Bound in the worker too, for whoever looks it up there by name: pickle in the user's own code, for one.
        used[name] = func
    if needs is not None:
        needs.function(func, names)
    state = {
        "identity": identity,
        "origin": os.getpid(),
        "namespace": key,
        "globals": _versions(key, used),
        "imports": _submodules(func, used),
        "dict": _versions(identity, func.__dict__) if identity and func.__dict__ else func.__dict__,
        "closure": func.__closure__,
        "slots": {
            "__name__": func.__name__,
            "__qualname__": name,
            "__module__": func.__module__,
            "__doc__": func.__doc__,
            "__defaults__": func.__defaults__,
            "__kwdefaults__": func.__kwdefaults__,
            "__annotations__": func.__annotations__,
        },
    }
    return (identity, func.__code__, name, key, base), state


def make_function(identity: str | None, code: CodeType, name: str, key: str, base: dict[str, Any]) -> Any:
    """Build a function without its state, or find the one that is here already."""
    found = _existing(identity, name)
    if isinstance(found, FunctionType):
        return found
    closure = tuple(CellType() for _ in code.co_freevars) or None
    func = FunctionType(code, namespace(key, base), name, None, closure)
    return func if identity is None else _remember(identity, func)


def set_function(func: FunctionType, state: dict[str, Any]) -> None:
    """Give a function its state, or bring what it shares with others up to date if it was here already."""
    identity, origin = state["identity"], state["origin"]
    if identity is not None and _from(identity) == os.getpid():
        return
    _follow(state["namespace"], origin, state["globals"], func.__globals__)
    settled = _settle(identity)
    if identity is None:
        func.__dict__.update(state["dict"])
    else:
        _follow(identity, origin, state["dict"], func.__dict__)
    if settled:
        return
    for cell, sent in zip(func.__closure__ or (), state["closure"] or (), strict=True):
        try:
            cell.cell_contents = sent.cell_contents
        except ValueError:  # Empty: its variable has not been assigned yet.
            continue
    for name, value in state["slots"].items():
        setattr(func, name, value)
    if identity is not None:
        _identities[func] = (identity, func.__code__, func.__defaults__, func.__kwdefaults__)


def reduce_cached(cached: Any, needs: Needs | None) -> tuple[Any, ...]:
    """Take an `functools.lru_cache` of a dynamic function apart. Its cache stays behind, and grows anew there.

    The function is taken apart within, since it may call itself by the cache's name.
    """
    func: Any = cached.__wrapped__
    if not isinstance(func, FunctionType):
        raise PicklingError(f"a cache of {type(func).__name__} cannot be sent")
    options = cached.cache_parameters()
    identity = identity_of(cached)
    arguments, state = _function_parts(func, needs)
    bind = {}
    name = func.__name__
    if state["namespace"] == "__main__" and func.__globals__.get(name) is cached:
        bind = _versions("__main__", {name: cached})
    made = (identity, options["maxsize"], options["typed"], arguments)
    return make_cached, made, (bind, state), None, None, set_cached


def make_cached(identity: str | None, size: int | None, typed: bool, arguments: tuple[Any, ...]) -> Any:
    """Build a cache around a function that has no state yet, or find the one that is here already."""
    found = _existing(identity, arguments[2])
    if isinstance(found, CachedFunction):
        return found
    from functools import lru_cache

    cached = lru_cache(size, typed)(make_function(*arguments))
    return cached if identity is None else _remember(identity, cached)


def set_cached(cached: Any, state: tuple[Versions, dict[str, Any]]) -> None:
    """Give the function within its state, and the cache the function's names."""
    from functools import update_wrapper

    bind, inner = state
    entry = _identities.get(cached)
    if entry is not None and _from(entry[0]) == os.getpid():
        return
    func = cached.__wrapped__
    set_function(func, inner)
    update_wrapper(cached, func)
    _follow("__main__", inner["origin"], bind, func.__globals__)


def global_names(code: CodeType) -> list[str]:
    """List the names that the code, and the code of functions and classes defined in it, looks up globally.

    Read from the instructions, since `co_names` also holds attributes: a large global could travel for nothing
    because some object has an attribute of its name.
    """
    names = _names_of_code.get(code)
    if names is None:
        found = dict.fromkeys(_global_names_here(code))
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                found.update(dict.fromkeys(global_names(constant)))
        names = _names_of_code[code] = list(found)
    return names


_names_of_code: WeakKeyDictionary[CodeType, list[str]] = WeakKeyDictionary()


def _global_names_here(code: CodeType) -> Iterator[str]:
    from opcode import EXTENDED_ARG, opmap

    by_index = {opmap[op] for op in ("STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME") if op in opmap}
    # Their lowest bit has another meaning: "push a NULL before it", or for the second which frame to search.
    by_half = opmap["LOAD_GLOBAL"]
    in_class = opmap.get("LOAD_FROM_DICT_OR_GLOBALS", -1)
    instructions, extended = code.co_code, 0
    for at in range(0, len(instructions), 2):
        op, argument = instructions[at], instructions[at + 1] | extended
        if op == EXTENDED_ARG:
            extended = argument << 8
            continue
        extended = 0
        if op == by_half:
            yield code.co_names[argument >> 1]
        elif op in by_index or op == in_class:
            yield code.co_names[argument]


def _submodules(func: FunctionType, used: Mapping[str, Any]) -> list[ModuleType]:
    """Find the modules `a.b` that a function reaches through its global `a`: importing `a` may not import them."""
    tops: list[ModuleType] = [value for value in used.values() if isinstance(value, ModuleType)]
    for cell in func.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:
            continue
        if isinstance(content, ModuleType):
            tops.append(content)
    found: list[ModuleType] = []
    attributes = set(func.__code__.co_names)
    for top in tops:
        prefix = top.__name__ + "."
        if not getattr(top, "__path__", None):
            continue
        for name, module in list(sys.modules.items()):
            if name.startswith(prefix) and attributes.issuperset(name[len(prefix) :].split(".")):
                found.append(module)
    return found


def reduce_cell(cell: CellType, needs: Needs | None) -> tuple[Any, ...]:
    """Take a cell apart: the cell first, its content afterwards, for the content may lead back to it."""
    try:
        content = cell.cell_contents
    except ValueError:
        return CellType, ()
    if needs is not None:
        needs.cell(cell, content)
    return make_cell, (), (content,), None, None, set_cell


def make_cell() -> CellType:
    """Build an empty cell."""
    return CellType()


def set_cell(cell: CellType, content: tuple[Any]) -> None:
    """Fill a cell."""
    cell.cell_contents = content[0]


# Classes ---------------------------------------------------------------------------------------------------------


def reduce_class(cls: type, needs: Needs | None, cloudpickle: Any) -> tuple[Any, ...]:
    """Take a class apart, with `cloudpickle.cloudpickle` to say what its parts are."""
    identity = identity_of(cls)
    enum = sys.modules.get("enum")
    if enum is not None and issubclass(cls, enum.Enum):
        bases, name, _, members, module, _, _ = cloudpickle._enum_getnewargs(cls)
        arguments = (identity, cls.__qualname__, None, name, bases, {"module": module, "members": members})
        attributes, _ = cloudpickle._enum_getstate(cls)
    else:
        kind, name, bases, body, _, _ = cloudpickle._class_getnewargs(cls)
        attributes, _ = cloudpickle._class_getstate(cls)
        if any(getattr(base, "__name__", "") == "NamedTuple" for base in bases):
            bases = cls.__bases__  # That base is a function, and would ask for the fields again.
        if "__slots__" in attributes:
            # Set afterwards it would only be a word: the class would have a __dict__, its twin at home has none.
            body["__slots__"] = attributes.pop("__slots__")
        arguments = (identity, cls.__qualname__, kind, name, bases, body)
    registry = attributes.pop("_abc_impl", None)
    if needs is not None:
        needs.type(cls, attributes)
    bind = {}
    if cls.__module__ in MAIN_MODULES and main_namespace().get(cls.__qualname__) is cls:
        bind = _versions("__main__", {cls.__qualname__: cls})
    state = {
        "identity": identity,
        "origin": os.getpid(),
        "attributes": _versions(identity or "", attributes),
        "registry": registry,
        "bind": bind,
    }
    return make_class, arguments, state, None, None, set_class


def make_class(
    identity: str | None,
    qualname: str,
    kind: type | None,
    name: str,
    bases: tuple[Any, ...],
    body: dict[str, Any],
) -> Any:
    """Build a class without its attributes, or find the one that is here already. `kind` None means an Enum."""
    found = _existing(identity, qualname)
    if isinstance(found, type):
        return found
    if kind is None:
        meta: Any = type(bases[-1])
        parts = meta.__prepare__(name, bases)
        for member, value in body["members"].items():
            parts[member] = value
        cls = meta.__new__(meta, name, bases, parts)
        cls.__module__ = body["module"]
    else:
        from types import new_class

        cls = new_class(name, bases, {"metaclass": kind}, lambda parts: parts.update(body))
    cls.__qualname__ = qualname
    return cls if identity is None else _remember(identity, cls)


def set_class(cls: Any, state: dict[str, Any]) -> None:
    """Give a class its attributes, or bring them up to date if it was here already."""
    identity, origin = state["identity"], state["origin"]
    if identity is not None and _from(identity) == os.getpid():
        return
    bound = _bound.setdefault(identity or "", {})
    settled = _settle(identity)
    for name, (version, value) in state["attributes"].items():
        last = bound.get(name)
        newer = origin == _upstream and last is not None and version > last
        if newer or not settled or (last is None and name not in cls.__dict__):
            setattr(cls, name, value)
        bound[name] = version if last is None else max(version, last)
    if not settled and "__firstlineno__" in state["attributes"]:
        cls.__firstlineno__ = state["attributes"]["__firstlineno__"][1]  # Deleted by assigning __module__.
    for subclass in state["registry"] or ():
        cls.register(subclass)
    if state["bind"]:
        _follow("__main__", origin, state["bind"], main_namespace())
