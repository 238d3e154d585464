"""map, starmap, apply: every shape of input, chunk size and result, in order."""

from __future__ import annotations

import functools
import math
import operator
import random
from collections import OrderedDict, defaultdict, deque
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest

from . import values, work

INPUTS = {
    "list": lambda: [3, 1, 2],
    "range": lambda: range(20),
    "tuple": lambda: (1, 2, 3),
    "generator": lambda: (i for i in range(17)),
    "iterator": lambda: iter([1, 2, 3]),
    "map object": lambda: map(abs, [-1, -2]),
    "empty list": list,
    "empty generator": lambda: iter(()),
    "one item": lambda: [7],
    "one None": lambda: [None],
    "string": lambda: "forklift",
    "bytes": lambda: b"abc",
    "dict": lambda: {"a": 1, "b": 2},
    "dict values": lambda: {"a": 1, "b": 2}.values(),
    "set": lambda: {1, 2, 3},
    "getitem": lambda: work.Squares(11),
    "nested": lambda: [[1, [2]], (3, {4: 5})],
    "deque": lambda: deque([1, 2, 3]),
}

VALUES: dict[str, Any] = {
    "none": None,
    "ellipsis": ...,
    "not implemented": NotImplemented,
    "bools": [True, False],
    "large ints": [2**64, -(2**64), 2**5000, -(2**5000)],
    "floats": [0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324],
    "complex": 3 - 4j,
    "text": ["", "ä€😀", "\0", "lone \ud800 surrogate", "x" * 70_000],
    "bytes": [b"", b"\0\xff", b"x" * 70_000, bytearray(b"abc"), bytearray(70_000)],
    "nested": {"a": [1, (2, {3: [4, {"b": ()}]})], None: {}, (1, 2): [[]]},
    "sets": [
        set(),
        {"a"},
        set(range(100)),
        frozenset({(1, 2)}),
    ],  # of one order only, for they are compared by repr
    "collections": [OrderedDict(a=1), defaultdict(list, a=[1]), deque([1], maxlen=3)],
    "numbers": [Decimal("1.10"), Fraction(1, 3)],
    "times": [datetime(2024, 2, 29, tzinfo=UTC), timedelta(microseconds=1)],
    "others": [range(1, 9, 2), slice(1, None), UUID(int=7), PurePosixPath("/a/b"), int, len, work.square],
    "classes": [values.Colour.GREEN, values.Point(1, 2), values.Record("r", [1, values.Record("s")])],
    "exceptions": [ValueError("not raised", 1), KeyError],
}

FUNCTIONS = {
    "builtin": len,
    "method of a type": str.upper,
    "class": list,
    "operator": operator.itemgetter(0),
    "partial": functools.partial(work.add, "left "),
    "partial of partial": functools.partial(functools.partial(work.collect, 1), key="k"),
}


def alike(a: Any, b: Any) -> bool:
    """Equality that also tells 1 from True, 0.0 from -0.0 and takes nan for itself."""
    return repr(a) == repr(b) and type(a) is type(b)


@pytest.mark.parametrize("chunksize", [None, 1, 3, 1000])
@pytest.mark.parametrize("items", INPUTS.values(), ids=INPUTS)
def test_map_equals_the_builtin(pool, items, chunksize):
    result = pool.map(work.identity, items(), chunksize)
    assert type(result) is list
    assert result == list(map(work.identity, items()))


@pytest.mark.parametrize("chunksize", [None, 1, 2, 7, 8, 99, 100, 101, 2**40])
def test_every_chunk_size_gives_the_same(pool, chunksize):
    assert pool.map(work.square, range(100), chunksize=chunksize) == [i * i for i in range(100)]


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_cross_both_ways(pool, value):
    there = pool.map(work.type_name, [value])
    assert there == [work.type_name(value)]
    (back,) = pool.map(work.identity, [value])
    assert alike(back, value)


def test_recursive_list(pool):
    loop: list[Any] = [1]
    loop.append(loop)
    (back,) = pool.map(work.identity, [loop])
    assert back[0] == 1 and back[1] is back


def test_identity_within_one_item_is_kept(pool):
    part = [1, 2]
    (back,) = pool.map(work.identity, [(part, part)])
    assert back[0] is back[1] and back[0] is not part


def test_arguments_are_copies(pool):
    items = [[0], [1]]
    results = pool.map(work.identity, items, 1)
    assert results == items and all(a is not b for a, b in zip(results, items, strict=True))


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_kinds_of_functions(pool, function):
    items = ["ab", "cde", "f"]
    assert pool.map(function, items) == list(map(function, items))


@pytest.mark.parametrize("attribute", ["__call__", "times", "twice", "thrice"])
def test_methods_as_functions(pool, attribute):
    function = getattr(values.Multiplier(5), attribute)
    assert pool.map(function, range(10)) == list(map(function, range(10)))


def test_callable_object(pool):
    assert pool.map(values.Multiplier(5), range(10)) == list(range(0, 50, 5))


def test_results_are_none(pool):
    assert pool.map(work.nothing, range(100)) == [None] * 100


def test_order_with_uneven_items(pool):
    jobs = [(index, 0.02 * (index % 3 == 0)) for index in range(40)]
    for chunksize in (None, 1, 3):
        assert pool.map(work.nap, jobs, chunksize) == list(range(40))


def test_very_many_tiny_items(pool):
    assert pool.map(work.square, range(50_000)) == [i * i for i in range(50_000)]


def test_many_tiny_items_from_a_generator(pool):
    assert sum(pool.map(work.identity, (i for i in range(50_000)))) == sum(range(50_000))


def test_many_calls_one_after_the_other(pool):
    for n in range(100):
        assert pool.map(work.square, range(n % 7)) == [i * i for i in range(n % 7)]


def test_items_and_results_of_mixed_size(pool):
    random.seed(20_240_501)
    items = [bytes([i % 256]) * random.choice([0, 1, 100, 5_000, 70_000, 400_000]) for i in range(200)]
    assert pool.map(work.identity, items) == items


def test_arguments_by_name(pool):
    assert pool.map(func=work.square, iterable=[2], chunksize=1) == [4]
    assert pool.starmap(func=work.add, iterable=[(1, 2)], chunksize=None) == [3]
    assert pool.apply(func=work.add, args=(), kwds={"a": 1, "b": 2}) == 3


STARS = {
    "tuples": lambda: [(1, 2), (3, 4)],
    "lists": lambda: [[1, 2], [3, 4]],
    "strings": lambda: ["ab", "cd"],
    "generator": lambda: ((n, n) for n in range(9)),
    "zip": lambda: zip(range(30), range(30), strict=True),
    "dicts": lambda: [{"a": 0, "b": 0}],
    "empty": list,
}


@pytest.mark.parametrize("chunksize", [None, 1, 4])
@pytest.mark.parametrize("items", STARS.values(), ids=STARS)
def test_starmap(pool, items, chunksize):
    assert pool.starmap(work.add, items(), chunksize) == [work.add(*item) for item in items()]


def test_starmap_of_empty_tuples(pool):
    assert pool.starmap(work.collect, [(), (1,), (1, 2, 3)]) == [((), {}), ((1,), {}), ((1, 2, 3), {})]


def test_starmap_of_very_many(pool):
    assert pool.starmap(work.add, ((i, i) for i in range(20_000))) == list(range(0, 40_000, 2))


@pytest.mark.parametrize(
    ("args", "kwds"),
    [((), {}), ((1,), {}), ([1, 2], {}), ((1,), {"a": 2}), ((), {"x": None, "func": 1, "timeout": 2})],
)
def test_apply(pool, args, kwds):
    assert pool.apply(work.collect, args, kwds) == (tuple(args), kwds)


def test_apply_does_not_change_what_it_is_given(pool):
    args, kwds = ([1],), {"a": [2]}
    assert pool.apply(work.collect, args, kwds) == (args, kwds)
    assert args == ([1],) and kwds == {"a": [2]}


def test_apply_again_and_again(pool):
    assert [pool.apply(work.square, (i,)) for i in range(300)] == [i * i for i in range(300)]


def test_work_is_done_elsewhere_by_two(pool, tmp_path):
    import os

    pids = pool.map(work.meet, [str(tmp_path)] * 2, chunksize=1)
    assert len(set(pids)) == 2
    assert os.getpid() not in pids


def test_one_process(Pool):
    with Pool(1) as pool:
        assert len(set(pool.map(work.pid, range(30), chunksize=1))) == 1
        assert pool.map(work.square, range(30)) == [i * i for i in range(30)]
    pool.join()


def test_more_processes_than_items(Pool):
    with Pool(6) as pool:
        assert pool.map(work.square, [1, 2]) == [1, 4]
    pool.join()


def test_processes_by_default(Pool):
    with Pool() as pool:
        assert pool.map(work.square, range(100)) == [i * i for i in range(100)]
    pool.join()
