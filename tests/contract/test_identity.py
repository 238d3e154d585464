"""Clause 2: what is one object in a call arrives as one object, at any depth; two stay two."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import forklift

from . import work
from .routes import ROUTES, Route

PARTS: dict[str, Callable[[], Any]] = {
    "small list": lambda: [1, 2],
    "long list of numbers": lambda: [0.5] * work.LARGE,
    "long list": lambda: ["text", None] * work.LARGE,
    "small array": lambda: np.zeros(10),
    "large array": lambda: np.zeros(work.LARGE),
    "dict": lambda: {str(number): number for number in range(10)},
    "large dict": lambda: {str(number): [number] for number in range(20_000)},
    "set": lambda: set(range(5000)),
    "bytearray": lambda: bytearray(200_000),
    "object": lambda: work.Holder(np.zeros(work.LARGE)),
}


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest) -> Route:
    return ROUTES[request.param]


@pytest.mark.parametrize("weight", [1, work.LARGE])
def test_a_node_refers_to_its_tree(route, weight):
    tree = work.Tree(6, weight)
    assert route(work.one_object_of_pair, [(tree, work.Holder(tree)) for _ in range(6)]) == [True] * 6
    assert not work.is_changed(tree)


def test_a_method_and_the_nodes_of_its_object(route):
    tree = work.Tree(6, work.LARGE)
    assert route(tree.has, tree.nodes) == [True] * 6


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("name", ["map", "imap of a generator", "apply"])
def test_two_arguments_hold_one_object(name, kind):
    part = PARTS[kind]()
    items = [(part, work.Holder(part)) for _ in range(5)]
    assert ROUTES[name](work.one_object_of_pair, items) == [True] * 5
    assert not work.is_changed(part)


@pytest.mark.parametrize("kind", PARTS)
def test_starmap_and_keyword_arguments(kind):
    part = PARTS[kind]()
    with forklift.Pool(2) as pool:
        assert pool.starmap(work.one_object, [(part, work.Holder(part))] * 4, chunksize=2) == [True] * 4
        assert pool.apply(work.one_object, (part,), {"holder": work.Holder(part)})
        assert pool.starmap_async(work.one_object, [(part, work.Holder(part))] * 2).get(60) == [True] * 2
    pool.join()
    assert not work.is_changed(part)


@pytest.mark.parametrize("kind", PARTS)
def test_what_a_function_is_made_of_and_its_items(kind):
    part = PARTS[kind]()
    with forklift.Pool(2) as pool:
        assert pool.map(functools.partial(work.is_mine, part), [part] * 5, chunksize=2) == [True] * 5
        assert list(pool.imap(lambda theirs: theirs is part, iter([part] * 3))) == [True] * 3
        assert pool.map(functools.partial(work.is_mine, part), [PARTS[kind]()] * 2) == [False] * 2
    pool.join()


@pytest.mark.parametrize("name", ["map", "map, one chunk", "imap of a generator", "apply", "submit"])
def test_a_function_of_many_parts(name):
    predictor = work.Predictor()
    item = {"table": predictor.table, "weights": predictor.weights, "layer": predictor.layers[3]}
    assert ROUTES[name](predictor.knows, [item] * 4) == [(True, True, True)] * 4
    strange = {"table": dict(predictor.table), "weights": predictor.weights.copy(), "layer": [3]}
    assert ROUTES[name](predictor.knows, [strange] * 4) == [(False, False, False)] * 4


def test_part_of_a_shared_object_beside_it():
    """The table crosses once for all items, and each item refers to something within it as well."""
    tables = [{"rows": [bytearray(70_000)], "name": "x" * 10}, work.Holder(np.zeros(work.LARGE))]
    rows = [tables[0]["rows"][0], tables[1].part]
    with forklift.Pool(2) as pool:
        same = pool.starmap(work.row_is_in_table, [(tables[0], rows[0], "rows")] * 4)
        assert same == [True] * 4
        assert pool.starmap(work.row_is_in_holder, [(tables[1], rows[1])] * 4) == [True] * 4
    pool.join()


def test_two_shared_objects_with_a_part_in_common():
    part = np.zeros(work.LARGE)
    first, second = {"part": part, "a": 1}, {"part": part, "b": 2}
    with forklift.Pool(2) as pool:
        assert pool.starmap(work.have_one_part, [(first, second)] * 5) == [True] * 5
        assert pool.starmap(work.have_one_part, [(first, {"part": part.copy()})] * 5) == [False] * 5
    pool.join()


def test_one_result_twice_and_two_results():
    with forklift.Pool(1) as pool:
        twice = pool.map(work.twice, range(4), chunksize=4)
        assert all(first is second for first, second in twice)
        kept = pool.map(work.always_the_same, range(4), chunksize=4)
        assert len({id(result) for result in kept}) == 4
        kept[0].append(1)
        assert kept[1:] == [[], [], []]
    pool.join()
