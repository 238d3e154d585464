"""Whole programs whose functions and classes travel by value: what workers see of them, and when."""

from __future__ import annotations

import pytest

STARTED = pytest.mark.parametrize(
    ("via", "guard"), [("file", True), ("file", False), ("stdin", False), ("-c", False)]
)

#: Ways to have a function of one argument called by two workers, as an expression for the list of results.
ROUTES = {
    "map": "pool.map(f, items, chunksize=1)",
    "starmap": "pool.starmap(f, [(x,) for x in items], chunksize=1)",
    "imap": "list(pool.imap(f, iter(items), chunksize=1))",
    "apply": "[pool.apply(f, (x,)) for x in items]",
    "submit": "[executor.submit(f, x).result() for x in items]",
    "Executor.map": "list(executor.map(f, items))",
    "one-liner": "forklift.map(f, items, processes=2, chunksize=1)",
    "joblib": "joblib.Parallel(n_jobs=2, backend='forklift')(joblib.delayed(f)(x) for x in items)",
    "inherited": "pool.map(f, items, inherit=True)",
    "forked": "forked.map(f, items, chunksize=1)",
    "recycled": "recycled.map(f, items, chunksize=1)",
}

PROGRAM = """\
import warnings
import forklift, joblib
warnings.simplefilter("ignore", RuntimeWarning)  # inherit=True beside threads of joblib and executors
forklift.register_joblib()
{definitions}
def program():
    executor = forklift.Executor(2)
    with forklift.Pool(2) as pool, forklift.Pool(2, context="fork") as forked, executor:
        with forklift.Pool(2, maxtasksperchild=3) as recycled:
{body}
    for ended in (pool, forked, recycled):
        ended.join()
{start}
"""


def program(definitions: str, body: str, guard: bool) -> str:
    start = 'if __name__ == "__main__":\n    program()' if guard else "program()"
    lines = "\n".join(" " * 12 + line for line in body.strip("\n").split("\n"))
    return PROGRAM.format(definitions=definitions, body=lines, start=start)


# Changed in place -------------------------------------------------------------------------------------------------

CHANGING = """
import types
params = {"n": 0}
class Settings:
    pass
settings = Settings()
settings.deep = {"list": [0]}
class Model:
    table = []
    options = {"n": 0}
    def method(self):
        return 0
    def read(self):
        return len(self.table), self.options["n"], self.method(), other()
class Child(Model):
    def read(self):
        return super().read()
def other():
    return params["n"]
module = types.ModuleType("made_here")
module.n = 0
bare = 0
def f(x, default=[0], *, named={"n": 0}):
    return (
        params["n"], settings.deep["list"][0], bare, Model().read(), Child().read(), default[0], named["n"],
        f.mark["n"], module.n, inner(), counted[0],
    )
f.mark = {"n": 0}
table = {"n": 0}
def inner():
    def innermost():
        return table["n"]
    return innermost()
counted = [0]
def change():
    global bare
    n = bare + 1
    bare = params["n"] = settings.deep["list"][0] = Model.options["n"] = f.mark["n"] = module.n = table["n"] = n
    Model.table.append(n)
    Model.method = eval(f"lambda self: {n}")
    f.__defaults__[0][0] = f.__kwdefaults__["named"]["n"] = counted[0] = n
items = range(6)
"""


@STARTED
def test_what_was_changed_in_place_is_seen_by_all_workers(scripts, via, guard):
    """Contract, clause 3. Each route meets workers that have an older state, from it and from the others."""
    checks = [
        f"change()\ngot = {route}\nassert got == [f(0)] * len(items), ({name!r}, got[0], f(0))"
        for name, route in ROUTES.items()
    ]
    body = "\n".join("\n".join(check.split("\n")) for check in checks)
    looped = "for _ in range(2):\n" + "\n".join("    " + line for line in body.split("\n"))
    scripts.run(program(CHANGING, looped, guard), via=via).check()


def test_items_and_methods_bring_the_state_of_their_classes(scripts):
    body = """
    for _ in range(3):
        change()
        for item in (Model(), Child()):
            wanted = item.read()
            assert pool.map(type(item).read, [item] * 6, chunksize=1) == [wanted] * 6
            assert list(pool.imap(lambda x: x.read(), (item for _ in range(6)))) == [wanted] * 6
            assert pool.apply(item.read) == wanted
            assert executor.submit(item.read).result() == wanted
    del Model.options["n"], Model.method
    Model.method = lambda self: 5
    def look(cls):
        return cls.options, cls.method(None)
    assert pool.map(look, [Model, Child] * 3, chunksize=1) == [({}, 5)] * 6
    del Model.method
    assert pool.map(lambda m: hasattr(m, "method"), [Model(), Child()] * 3, chunksize=1) == [False] * 6
    """
    scripts.run(program(CHANGING, "\n".join(body.split("\n    ")), False)).check()


def test_a_global_that_was_deleted_is_missing_in_all_workers(scripts):
    scripts.run("""
    import forklift
    value = [1]
    def read(x):
        return globals().get("value"), value
    def missing(x):
        try:
            return value
        except NameError:
            return "missing"
    with forklift.Pool(2) as pool:
        assert pool.map(read, range(6), chunksize=1) == [([1], [1])] * 6
        assert pool.map(missing, range(6), chunksize=1) == [[1]] * 6
        del value
        assert pool.map(missing, range(6), chunksize=1) == ["missing"] * 6
        value = 3
        assert pool.map(missing, range(6), chunksize=1) == [3] * 6
    """).check()


def test_what_a_worker_made_of_a_global_stays_until_the_caller_changes_it(scripts):
    scripts.run("""
    import forklift
    cache, params, seen, model = {}, {"n": 0}, [], {}
    def setup(value):
        model["value"] = value
    def f(x, calls=[]):
        cache[x] = True
        seen.append(x)
        calls.append(x)
        return len(cache), len(seen), len(calls), params["n"], model["value"]
    with forklift.Pool(1, setup, (7,)) as pool, forklift.Pool(1, setup, (7,), context="fork") as forked:
        for each in (pool, forked):
            params["n"] = 0
            assert [each.apply(f, (x,)) for x in "ab"] == [(1, 1, 1, 0, 7), (2, 2, 2, 0, 7)]
            params["n"] = 1
            assert each.map(f, "c") == [(3, 3, 3, 1, 7)]
            seen.extend("12345")
            assert each.map(f, "d") == [(4, 6, 4, 1, 7)]
            seen.clear()
            f.__defaults__[0].append("mine")
            assert each.map(f, "e") == [(5, 1, 2, 1, 7)]
            f.__defaults__[0].clear()
            assert (cache, seen, model) == ({}, [], {})
    """).check()


def test_calls_that_overlap_see_each_its_own_moment(scripts):
    """Clause 3, for workers that go from one call to another and back."""
    scripts.run("""
    import forklift
    params, bare, seen = {"n": 0}, 0, []
    class Model:
        options = [0]
        def read(self):
            return params["n"], bare, self.options[0]
    def f(item):
        return item.read(), Model().read(), os.getpid()
    def count(x):
        seen.append(x)
        return len(seen), params["n"]
    with forklift.Pool(2) as pool:
        running = []
        for n in range(5):
            params["n"] = bare = Model.options[0] = n
            items = [Model() for _ in range(40)]
            running.append(pool.imap_unordered(f, items, chunksize=1, buffersize=2))
        results = [list(got) for got in zip(*running)]
        for n, got in enumerate(zip(*results)):
            assert {(one, other) for one, other, _ in got} == {((n, n, n), (n, n, n))}, (n, got[:3])
            assert len(got) == 40
    with forklift.Pool(1) as pool:
        params["n"] = 1
        slow = pool.imap(count, range(4), chunksize=1, buffersize=1)
        got = [next(slow)]
        params["n"] = 2
        seen.append("the caller's")
        assert pool.map(count, range(2), chunksize=1) == [(2, 2), (3, 2)]
        assert [*got, *slow] == [(1, 1), (2, 1), (3, 1), (4, 1)]
        assert pool.map(count, range(1)) == [(4, 2)]
    """).check()


def test_threads_that_call_while_a_global_changes(scripts):
    scripts.run("""
    import threading
    import forklift
    params = {"n": 0, "same": 0}
    def f(x):
        return params["n"]
    results = []
    def work(pool):
        for _ in range(20):
            results.append(set(pool.map(f, range(6), chunksize=1)))
    with forklift.Pool(2) as pool:
        threads = [threading.Thread(target=work, args=(pool,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            params["n"] += 1
        assert len(results) == 40 and all(len(values) == 1 for values in results), results
    """).check()


def test_large_and_strange_globals(scripts):
    """What is too large to ride along, what needs cloudpickle, what is never pickled the same twice."""
    scripts.run("""
    import forklift, numpy
    array = numpy.zeros(100_000)
    part = numpy.zeros((300, 300))[::2, ::3]
    names = ["x" * 100_000, 0]
    with forklift.shared_arrays():
        shared = numpy.zeros(100_000)
    def closing(box):
        return lambda: box[0]
    box = [0]
    closure = closing(box)
    class Restless:
        n = 0
        def __reduce__(self):
            Restless.n += 1
            return str, (str(Restless.n),)
    restless = Restless()
    class Loop:
        pass
    loop = Loop()
    loop.self, loop.n = loop, 0
    def f(x):
        return array[-1], part[-1, -1], names[1], shared[-1], closure(), loop.self.n, type(restless) is str
    with forklift.Pool(2) as pool:
        for n in range(1, 4):
            array[-1] = part[-1, -1] = names[1] = shared[-1] = box[0] = loop.n = n
            assert pool.map(f, range(6), chunksize=1) == [(n,) * 6 + (True,)] * 6
            assert pool.apply(f, (0,)) == (n,) * 6 + (True,)
    """).check()


def test_a_call_on_unchanged_globals_reads_no_definition_again(scripts):
    """It stays as cheap as ever: one small blob that workers know."""
    scripts.run("""
    import forklift
    from forklift import _pickling
    params, numbers = {"n": 1}, (1, 2)
    class Model:
        table = [1]
        def read(self):
            return len(self.table) + params["n"] + len(numbers)
    def f(x):
        return Model().read()
    def read_so_far(x):
        return {key: told[0] for key, told in __import__("forklift._pickling")._pickling._loaded.items()}
    with forklift.Pool(1) as pool:
        assert pool.apply(f, (0,)) == 4
        before, editions = pool.apply(read_so_far, (0,)), _pickling._editions
        for _ in range(5):
            assert pool.map(f, range(3)) == [4] * 3
        assert pool.apply(read_so_far, (0,)) == before and _pickling._editions == editions
        params["n"] = 2
        assert pool.map(f, range(3)) == [5] * 3
        assert _pickling._editions == editions + 1
    """).check()


def test_a_call_that_waits_was_made_when_it_was_submitted(scripts):
    """An executor holds back what its pool has no room for."""
    scripts.run("""
    import forklift
    params, bare = {"n": 0}, 0
    class Model:
        options = [0]
        def __init__(self, x):
            self.seen = params["n"], bare, Model.options[0]
    def f(x):
        return params["n"], bare, Model(x).seen
    def wait(name):
        await_mark(name)
    with forklift.Executor(1) as executor:
        busy = executor.submit(wait, "go")
        futures = []
        for n in range(20):
            params["n"] = bare = Model.options[0] = n
            futures.append((n, executor.submit(f, n), executor.submit(Model, n)))
        mark("go")
        for n, called, made in futures:
            assert called.result() == (n, n, (n, n, n)), (n, called.result())
            assert made.result().seen == (n, n, n)
    """).check()


def test_results_of_forked_workers_are_of_the_callers_classes(scripts):
    """Also of classes that no call has sent."""
    scripts.run("""
    import forklift
    class Thing:
        class Part:
            pass
    class Other(Thing):
        pass
    def make(x):
        return Thing(), Thing.Part(), Other(), Thing, make
    def program():
        class Local:
            pass
        with forklift.Pool(1) as pool, forklift.Pool(1, context="fork") as forked:
            for thing, part, other, cls, function in [
                *pool.map(make, range(2), inherit=True), *forked.map(make, range(2))
            ]:
                assert (type(thing), type(part), type(other)) == (Thing, Thing.Part, Other)
                assert cls is Thing and function is make
            assert type(pool.map(lambda x: x, [Local()], inherit=True)[0]) is Local
    program()
    """).check()
