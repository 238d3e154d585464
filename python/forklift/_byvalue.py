"""Functions and classes that travel as themselves instead of as names.

What stands in `__main__`, in a notebook or inside another function cannot be imported by a worker. It is taken apart
here and put together there. Taking functions apart needs nothing but this module; for classes, and for what else only
cloudpickle knows, `_pickling` brings cloudpickle in. Putting together never needs it, so that a worker need not spend
the 40 ms of its import.

Three promises go beyond what cloudpickle gives:

**One namespace.** All functions of one globals dict share one dict in a worker, whatever messages they came in; those
of `__main__` share that of the worker's own `__main__`. So an initializer can set a global that the function reads.

**A worker keeps what it made of a definition, until the user's process changes it.** Globals, attributes of classes and
functions, and defaults travel as `{name: (version, value)}`. The sender raises the version when the name is bound to
another object, or when its object was changed in place (`_changes`); the receiver binds what has another version than
it has bound (`_bindings`). So `global counter`, a cache in a module-level dict, a model loaded by the initializer
survive the next job, and yet what the user's process changes arrives with it, for all workers alike.

**Identity.** A class or a function without a closure bears an identity (`_identities`). So instances that come
back are instances of the sender's own class, a function that comes back is the very function, and a default argument
that a worker uses as its cache lives as long as that function does. Closures carry state that may differ from one
message to the next, so they have no identity and are always built anew.

Annotations cross unevaluated where Python does not evaluate them either.

Limits: cells shared by two closures arrive as two cells; keyword arguments of a class statement are not repeated.
Where two globals lead to one object, and only one of them is changed in what the other does not reach, they lead to two
in a worker that had them already.
"""

from __future__ import annotations

import os
import sys
from _pickle import PicklingError
from types import CellType, CodeType, FunctionType, ModuleType
from weakref import WeakKeyDictionary

from forklift import _bindings, _identities
from forklift._bindings import follow
from forklift._changes import CachedFunction, gone, versions
from forklift._identities import (
    MAIN_MODULES,
    existing,
    identity_of,
    is_dynamic,
    is_ours,
    known,
    living,
    main_namespace,
    namespace,
    namespace_key,
    remember,
    settle,
    upstream_identity,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from forklift._changes import Versions
    from forklift._needs import Needs

__all__ = [
    "MAIN_MODULES",
    "CachedFunction",
    "become_worker",
    "global_names",
    "is_dynamic",
    "known",
    "living",
    "upstream_identity",
]


def become_worker(upstream: int, inherited: bool = False) -> None:
    """Follow the definitions that the process `upstream` (a pid) sends. To be called once, before anything arrives.

    `inherited` says that this process was forked from that one and so has its main module already.
    """
    _bindings.become_worker(inherited)
    _identities.become_worker(upstream, inherited)


# Functions -------------------------------------------------------------------------------------------------------


def reduce_function(func: FunctionType, needs: Needs | None) -> tuple[Any, ...]:
    """Take a function apart; `needs`, if given, is told all that the result depends on."""
    arguments, state = _function_parts(func, needs)
    return make_function, arguments, state, None, None, set_function


def _function_parts(func: FunctionType, needs: Needs | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    variables = func.__globals__
    key = namespace_key(variables)
    identity = identity_of(func) if func.__closure__ is None else None
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
    attributes: dict[str, Any] = func.__dict__
    slots: dict[str, Any] = {
        "__name__": func.__name__,
        "__qualname__": name,
        "__module__": func.__module__,
        "__doc__": func.__doc__,
        **_annotations(func, needs),
    }
    defaults = {"__defaults__": func.__defaults__, "__kwdefaults__": func.__kwdefaults__}
    if identity is None:
        slots.update(defaults)
    else:
        attributes = {**attributes, **{name: value for name, value in defaults.items() if value}}
        attributes = {**versions(identity, attributes), **gone(identity, attributes)}
    state = {
        "identity": identity,
        "origin": os.getpid(),
        "namespace": key,
        "globals": {**versions(key, used), **gone(key, variables, names)},
        "imports": _submodules(func, used),
        "dict": attributes,
        "closure": func.__closure__,
        "slots": slots,
    }
    return (identity, func.__code__, name, key, base), state


def _annotations(func: FunctionType, needs: Needs | None) -> dict[str, Any]:
    annotate = getattr(func, "__annotate__", None)
    if annotate is None:
        return {"__annotations__": func.__annotations__}
    return _unevaluated(annotate, func, needs)


def _unevaluated(annotate: Any, owner: Any, needs: Needs | None) -> dict[str, Any]:
    """Return what evaluates annotations (since CPython 3.14) in a form that can be sent, and evaluate nothing.

    They may name what only type checkers import. Within a class it closes over all of the class's namespace, where
    it looks names up first; what it finds of those there goes with it. Where a library has made it (for a dataclass's
    `__init__`, say), the annotations go, with references in the place of what cannot be evaluated.
    """
    if not isinstance(annotate, FunctionType) or not is_dynamic(annotate):
        return {"__annotate__": annotate}
    if annotate.__globals__.get("__name__") != owner.__module__:
        from annotationlib import Format, call_annotate_function  # type: ignore[import-not-found]

        return {"__annotations__": call_annotate_function(annotate, Format.FORWARDREF, owner=owner)}
    if annotate.__closure__ is None:
        return {"__annotate__": annotate}
    cells = dict(zip(annotate.__code__.co_freevars, annotate.__closure__, strict=True))
    scope = cells.get("__classdict__")
    if scope is not None:
        try:
            found = scope.cell_contents
            cells["__classdict__"] = CellType({n: found[n] for n in annotate.__code__.co_names if n in found})
        except ValueError:  # The class is still being made.
            pass
    if needs is not None:
        needs.structure(cells.values())
    sent = FunctionType(
        annotate.__code__,
        annotate.__globals__,
        annotate.__name__,
        annotate.__defaults__,
        tuple(cells.values()),
    )
    sent.__qualname__, sent.__module__ = annotate.__qualname__, annotate.__module__
    return {"__annotate__": sent}


def reduce_reference(reference: Any) -> tuple[Any, ...]:
    """Take a forward reference of an annotation apart (since CPython 3.14): it holds all globals, for whoever evaluates
    it, which are those of its namespace there.
    """
    variables, names = reference.__globals__, reference.__extra_names__
    key = None if variables is None else namespace_key(variables)
    made = (
        reference.__forward_arg__,
        reference.__forward_module__,
        reference.__forward_is_argument__,
        reference.__forward_is_class__,
    )
    cells = reference.__cell__
    if isinstance(cells, dict):  # The class's namespace is found by its owner.
        cells = {name: cell for name, cell in cells.items() if name != "__classdict__"}
    state = (key, names, reference.__owner__, cells)
    return make_reference, made, state, None, None, set_reference


def make_reference(text: str, module: str | None, is_argument: bool, is_class: bool) -> Any:
    """Build a forward reference of which nothing is known but its text."""
    from annotationlib import ForwardRef

    return ForwardRef(text, module=module, is_argument=is_argument, is_class=is_class)


def set_reference(reference: Any, state: tuple[Any, ...]) -> None:
    """Tell a forward reference where to look names up."""
    key, reference.__extra_names__, reference.__owner__, reference.__cell__ = state
    if key is not None:
        reference.__globals__ = namespace(key, {})


def make_function(identity: str | None, code: CodeType, name: str, key: str, base: dict[str, Any]) -> Any:
    """Build a function without its state, or find the one that is here already."""
    found = existing(identity, name)
    if isinstance(found, FunctionType):
        return found
    closure = tuple(CellType() for _ in code.co_freevars) or None
    func = FunctionType(code, namespace(key, base), name, None, closure)
    return func if identity is None else remember(identity, func)


def set_function(func: FunctionType, state: dict[str, Any]) -> None:
    """Give a function its state, or bring what it shares with others up to date if it was here already."""
    identity, origin = state["identity"], state["origin"]
    if is_ours(identity):
        return
    follow(state["namespace"], origin, state["globals"], func.__globals__)
    settled = settle(identity, origin)
    if identity is None:
        func.__dict__.update(state["dict"])
    else:
        follow(identity, origin, state["dict"], func, fresh=not settled)
    if settled:
        return
    for cell, sent in zip(func.__closure__ or (), state["closure"] or (), strict=True):
        try:
            cell.cell_contents = sent.cell_contents
        except ValueError:  # Empty: its variable has not been assigned yet.
            continue
    for name, value in state["slots"].items():
        setattr(func, name, value)


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
        bind = versions("__main__", {name: cached})
    made = (identity, options["maxsize"], options["typed"], arguments)
    return make_cached, made, (identity, bind, state), None, None, set_cached


def make_cached(identity: str | None, size: int | None, typed: bool, arguments: tuple[Any, ...]) -> Any:
    """Build a cache around a function that has no state yet, or find the one that is here already."""
    found = existing(identity, arguments[2])
    if isinstance(found, CachedFunction):
        return found
    from functools import lru_cache

    cached = lru_cache(size, typed)(make_function(*arguments))
    return cached if identity is None else remember(identity, cached)


def set_cached(cached: Any, state: tuple[str | None, Versions, dict[str, Any]]) -> None:
    """Give the function within its state, and the cache the function's names."""
    from functools import update_wrapper

    identity, bind, inner = state
    if is_ours(identity):
        return
    settle(identity, inner["origin"])
    func = cached.__wrapped__
    set_function(func, inner)
    update_wrapper(cached, func)
    follow("__main__", inner["origin"], bind, func.__globals__)


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
    attributes.pop("__annotate_func__", None)
    annotate = cls.__dict__.get("__annotate_func__")
    annotations = {}
    if annotate is not None:
        annotations = _unevaluated(annotate, cls, needs)
        attributes.pop("__annotations_cache__", None)
    if needs is not None:
        needs.type(cls, attributes)
    if identity is not None:
        attributes = {**versions(identity, attributes, structure=True), **gone(identity, cls.__dict__)}
    bind = {}
    if cls.__module__ in MAIN_MODULES and main_namespace().get(cls.__qualname__) is cls:
        bind = versions("__main__", {cls.__qualname__: cls})
    state = {
        "identity": identity,
        "origin": os.getpid(),
        "attributes": attributes,
        "registry": registry,
        "annotations": annotations,
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
    found = existing(identity, qualname)
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
    return cls if identity is None else remember(identity, cls)


def set_class(cls: Any, state: dict[str, Any]) -> None:
    """Give a class its attributes, or bring them up to date if it was here already."""
    identity, origin, attributes = state["identity"], state["origin"], state["attributes"]
    if is_ours(identity):
        return
    settled = settle(identity, origin)
    line = attributes.get("__firstlineno__")
    if identity is None:
        for name, value in attributes.items():
            setattr(cls, name, value)
    else:
        line = line and line[1]
        follow(identity, origin, attributes, cls, fresh=not settled)
    if not settled and line is not None:
        cls.__firstlineno__ = line  # Deleted by assigning __module__.
    for name, value in state["annotations"].items() if not settled else ():
        setattr(cls, name, value)
    for subclass in state["registry"] or ():
        cls.register(subclass)
    if state["bind"]:
        follow("__main__", origin, state["bind"], main_namespace())
