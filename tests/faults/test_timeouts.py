"""Times that a user gives, whatever floats there are: never a panic, and no wait that was not meant."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

import forklift
from tests.patience import wait_for_file

LONG = [float("inf"), 1e300, 2**2000, 1e9, 10]
PAST = [0, -1, float("-inf"), -(2**2000), -0.0]


def waits(pool: Any, executor: Any, function: Any, item: Any) -> dict[str, Any]:
    """All that takes a time to wait, for a call that has begun."""
    applied = pool.apply_async(function, (item,))
    called = pool.apply_async(function, (item,), callback=str)
    mapped = pool.map_async(function, [item])
    stream = pool.imap(function, [item])
    return {
        "get": applied.get,
        "get with a callback": called.get,
        "get of a map": mapped.get,
        "next": stream.next,
        "Executor.map": lambda timeout: next(executor.map(function, [item], timeout=timeout)),
        "wait": applied.wait,
        "wait with a callback": called.wait,
        "wait of a map": mapped.wait,
    }


def test_what_is_no_time_is_refused(pool):
    with forklift.Executor(1) as executor:
        for wait in waits(pool, executor, abs, -1).values():
            with pytest.raises(ValueError, match="not nan"):
                wait(float("nan"))
            with pytest.raises(TypeError, match="timeout"):
                wait("soon")
    with pytest.raises(ValueError, match="task_timeout"):
        pool.map(abs, [-1], task_timeout=float("nan"))


@pytest.mark.parametrize(
    "timeout", LONG, ids=[f"{timeout:.0e}"[:9] if timeout < 1e308 else "huge" for timeout in LONG]
)
def test_long_times(pool, timeout):
    with forklift.Executor(1) as executor:
        for name, wait in waits(pool, executor, abs, -1).items():
            assert wait(timeout) == (None if "wait" in name else [1] if "of a map" in name else 1)


@pytest.mark.parametrize("timeout", PAST, ids=["0", "-1", "-inf", "huge", "-0.0"])
def test_times_that_have_passed(pool, tmp_path, timeout):
    gate = tmp_path / "gate"
    with forklift.Executor(1) as executor:
        for name, wait in waits(pool, executor, wait_for_file, str(gate)).items():
            if "wait" in name:
                assert wait(timeout) is None
            else:
                with pytest.raises(TimeoutError if name == "Executor.map" else multiprocessing.TimeoutError):
                    wait(timeout)
        gate.touch()


def test_sizes_beyond_all_floats():
    with forklift.Pool(1, memory_limit="9" * 400 + "GB") as pool:
        assert pool.map(abs, [-1], chunksize=2**200) == [1]
    pool.join()
