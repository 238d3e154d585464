"""Functions that are parts of items: nobody holds them between two of these, and yet they arrive whole each time."""

from __future__ import annotations

import joblib
import pytest

import forklift


def with_default(parts):
    return lambda number, parts=parts: (number, parts)


def with_attribute(parts):
    def function(number):
        return number

    function.parts = parts
    return function


def call(item):
    function, number = item
    return function(number)


def look(item):
    return getattr(item[0], "parts", "none")


@pytest.mark.parametrize("method", ["map", "imap"])
def test_defaults_and_attributes(method):
    with forklift.Pool(1) as pool:
        items = [(with_default([7]), number) for number in range(2)] * 2
        assert list(getattr(pool, method)(call, items, 1)) == [(0, [7]), (1, [7])] * 2
        items = [(with_attribute([7]), 0)] * 4
        assert list(getattr(pool, method)(look, items, 1)) == [[7]] * 4
    pool.join()


def test_tasks_of_joblib():
    from forklift.integrations.joblib import end_pools

    forklift.register_joblib()
    function = with_default([7])
    results = joblib.Parallel(2, backend="forklift", batch_size=1)((function, (n,), {}) for n in range(6))
    assert results == [(n, [7]) for n in range(6)]
    end_pools()
