"""Random nested data through a pool equals the plain map over it. Deterministic: the same examples every time."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import forklift

from . import work

# A leaf of this many bytes crosses out of band in any design.
LARGE = 70_000

arrays = hnp.arrays(
    dtype=st.one_of(
        hnp.integer_dtypes(), hnp.floating_dtypes(), hnp.boolean_dtypes(), hnp.datetime64_dtypes()
    ),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
)
large_arrays = st.integers(0, 255).map(lambda n: np.full(LARGE + n, n, np.uint8))
strided = st.builds(lambda a, n: np.repeat(a, 3, axis=None)[::n], arrays, st.sampled_from([1, 2, -1, -3]))
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=50),
    st.binary(min_size=1, max_size=1).map(lambda b: b * LARGE),
    st.binary(max_size=20).map(bytearray),
    arrays,
    large_arrays,
    strided,
)
keys = st.one_of(st.integers(), st.text(max_size=5), st.booleans(), st.none())
nested = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=4),
        inner.map(lambda x: [x, x]),  # the same object twice
    ),
    max_leaves=12,
)


def alike(a: Any, b: Any) -> bool:
    """Equality with nan equal to nan, types and the dtype of arrays taken seriously."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        a, b = native(a), native(b)
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(alike(a[key], b[key]) for key in a)
    return repr(a) == repr(b)


def native(array: np.ndarray) -> np.ndarray:
    """In this machine's byte order: NumPy's own pickles do not always keep the other one."""
    return array.astype(array.dtype.newbyteorder("="))


# The pool outlives each test, so the house is looked at when all are over.
pytestmark = pytest.mark.untidy("one pool for the module")


STEADY = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=120,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)


@STEADY
@given(items=st.lists(nested, max_size=6), chunksize=st.sampled_from([None, 1, 2, 50]))
def test_map_equals_the_builtin(module_pool, items, chunksize):
    assert alike(module_pool.map(work.identity, items, chunksize), items)


@STEADY
@given(items=st.lists(nested, max_size=6), chunksize=st.sampled_from([None, 1, 3]))
def test_imap_equals_the_builtin(module_pool, items, chunksize):
    assert alike(list(module_pool.imap(work.identity, iter(items), chunksize)), items)


@STEADY
@given(items=st.lists(st.tuples(nested, nested), max_size=4))
def test_starmap_equals_the_builtin(module_pool, items):
    assert alike(module_pool.starmap(lambda a, b: (b, a), items), [(b, a) for a, b in items])


@STEADY
@given(items=st.lists(nested, max_size=6), chunksize=st.sampled_from([None, 1, 3]))
def test_shared_arrays_equal_the_builtin(module_pool, items, chunksize):
    with forklift.shared_arrays():
        shared = copy.deepcopy(items)
    assert alike(module_pool.map(work.identity, shared, chunksize), items)
    assert alike(list(module_pool.imap(work.identity, iter(shared), chunksize)), items)


@STEADY
@given(items=st.lists(nested, max_size=6))
def test_results_that_are_sent_again_equal_the_builtin(module_pool, items):
    once = module_pool.map(copy.deepcopy, items)  # what the worker makes itself is handed over
    assert alike(module_pool.map(work.identity, once), items)


@STEADY
@given(part=nested, others=st.lists(nested, min_size=2, max_size=5))
def test_parts_that_items_share_equal_the_builtin(module_pool, part, others):
    for items in ([(part, other) for other in others], [{"a": part, "b": other} for other in others]):
        assert alike(module_pool.map(work.identity, items), items)


@settings(STEADY, max_examples=10)
@given(items=st.lists(nested, min_size=1, max_size=6))
@pytest.mark.filterwarnings("ignore:inherit=True forks")
def test_inherited_items_equal_the_builtin(module_pool, items):
    assert alike(module_pool.map(work.identity, items, inherit=True), items)
    with module_pool.share(items) as value:
        assert alike(module_pool.apply(work.identity, (value,)), items)
