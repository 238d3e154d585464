"""The same clauses over joblib, whose batches of several tasks are one item of a pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import forklift

from . import work

joblib = pytest.importorskip("joblib")

PARTS: dict[str, Callable[[], Any]] = {
    "list": lambda: [1, 2],
    "small array": lambda: np.zeros(10),
    "large array": lambda: np.zeros(200_000),
    "object": lambda: work.Holder([1]),
}


@pytest.fixture(params=[1, 5, "auto"])
def parallel(request: pytest.FixtureRequest) -> Iterator[Callable[..., list[Any]]]:
    from forklift.integrations.joblib import end_pools

    forklift.register_joblib()

    def run(func: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
        tasks = [joblib.delayed(func)(*each) for each in arguments]
        return joblib.Parallel(batch_size=request.param)(tasks)

    with joblib.parallel_config("forklift", n_jobs=2):
        yield run
    end_pools()


@pytest.mark.parametrize("kind", PARTS)
def test_tasks_are_separate_and_objects_are_one(parallel, kind):
    part = PARTS[kind]()
    assert parallel(work.was_changed, [(part,)] * 20) == [False] * 20
    assert parallel(work.one_object, [(part, work.Holder(part))] * 10) == [True] * 10
    assert not work.is_changed(part)


def test_results_are_of_the_moment_of_their_task(parallel):
    accumulator = work.Accumulator()
    lists = parallel(accumulator.list, [(number,) for number in range(20)])
    assert all(result[-1] == number for number, result in enumerate(lists))
    arrays = parallel(accumulator.view, [(number,) for number in range(20)])
    assert all((array == number).all() for number, array in enumerate(arrays))
