"""The oracle, the shapes and the dice: whether they would see what they are there for."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.fuzz import functions, mains
from tests.fuzz.calls import Call, Find, Maker
from tests.fuzz.graphs import Graph, Holder, Node
from tests.fuzz.oracle import Oracle, Outcome, copied
from tests.fuzz.shapes import mutables, shape


@pytest.mark.parametrize("seed", range(30))
def test_a_copy_has_the_shape_of_its_original(seed):
    graph = Graph(random.Random(seed), frames=True, pickled=False)
    roots = [graph.new() for _ in range(5)]
    graph.tie()
    assert shape(copied(roots)) == shape(roots)


def test_a_shape_tells_one_object_from_two():
    one = [1]
    assert shape([one, one]) != shape([[1], [1]])


def test_a_shape_tells_a_view_from_an_array_of_its_own():
    whole = np.arange(9)
    assert shape([whole, whole[1:]]) != shape([whole, whole[1:].copy()])


def test_a_shape_tells_types_and_flags():
    array = np.arange(4)
    told = {shape(array), shape(array.astype("i4")), shape(array.reshape(2, 2)), shape(array.reshape(2, 2).T)}
    array.flags.writeable = False
    assert len({*told, shape(array), shape(1), shape(True), shape(1.0)}) == 8


def test_the_oracle_takes_items_as_they_are_when_they_are_pulled():
    buffer, oracle = [0], Oracle(len)
    for length in range(3):
        oracle.take(buffer)
        buffer.append(length)
    assert [oracle.outcome((n,)).value for n in range(3)] == [1, 2, 3]


def test_items_refer_to_what_the_function_has_and_to_nothing_of_each_other():
    tree = Node([1])
    keep = functions.Keep(tree)
    oracle = Oracle(lambda item: (item.held is keep.parts, item.held.value, item.held.value.append(2)))
    for _ in range(2):
        oracle.take(Holder(tree))
    assert oracle.outcome((0,)).value == (True, [1, 2], None)
    assert oracle.outcome((1,)).value == (True, [1, 2], None)
    assert oracle.outcome((0, 1)).value[1] == [1, 2, 2]
    assert tree.value == [1]


def test_classes_of_main_are_the_callers_no_more():
    kind = mains.main()["FuzzMain"]
    level = kind.level
    oracle = Oracle(mains.main()["fuzz_classes"])
    oracle.take((0, 7, 0.0, None))
    level.append(5)
    try:
        assert oracle.outcome((0,)).value[2] == shape([])
        assert kind.level is level
    finally:
        level.clear()


def begun() -> tuple[Call, list[Outcome]]:
    """A call with a state and shared parts, and what the oracle says of it."""
    for seed in range(100):
        call = Maker(random.Random(seed), frozenset(["lent", "generators", "globals"])).call(
            "one", bare=False
        )
        if call.keep is not None and len(call.items) == 9:
            break
    call.begin()
    return call, [call.oracle.outcome((position,)) for position in range(9)]


def test_what_is_right_is_no_find():
    call, outcomes = begun()
    assert len(call.check(outcomes)) == 9


def test_a_result_of_another_item_is_a_find():
    call, outcomes = begun()
    outcomes[3:5] = outcomes[4], outcomes[3]
    with pytest.raises(Find, match="stands the result"):
        call.check(outcomes)


def test_a_write_to_the_callers_objects_is_a_find():
    call, outcomes = begun()
    call.keep.kept.append(1)
    with pytest.raises(Find, match="have changed"):
        call.check(outcomes)


def test_a_changed_result_is_a_find():
    call, outcomes = begun()
    index, history, seen, _ = outcomes[2].value
    outcomes[2] = Outcome((index, history, seen, object))
    with pytest.raises(Find, match="came back otherwise"):
        call.check(outcomes)


def test_results_with_a_common_part_are_a_find():
    call, _ = begun()
    common = [1]
    with pytest.raises(Find, match="has a list of result 0"):
        call.separate([common, [common]])
    with pytest.raises(Find, match="shares memory"):
        whole = np.arange(9)
        call.separate([whole[:5], whole[4:]])


def test_the_same_case_is_made_of_the_same_parts():
    texts = []
    for _ in range(2):
        maker = Maker(random.Random(7), frozenset())
        texts.append([shape(maker.call(form).items) for form in ("one", "star", "apply", "one")])
    assert texts[0] == texts[1]


def test_what_functions_do_hangs_on_the_seed_alone():
    outcomes = []
    for _ in range(2):
        graph = Graph(random.Random(3))
        subject = [graph.new() for _ in range(4)]
        keep = functions.Keep(graph.any())
        outcomes.append([shape(functions.perform(keep, n, 51 + n, 0.0, subject)) for n in range(20)])
    assert outcomes[0] == outcomes[1]
    assert len(set(outcomes[0])) > 5
    assert mutables([]) == [[]]
