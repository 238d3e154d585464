"""Clause 1: an argument belongs to its call. And a result is what the call returned when it returned it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import forklift

from . import work
from .routes import ROUTES, Route
from .test_identity import PARTS

ITEMS = 40


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest) -> Route:
    return ROUTES[request.param]


def test_what_a_call_appends_to_no_other_call_sees(route):
    shared: list[int] = []
    assert route(work.count, [work.Task(shared, number) for number in range(ITEMS)]) == [1] * ITEMS
    assert shared == []


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("name", ["map", "map, one chunk", "imap", "imap of a generator", "Executor.map"])
def test_a_part_that_many_items_hold_is_written_to(name, kind):
    part = PARTS[kind]()
    tasks = [work.Task(part, number) for number in range(12)]
    assert ROUTES[name](work.is_untouched, tasks) == [True] * 12
    assert not work.is_changed(part)


@pytest.mark.parametrize("kind", PARTS)
def test_an_item_that_is_there_many_times_is_written_to(kind):
    part = PARTS[kind]()
    with forklift.Pool(2) as pool:
        assert pool.map(work.was_changed, [part] * 12, chunksize=6) == [False] * 12
        assert pool.starmap(work.was_changed, [(part,)] * 12) == [False] * 12
        assert list(pool.imap(work.was_changed, [part] * 12, chunksize=5)) == [False] * 12
    pool.join()
    assert not work.is_changed(part)


@pytest.mark.parametrize("name", ["map", "imap", "Executor.map", "map with retries", "one-liner"])
@pytest.mark.parametrize("length", [8192, work.LARGE])
def test_two_workers_write_to_one_array(name, length):
    """Chunks are cut for two workers: what one writes, the other does not see."""
    array = np.zeros(length)
    assert (
        ROUTES[name](work.write_and_look, [work.Task(array, number) for number in range(200)]) == [True] * 200
    )
    assert not array.any()


@pytest.mark.parametrize("name", ["map, one by one", "map, one chunk", "imap"])
def test_results_are_of_the_moment_of_their_call(name):
    """The function changes what it returned before; earlier results stay what they were."""
    lists = ROUTES[name](work.Accumulator().list, range(12))
    assert all(result[-1] == number for number, result in enumerate(lists))
    arrays = ROUTES[name](work.Accumulator().view, range(12))
    assert all((array == number).all() for number, array in enumerate(arrays))
    arrays[0][:] = -1
    assert (arrays[1] == 1).all()


def test_results_of_all_kinds_in_one_chunk():
    with forklift.Pool(1) as pool:
        results: list[Any] = pool.map(work.Accumulator().mixed, range(30), chunksize=30, on_error="return")
    pool.join()
    for number, result in enumerate(results):
        match number % 6:
            case 0:
                assert result == number
            case 1:
                assert result == list(range(1, number + 1, 6))
            case 2 | 3:
                assert (result == number).all()
            case 4:
                assert isinstance(result, ValueError) and result.args == (number,)
            case 5:
                assert result() == number


def test_a_result_that_cannot_be_rebuilt_fails_alone(monkeypatch):
    monkeypatch.setenv("FORKLIFT_TEST_PARENT", str(os.getpid()))
    with forklift.Pool(1) as pool:
        results = pool.map(work.broken_or, range(6), chunksize=6, on_error="return")
    pool.join()
    assert isinstance(results.pop(3), forklift.DecodeError)
    assert results == [{"number": [number]} for number in (0, 1, 2, 4, 5)]
