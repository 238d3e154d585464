"""Definitions of `__main__` in two processes: what is shared, what is kept, what comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.stage import run


def test_initializer_and_function_share_the_globals_of_main(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        model = None
        def init(value):
            global model
            model = [value]
        def work(x):
            return model[0] + x
        with Worker() as worker:
            worker.call(init, 40)
            assert worker.call(work, 2) == 42
            assert worker.call(lambda: model) == [40]
            assert model is None
            assert "model" in worker.call(lambda: vars(__import__("__main__")))
        """,
    )


def test_a_global_that_the_parent_never_defined_is_the_workers_own(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        def init():
            global model
            model = 1
        def work():
            return model
        def sneak():
            globals()["hidden"] = "mine"
        hidden = "theirs"
        def look():
            return hidden
        with Worker() as worker:
            worker.call(init)
            assert worker.call(work) == 1
            assert "model" not in globals()
            worker.call(sneak)
            assert worker.call(look) == "mine"
            hidden = "theirs again"
            assert worker.call(look) == "theirs again"
        """,
    )


def test_a_worker_keeps_what_it_did_to_a_global_until_the_parent_rebinds_it(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        counter = 0
        cache = {}
        numbers = [0]
        def count(key):
            global counter
            counter += 1
            cache[key] = counter
            numbers[0] += 1
            return counter, len(cache), numbers[0]
        with Worker() as worker:
            assert worker.call(count, "a") == (1, 1, 1)
            assert worker.call(count, "b") == (2, 2, 2)
            assert (counter, cache, numbers) == (0, {}, [0])
            counter = 100
            assert worker.call(count, "c") == (101, 3, 3)
            cache = {}
            numbers = [50]
            assert worker.call(count, "d") == (102, 1, 51)
        """,
    )


def test_a_redefinition_arrives_with_the_next_call(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        def helper(x):
            return x + 1
        def work(x):
            return helper(x)
        with Worker() as worker:
            assert worker.call(work, 1) == 2
            def helper(x):
                return x + 10
            assert worker.call(work, 1) == 11
            assert worker.call(helper, 1) == 11
            del helper
            def late(x):
                return later(x)
            try:
                worker.call(late, 1)
            except NameError:
                pass
            def later(x):
                return -x
            assert worker.call(late, 1) == -1
            assert worker.ways == ["fast"] * len(worker.ways)
        """,
    )


def test_recursion_closures_decorators_partials(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        import functools
        def even(n):
            return True if n == 0 else odd(n - 1)
        def odd(n):
            return False if n == 0 else even(n - 1)
        def fact(n):
            return 1 if n < 2 else n * fact(n - 1)
        def outer(n):
            def inner(x):
                return inner(x - 1) + n if x else 0
            return inner
        def twice(f):
            @functools.wraps(f)
            def wrapped(*args):
                return f(f(*args))
            return wrapped
        @twice
        def add(x):
            return x + 1
        def default(x, seen=[]):
            seen.append(x)
            return seen
        table = {"square": lambda x: x * x, "cube": [lambda x: x**3]}
        class Callable:
            def __init__(self, n):
                self.n = n
            def __call__(self, x):
                return fact(x) + self.n
            def method(self, x):
                return x - self.n
            @classmethod
            def make(cls, n):
                return cls(n)
            @staticmethod
            def plain(x):
                return fact(x)
        with Worker() as worker:
            assert worker.call(even, 10) and worker.call(fact, 5) == 120
            assert worker.call(outer(3), 4) == 12
            assert worker.call(add, 1) == 3
            assert worker.call(functools.partial(pow, 2), 3) == 8
            assert worker.call(functools.partial(fact), 4) == 24
            assert worker.call(lambda: table["square"](3) + table["cube"][0](2)) == 17
            assert worker.call(Callable(1), 3) == 7
            assert worker.call(Callable(1).method, 3) == 2
            assert worker.call(Callable.make, 3).n == 3
            assert worker.call(Callable.plain, 4) == 24
            assert worker.call(default, 1) == [1]
            assert worker.call(default, 2) == [1, 2]
            assert default.__defaults__ == ([],)
            f = outer(1)
            assert worker.call(f, 2) == 2
            f.__closure__[1].cell_contents = 5
            assert worker.call(f, 2) == 10
        """,
    )


def test_instances_come_back_as_instances_of_the_parents_class(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        import abc, collections, dataclasses, enum, typing
        Point = collections.namedtuple("Point", "x y")
        class Color(enum.Enum):
            RED = 1
            def hot(self):
                return self is Color.RED
        class Flag(enum.IntFlag):
            A = 1
            B = 2
        @dataclasses.dataclass
        class Item:
            name: str
            size: int = 3
            tags: list = dataclasses.field(default_factory=list)
            def bigger(self):
                return dataclasses.replace(self, size=self.size + ONE)
        @dataclasses.dataclass(frozen=True, slots=True)
        class Slotted:
            a: int
        class OldSlots:
            __slots__ = ("a", "__weakref__")
            def __init__(self, a):
                self.a = a
        class Base(abc.ABC):
            count = 0
            @abc.abstractmethod
            def f(self): ...
        class Child(Base):
            def __init__(self):
                super().__init__()
                type(self).count += 1
                self.count_there = type(self).count
            def f(self):
                return "f"
        T = typing.TypeVar("T")
        class Box(typing.Generic[T]):
            def __init__(self, content: T) -> None:
                self.content = content
        class Row(typing.NamedTuple):
            a: int = 1
        class Failure(Exception):
            def __init__(self, code, text):
                super().__init__(code, text)
                self.code = code
        ONE = 1
        def fail():
            raise Failure(3, "no")
        def same(x):
            return x
        def make_child():
            return Child()
        def is_item(x):
            return isinstance(x, Item) and type(x) is Item and dataclasses.is_dataclass(x) and x.bigger().size
        with Worker() as worker:
            for value in (Point(1, 2), Color.RED, Flag.A | Flag.B, Item("a"), Slotted(1), Row(2)):
                back = worker.call(same, value)
                assert type(back) is type(value) and back == value, (back, value)
            assert worker.call(Color.hot, Color.RED)
            assert worker.call(same, Color.RED) is Color.RED
            back = worker.call(same, OldSlots(5))
            assert type(back) is OldSlots and back.a == 5 and not hasattr(back, "__dict__")
            box = worker.call(same, Box(1))
            assert type(box) is Box and box.content == 1
            assert worker.call(is_item, Item("x")) == 4
            assert type(worker.call(Item.bigger, Item("x"))) is Item
            assert worker.call(make_child).count_there == 1
            child = worker.call(make_child)
            assert type(child) is Child and child.count_there == 2 and Child.count == 0
            try:
                worker.call(fail)
            except Failure as error:
                assert error.code == 3 and "fail()" not in repr(error) and "in fail" in str(error.__cause__)
            else:
                raise AssertionError
            # The very objects come back, and the worker has one of each, whatever message it came in.
            assert worker.call(same, [same, Item, Color]) == [same, Item, Color]
            def remember(cls):
                remember.seen.append(cls)
                return len(set(remember.seen))
            remember.seen = []
            assert [worker.call(remember, Item) for _ in range(3)] == [1, 1, 1]
            assert remember.seen == []
            import pickle
            def by_name(x):
                return pickle.loads(pickle.dumps(x))
            assert worker.call(by_name, Item("x")) == Item("x")
            Item.size = 77
            def size():
                return Item.size
            assert worker.call(size) == 77
        """,
    )


def test_class_of_the_worker_reaches_the_parent_and_goes_on(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        def make():
            class Local:
                def hello(self):
                    return "hello " + self.name
            local = Local()
            local.name = "you"
            return local
        def greet(x):
            return x.hello()
        def make_function():
            global made_there
            made_there = 5
            def late(x):
                return made_there + x
            return late
        with Worker() as worker:
            local = worker.call(make)
            assert local.hello() == "hello you"
            assert worker.call(greet, local) == "hello you"
            late = worker.call(make_function)
            assert late(1) == 6
        """,
    )


def test_the_parents_globals_are_never_overwritten(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        value = "parent"
        class Thing:
            kind = "parent"
        def helper():
            return value
        def work():
            global value
            value = "worker"
            Thing.kind = "worker"
            helper.mark = "worker"
            def give():
                return value, Thing.kind, helper
            return give, helper, Thing
        with Worker() as worker:
            give, there, thing = worker.call(work)
            assert value == "parent" and Thing.kind == "parent" and there is helper and thing is Thing
            assert not hasattr(helper, "mark")
            assert give() == ("parent", "parent", helper)
        """,
    )


def test_lru_cache_of_main_works_and_stays_warm(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        import functools
        calls = 0
        @functools.lru_cache(maxsize=None)
        def fib(n):
            global calls
            calls += 1
            return n if n < 2 else fib(n - 1) + fib(n - 2)
        def work(n):
            return fib(n), calls
        with Worker() as worker:
            assert worker.call(fib, 30) == 832040
            assert worker.call(work, 30) == (832040, 31)
            assert worker.call(fib.cache_info).misses == 31 if False else True
            assert calls == 0
        """,
    )


def test_modules_travel_as_references(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "sub.py").write_text("value = 7\ndef make():\n    return lambda x: x + value\n")
    run(
        tmp_path,
        """
        import os.path, package.sub
        def work():
            return package.sub.value, os.path.join("a", "b")
        with Worker() as worker:
            assert worker.call(work) == (7, "a/b")
            assert worker.call(package.sub.make(), 1) == 8
            assert worker.call(package.sub.make) (1) == 8
            assert worker.ways[0] == "fast"
        """,
    )


def test_simple_functions_need_cloudpickle_on_neither_side(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        import sys
        SCALE = 3
        def helper(x):
            return x * SCALE
        def work(x):
            return helper(x), "cloudpickle" in sys.modules
        with Worker() as worker:
            assert worker.call(work, 2) == (6, False)
            assert "cloudpickle" not in sys.modules
        """,
    )


def test_classes_ride_as_small_blobs_that_are_made_once(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        import dataclasses, sys, timeit
        @dataclasses.dataclass
        class Item:
            a: int
            def twice(self):
                return self.a * FACTOR
        FACTOR = 2
        def work(items):
            return [item.twice() for item in items]
        with Worker() as worker:
            for _ in range(3):
                assert worker.call(work, [Item(1), Item(2)]) == [2, 4]
            assert worker.ways == ["fast"] * 3
            FACTOR = 3
            assert worker.call(work, [Item(1)]) == [3]
            # A mutable global rides with it while it is small, else it is sent out of band, anew each time.
            FACTOR = [1]
            assert worker.call(work, [Item(1)]) == [[1]]
            FACTOR.append(2)
            assert worker.call(work, [Item(1)]) == [[1, 2]]
            assert worker.ways[-1] == "fast"
            FACTOR = ["x" * 100_000]
            assert worker.call(work, [Item(1)]) == [FACTOR]
            assert worker.ways[-1] == "cloud"
        """,
    )


def test_exec_namespaces_are_told_apart(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        first, second = {"__name__": "__main__"}, {"__name__": "__main__"}
        for number, variables in enumerate((first, second)):
            exec(f"x = {number}\\ndef f():\\n    global x\\n    x += 10\\n    return x", variables)
        with Worker() as worker:
            assert worker.call(lambda: (first["f"](), second["f"]())) == (10, 11)
            assert worker.call(first["f"]) == 20
            assert worker.call(second["f"]) == 21
            assert first["x"] == 0
        """,
    )


def test_large_globals_are_released_once_rebound(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        import weakref
        class Big(list): pass
        data = Big([1])
        plain = [2]
        def work():
            return data[0] + plain[0]
        with Worker() as worker:
            assert worker.call(work) == 3
            gone = weakref.ref(data)
            data = [5]
            assert gone() is None
            import gc, sys
            old, plain = plain, [3]
            assert worker.call(work) == 8
            assert sys.getrefcount(old) == 2, gc.get_referrers(old)
        """,
    )


@pytest.mark.parametrize("start", ["inherited", "late"])
def test_a_fork_of_the_parent_keeps_what_it_inherited(tmp_path: Path, start: str) -> None:
    """The fork context: definitions sent to a child that has them already are the child's own."""
    run(
        tmp_path,
        f"""
        import os, _pickle
        from forklift import _byvalue
        from tests.unit.stage import pickled
        state = "inherited"
        class Thing: pass
        thing = Thing()
        def look(x):
            return state, type(x) is Thing, type(x) is type(thing)
        if {start!r} == "inherited":
            pickled((look, (Thing(),)))
        reader, writer = os.pipe()
        answer, answer_in = os.pipe()
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _byvalue.become_worker(parent, inherited=True)
            while size := int.from_bytes(os.read(reader, 4), "little"):
                function, args = _pickle.loads(os.read(reader, size))
                os.write(answer_in, repr(function(*args)).encode())
            os._exit(0)
        def call(f, *args):
            _, data = pickled((f, args))
            os.write(writer, len(data).to_bytes(4, "little") + data)
            return os.read(answer, 10000).decode()
        assert call(look, Thing()) == "('inherited', True, True)", call(look, Thing())
        state = "rebound"
        assert call(look, Thing()) == "('rebound', True, True)"
        def look(x):
            return "redefined"
        assert call(look, 1) == "'redefined'"
        os.write(writer, bytes(4))
        os.waitpid(child, 0)
        """,
    )
