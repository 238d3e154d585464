"""Whole programs that call one-liners and joblib again, with settings that have changed or only look the same."""

from __future__ import annotations

import pytest

PROGRAM = """
import joblib, numpy
import forklift
forklift.register_joblib()
class Config:
    def __init__(self, scale):
        self.scale = scale
    def __eq__(self, other):
        return True
    def __hash__(self):
        return 1
    factor = 1
def init(*args):
    global given
    given = args
    setups.append(args)
setups = []
def read(x):
    return type(given[0]), repr(vars(given[0]) if isinstance(given[0], Config) else given[0]), os.getpid()
def wanted(value):
    return type(value), repr(vars(value) if isinstance(value, Config) else value)
def by_map(*args, init=init):
    return forklift.map(read, range(4), processes=1, initializer=init, initargs=args)
def by_starmap(*args, init=init):
    return forklift.starmap(read, [(x,) for x in range(4)], processes=1, initializer=init, initargs=args)
def by_joblib(*args, init=init):
    with joblib.parallel_config("forklift", n_jobs=2, initializer=init, initargs=args):
        return joblib.Parallel()(joblib.delayed(read)(x) for x in range(4))
def call(*args, init=init):
    got = {route}(*args, init=init)
    assert {{one[:2] for one in got}} == {{wanted(args[0])}}, (got, args)
    return {{one[2] for one in got}}
def program():
{body}
"""

ROUTES = pytest.mark.parametrize("route", ["by_map", "by_starmap", "by_joblib"])


def run(scripts, route, body, guard):
    lines = "\n".join("    " + line for line in body.strip("\n").split("\n"))
    start = 'if __name__ == "__main__":\n    program()\n' if guard else "program()\n"
    scripts.run(PROGRAM.format(route=route, body=lines) + start).check()


@pytest.mark.parametrize("guard", [True, False], ids=["guard", "no guard"])
@ROUTES
def test_what_was_changed_in_place_makes_new_workers(scripts, route, guard):
    body = """
config, array, deep = Config(1), numpy.zeros(3), [{"n": [0]}]
for n in range(2, 5):
    config.scale = n
    first = call(config)
    # Nothing has changed: the workers are those of before. (joblib may not have asked both the first time.)
    assert len(first | call(config) | call(Config(n))) <= 2
    array[1] = n
    assert not first & call(array)
    deep[0]["n"][0] = n
    call(deep)
"""
    run(scripts, route, body, guard)


@ROUTES
def test_what_is_equal_need_not_be_the_same(scripts, route):
    body = """
for value in (1, True, 1.0, Config(1), Config(2), 0.0, -0.0, "1", b"1", (1, True), (True, 1), numpy.float64(1.0)):
    call(value)
nan = float("nan")
assert len(call(nan) | call(float("nan"))) <= 2
assert len(call([1, 2]) | call([1, 2])) <= 2
class Refusing:
    def __eq__(self, other):
        raise ValueError("no comparing")
    def __hash__(self):
        raise ValueError("no hashing")
    def __repr__(self):
        return "refusing"
call(Refusing())
"""
    run(scripts, route, body, False)


@ROUTES
def test_what_the_initializer_reads_is_part_of_it(scripts, route):
    body = """
scale = [1]
def make():
    def from_closure(config):
        init(Config(scale[0]))
    return from_closure
held = make()
for n in (1, 2, 3):
    scale[0] = n
    first = call(Config(n), init=held)
    assert len(first | call(Config(n), init=held)) <= 2
"""
    run(scripts, route, body, False)


def test_globals_that_an_initializer_reads(scripts):
    scripts.run("""
    import forklift
    params, made = {"n": 0}, {}
    def init():
        made["n"] = params["n"]
    def read(x):
        return made["n"], params["n"], os.getpid()
    for n in range(3):
        params["n"] = n
        first = forklift.map(read, range(4), processes=1, initializer=init)
        assert {one[:2] for one in first} == {(n, n)}
        assert forklift.map(read, range(4), processes=1, initializer=init) == first
    """).check()


def test_settings_that_cannot_be_pickled_are_for_one_call(scripts):
    scripts.run("""
    import multiprocessing
    import forklift
    def init(lock, value):
        global given
        given = value
    def read(x):
        return given[0]
    lock, value = multiprocessing.Lock(), [1]
    for n in range(3):
        value[0] = n
        options = {"processes": 1, "context": "fork", "initializer": init, "initargs": (lock, value)}
        assert forklift.map(read, range(4), **options) == [n] * 4
    """).check()
