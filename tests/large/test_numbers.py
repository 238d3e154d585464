"""Long lists of numbers are packed on their way: nobody must be able to tell."""

from __future__ import annotations

import math
from typing import Any

import pytest

from . import work

pytestmark = pytest.mark.untidy("one pool for the module")


@pytest.fixture
def pool(module_pool):
    """Workers that have imported NumPy: that takes longer than what is tested."""
    return module_pool


class Degrees(float):
    pass


FLOATS = [0.5 * i for i in range(1000)]
LISTS: dict[str, list[Any]] = {
    "floats": FLOATS,
    "integers": list(range(-500, 500)),
    "the ends of 64 bits": [-(2**63), 2**63 - 1] * 200,
    "beyond 64 bits": [2**63, *range(1000)],
    "beyond 64 bits at the end": [*range(1000), -(2**63) - 1],
    "mixed": [1.0, 2] * 500,
    "booleans": [True, False] * 500,
    "a boolean among integers": [*range(1000), True],
    "a subclass among floats": [*FLOATS, Degrees(3.0)],
    "none among floats": [*FLOATS, None],
    "infinities and minus zero": [math.inf, -math.inf, -0.0, 5e-324] * 100,
    "lists in a list": [FLOATS, FLOATS[:300]],
}


@pytest.mark.parametrize("numbers", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("chunksize", [None, 3])
def test_lists_of_numbers_stay_what_they_are(pool, numbers, chunksize):
    items = [list(numbers) for _ in range(5)]
    for result in pool.map(work.identity, items, chunksize):
        assert result == numbers
        assert [type(x) for x in result] == [type(x) for x in numbers]
        assert str(result) == str(numbers)  # tells minus zero from zero
    assert items == [numbers] * 5


@pytest.mark.parametrize("numbers", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("chunksize", [None, 400])
def test_items_that_are_numbers_stay_what_they_are(pool, numbers, chunksize):
    results = pool.map(work.identity, numbers, chunksize)
    assert results == numbers
    assert [type(x) for x in results] == [type(x) for x in numbers]
    assert str(results) == str(numbers)


def test_items_that_are_numbers_are_packed(pool):
    items = [0.5 * i for i in range(20_000)]
    before = pool._counters()["bytes_copied_in"]
    pool.map(work.identity, items, 10_000)
    copied = pool._counters()["bytes_copied_in"] - before
    assert 160_000 <= copied <= 161_000


def test_not_a_number_is_still_none(pool):
    (result,) = pool.map(work.identity, [[math.nan] * 300])
    assert len(result) == 300
    assert all(math.isnan(x) for x in result)


def test_a_list_that_an_item_holds_twice_is_one_list(pool):
    ((first, second),) = pool.map(work.identity, [(FLOATS, FLOATS)])
    assert first is second


def test_a_packed_list_is_the_workers_own(pool):
    items = [list(FLOATS) for _ in range(4)]
    lengths = pool.map(lambda numbers: numbers.append(1.0) or len(numbers), items)
    assert lengths == [1001] * 4
    assert [len(item) for item in items] == [1000] * 4


def test_packing_saves_bytes_and_copies_once(pool):
    items = [list(FLOATS) * 10 for _ in range(10)]
    pool.map(len, items)
    before = pool._counters()["bytes_copied_in"]
    pool.map(len, items)
    copied = pool._counters()["bytes_copied_in"] - before
    assert 10 * 80_000 <= copied <= 10 * 82_000  # pickle writes nine bytes a float
