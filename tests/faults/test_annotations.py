"""Definitions of `__main__` whose annotations name what only type checkers import: they cross unevaluated.

Since CPython 3.14 such a name may stand there as it is; before, it is a text.
"""

from __future__ import annotations

import sys

import pytest

LAZY = sys.version_info >= (3, 14)

PROGRAM = """
import abc, dataclasses, enum, functools, typing
import forklift
if typing.TYPE_CHECKING:
    from nowhere import Thing
def plain(x: Thing, *rest: list[Thing], named: Thing = 2) -> Thing:
    return x + named
@functools.wraps(plain)
def wrapped(x: Thing) -> Thing:
    return plain(x)
@functools.lru_cache
def cached(x: Thing) -> Thing:
    return x
class Model:
    a: Thing
    b: int = 3
    class Inner:
        c: Thing
    inner: Inner
    def method(self, x: Thing, inner: Inner) -> Model:
        return self.b + x
    @classmethod
    def made(cls, x: Thing) -> Thing:
        return cls()
    @staticmethod
    def static(x: Thing) -> Thing:
        return x
    @property
    def prop(self) -> Thing:
        return self.b
class Child(Model):
    d: Thing
    def method(self, x: Thing) -> Thing:
        return super().method(x, None)
class Abstract(abc.ABC):
    @abc.abstractmethod
    def f(self, x: Thing) -> Thing: ...
class Concrete(Abstract):
    def f(self, x: Thing) -> Thing:
        return x
@dataclasses.dataclass
class Record:
    a: Thing
    b: int = 2
    c: list[Thing] = dataclasses.field(default_factory=list)
@dataclasses.dataclass(frozen=True, slots=True)
class Slotted(typing.Generic[typing.TypeVar("T")]):
    a: Thing
class Row(typing.NamedTuple):
    a: Thing
    b: int = 1
class Options(typing.TypedDict):
    a: Thing
class Color(enum.Enum):
    RED = 1
    def mixed(self, other: Thing) -> Thing:
        return self.value
def local():
    class Local:
        a: Thing
        def f(self, x: Thing, other: Local) -> Thing:
            return x
    def inner(x: Thing) -> Local:
        return Local().f(x, None)
    return Local, inner
Local, inner = local()
def f(x):
    assert isinstance(x, (Model, Record, Row, Color, Slotted, Concrete, Local)), x
    return (
        plain(1), wrapped(2), cached(3), Model().method(1, None), Child().method(2), Model.made(1).prop,
        Model.static(4), Concrete().f(5), Record(1).b, dataclasses.replace(Record(6), b=7).b, Row(8).b,
        Options(a=1)["a"], Color.RED.mixed(1), inner(9), Slotted(10).a,
    )
items = [Model(), Child(), Record(1), Record(2, 3, [4]), Row(5), Color.RED, Slotted(6), Concrete(), Local()]
wanted = (3, 4, 3, 4, 5, 3, 4, 5, 2, 7, 1, 1, 1, 9, 10)
assert f(items[0]) == wanted
def program():
    with forklift.Pool(2) as pool, forklift.Executor(1) as executor:
        for _ in range(2):
            assert pool.map(f, items, chunksize=1) == [wanted] * len(items)
            assert list(pool.imap(f, iter(items))) == [wanted] * len(items)
            assert list(executor.map(f, items)) == [wanted] * len(items)
            assert executor.submit(f, items[0]).result() == wanted
        back = pool.map(lambda x: x, items, chunksize=1)
        assert [type(x) for x in back] == [type(x) for x in items] and back[2:6] == items[2:6]
        assert pool.apply(inner, (1,)) == 1 and pool.apply(Model().method, (1, None)) == 4
        assert forklift.map(plain, [1], processes=1) == [3]
    pool.join()
"""


@pytest.mark.parametrize(("via", "guard"), [("file", True), ("file", False), ("stdin", False), ("-c", False)])
def test_what_cannot_be_evaluated_crosses_as_it_stands(scripts, via, guard):
    source = PROGRAM
    if not LAZY:
        for annotation in ("list[Thing]", "Thing", "Model", "Inner", "Local"):
            for before, after in ((": ", ""), ("-> ", "")):
                source = source.replace(f"{before}{annotation}{after}", f"{before}'{annotation}'{after}")
    start = 'if __name__ == "__main__":\n    program()\n' if guard else "program()\n"
    scripts.run(source + start, via=via).check()


@pytest.mark.skipif(not LAZY, reason="annotations are evaluated where they stand before CPython 3.14")
def test_annotations_are_the_same_in_the_worker(scripts):
    scripts.run(
        PROGRAM
        + """
import annotationlib
from annotationlib import Format, get_annotations
Word = int
def names(_):
    return [
        {name: getattr(value, "__forward_arg__", repr(value).partition(" at 0x")[0])
         for name, value in get_annotations(one, format=form).items()}
        for one in (plain, wrapped, Model, Model.method, Model.Inner, Child, Record, Row, Local, Local.f, inner, late)
        for form in (Format.STRING, Format.FORWARDREF)
        # What a library has made of annotations crosses as references.
        if (one, form) != (Row, Format.STRING)
    ]
def late(x: Later, y: Word = 1) -> list[Word]:
    return Model.method.__annotations__ if x else late.__annotations__
def fields(_):
    return [getattr(field.type, "__forward_arg__", repr(field.type)) for field in dataclasses.fields(Record)]
with forklift.Pool(1) as pool:
    for there, here in zip(pool.apply(names, (1,)), names(1), strict=True):
        assert there == here, (there, here)
    assert pool.apply(fields, (1,)) == fields(1)
    assert Record.__dataclass_fields__["a"].type.__owner__ is Record
    try:
        pool.apply(late, (0,))
        raise AssertionError
    except NameError as error:
        assert "Later" in str(error)
    Later = Thing = str
    assert pool.apply(late, (0,)) == {"x": str, "y": int, "return": list[int]} == late(0)
    assert pool.apply(late, (1,)) == late(1) == {"x": str, "inner": Model.Inner, "return": Model}
pool.join()
"""
    ).check()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is that of CPython 3.12")
def test_parameters_of_types(scripts):
    thing = "Thing" if LAZY else "'Thing'"
    scripts.run(f"""
    import forklift
    class Box[T]:
        content: T
        other: {thing}
        def __init__(self, content: T) -> None:
            self.content = content
        def get[U](self, other: U) -> T:
            return self.content
    def f[T](box: Box[T]) -> T:
        return box.get(1)
    with forklift.Pool(1) as pool:
        assert pool.map(f, [Box(1), Box("2")]) == [1, "2"]
        assert type(pool.apply(Box, (3,))) is Box
    """).check()
