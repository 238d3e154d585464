"""A pickled list of which some elements cannot be rebuilt: the others come out as they went in."""

from __future__ import annotations

import collections
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forklift._salvage import salvage


class Broken:
    """Cannot be rebuilt; what it holds is part of the pickle all the same."""

    def __init__(self, *held: Any) -> None:
        self.held = held

    def __setstate__(self, state: Any) -> None:
        raise ValueError("broken")


class Whole:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Whole) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]


def refuse() -> None:
    raise SystemExit("refused")


class Refused:
    def __reduce__(self) -> Any:
        return refuse, ()


def salvaged(elements: list[Any]) -> list[Any]:
    buffers: list[Any] = []
    stream = pickle.dumps(elements, 5, buffer_callback=buffers.append)
    outcomes = salvage(stream, buffers, len(elements))
    assert outcomes is not None
    return [value if failure is None else failure for value, failure in outcomes]


SHARED = {"key": ["shared", 1.5, None]}
SHAPES = {
    "one": ([Broken()], {0}),
    "none broken": ([1, "two", [3]], set()),
    "beside": ([1, Broken(), 3], {1}),
    "deep within": ([[1, {"a": (Broken(), 2)}], {"a": (1, 2)}], {0}),
    "as a key's value": ([{"x": Broken()}, {"x": 1}], {0}),
    "exits": ([Refused(), "after"], {0}),
    "names first mentioned by the broken one": ([[Broken(), {"name": Whole(1)}], {"name": Whole(2)}], {0}),
    "shared by whole ones": ([SHARED, SHARED, Broken(), SHARED], {2}),
    "set, frozenset, bytearray": ([{1}, frozenset("a"), bytearray(b"b"), Broken({2}, frozenset("c"))], {3}),
    "long": ([Broken() if index == 1500 else index for index in range(2500)], {1500}),
    "containers of the library": (
        [collections.OrderedDict(a=1), Broken(), collections.deque([1]), collections.Counter("aab")],
        {1},
    ),
    "big numbers and texts": ([10**40, "x" * 100_000, Broken(), b"y" * 100_000, -1.5, True, None], {2}),
}


@pytest.mark.parametrize(("elements", "bad"), SHAPES.values(), ids=SHAPES)
def test_only_the_broken_are_lost(elements, bad):
    found = salvaged(elements)
    assert {index for index, value in enumerate(found) if isinstance(value, BaseException)} == bad
    assert [v for i, v in enumerate(found) if i not in bad] == [
        v for i, v in enumerate(elements) if i not in bad
    ]


def test_buffers_go_to_the_elements_that_they_belong_to():
    arrays = [np.full(10_000, float(index)) for index in range(4)]
    elements = [arrays[0], [arrays[1], Broken(arrays[2]), arrays[2]], arrays[3], arrays[0]]
    found = salvaged(elements)
    assert isinstance(found[1], ValueError)
    assert [int(found[index][0]) for index in (0, 2, 3)] == [0, 3, 0]
    assert found[3] is found[0]


def test_what_a_broken_one_left_half_built_is_for_nobody():
    broken = Broken()
    found = salvaged([broken, [broken], "whole"])
    assert isinstance(found[0], ValueError)
    assert isinstance(found[1], pickle.UnpicklingError)
    assert found[2] == "whole"


def test_arrays_whose_kind_the_broken_one_was_the_first_to_mention():
    array = np.arange(5.0)
    broken, after = salvaged([(array, Broken()), array + 1])
    assert isinstance(broken, ValueError)
    np.testing.assert_array_equal(after, array + 1)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.tuples(inner, inner)
        | st.builds(Whole, inner)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(VALUES, st.sampled_from(["whole", "broken", "within"])), max_size=8))
def test_any_values(pairs):
    made = {"whole": lambda v: v, "broken": lambda v: Broken(v), "within": lambda v: [v, {"k": Broken(v)}, v]}
    elements = [made[kind](value) for value, kind in pairs]
    if not elements:
        return
    found = salvaged(elements)
    for (value, kind), outcome in zip(pairs, found, strict=True):
        if kind == "whole":
            assert outcome == value
        else:
            assert isinstance(outcome, BaseException)


@pytest.mark.parametrize(
    "stream", [b"", b"nonsense", pickle.dumps({"a": 1}), pickle.dumps(5), pickle.dumps([])]
)
def test_what_is_no_such_list_is_left_alone(stream):
    assert salvage(stream, [], 1) is None
    assert salvage(pickle.dumps([1, 2]), [], 3) is None
