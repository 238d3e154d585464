"""Pools, executors and one-liners within a worker, with functions and classes of the program that started it all."""

from __future__ import annotations

import pytest

NESTED = """
import forklift
class Point:
    scale = 10
    def __init__(self, n):
        self.n = n
    def twice(self):
        return Point(2 * self.n)
offset = {"n": 3}
def leaf(point):
    assert type(point) is Point
    return Point(point.n + offset["n"] + Point.scale)
"""

WITHIN = {
    "map": "with forklift.Pool(1) as pool: return pool.map(leaf, [p, Point(p.n)])",
    "imap": "with forklift.Pool(1) as pool: return list(pool.imap(leaf, iter([p, Point(p.n)])))",
    "apply": "with forklift.Pool(1) as pool: return [pool.apply(leaf, (p,)), pool.apply(lambda q: leaf(q), (p,))]",
    "initializer": (
        "with forklift.Pool(1, offset.update, ({'n': 3},)) as pool: return pool.map(leaf, [p, Point(p.n)])"
    ),
    "fork": "with forklift.Pool(1, context='fork') as pool: return pool.map(leaf, [p, Point(p.n)])",
    "spawn": "with forklift.Pool(1, context='spawn') as pool: return pool.map(leaf, [p, Point(p.n)])",
    "inherited": "with forklift.Pool(1) as pool: return pool.map(leaf, [p, Point(p.n)], inherit=True)",
    "Executor.map": "with forklift.Executor(1) as executor: return list(executor.map(leaf, [p, Point(p.n)]))",
    "submit": (
        "with forklift.Executor(1) as executor: "
        "return [executor.submit(leaf, p).result(), executor.submit(leaf, Point(p.n)).result()]"
    ),
    "one-liner": "return forklift.map(leaf, [p, Point(p.n)], processes=1)",
    "joblib": (
        "import joblib; forklift.register_joblib(); "
        "return joblib.Parallel(n_jobs=2, backend='forklift')(joblib.delayed(leaf)(q) for q in [p, Point(p.n)])"
    ),
}


CHECK = """
def deep1(p):
    with forklift.Pool(1) as pool:
        return pool.map(deep0, [p])[0]
def deep2(p):
    with forklift.Executor(1) as executor:
        return executor.submit(deep1, p).result()
def program():
    with forklift.Pool(1) as pool:
        for f in (deep0, deep1, deep2):
            got = pool.map(f, [Point(1)])[0]
            assert all(type(point) is Point for point in got) and [point.n for point in got] == [14, 14], got
        offset["n"] = Point.scale = 0
        got = pool.map(deep1, [Point(1)])[0]
        assert [type(point) for point in got] == [Point, Point], got
    pool.join()
"""


@pytest.mark.parametrize(("via", "guard"), [("file", True), ("-c", False)])
@pytest.mark.parametrize("within", WITHIN.values(), ids=WITHIN)
def test_a_pool_within_a_worker_at_any_depth(scripts, via, guard, within):
    start = 'if __name__ == "__main__":\n    program()' if guard else "program()"
    scripts.run(f"{NESTED}def deep0(p):\n    {within}\n{CHECK}{start}\n", via=via).check()
