"""What type checkers must find out about code that uses forklift; read by `test_types.py`, never run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import assert_type

import forklift


def half(number: int) -> float:
    return number / 2


def named(number: int, name: str) -> bytes:
    return f"{name}{number}".encode()


def carries_types(pool: forklift.Pool, numbers: list[int]) -> Iterator[float]:
    assert_type(pool.map(half, numbers), list[float])
    assert_type(pool.map(lambda number: str(number), numbers, 4, on_error="return"), list[str])
    assert_type(pool.starmap(named, [(1, "a")]), list[bytes])
    assert_type(pool.apply(half, (1,)), float)
    assert_type(pool.apply_async(half, (1,)).get(), float)
    assert_type(pool.map_async(half, numbers).get(timeout=1), list[float])
    assert_type(pool.share(numbers).value, list[int])
    for result in pool.imap(half, numbers, buffersize=2):
        assert_type(result, float)
        yield result
    with forklift.Pool(2, task_timeout=1.5) as other:
        assert_type(other, forklift.Pool)
        yield from other.imap_unordered(half, numbers)


def carries_types_elsewhere(executor: forklift.Executor, numbers: list[int]) -> None:
    assert_type(executor.submit(half, 1), Future[float])
    assert_type(list(executor.map(half, numbers, buffersize=2)), list[float])
    assert_type(forklift.map(half, numbers, 2, on_error="return"), list[float])
    assert_type(forklift.starmap(named, [(1, "a")]), list[bytes])


def finds_mistakes(pool: forklift.Pool, names: list[str], numbers: list[int]) -> None:
    pool.map(half, names)  # wrong: half takes an int
    pool.map(half, 5)  # wrong: not iterable
    pool.imap(half, [1], chunk=2)  # wrong: no such option
    forklift.map(half, names)  # wrong: half takes an int
    forklift.Executor(2).submit(half, "1")  # wrong: half takes an int
    forklift.Executor(2, on_error="return")  # wrong: no such option
    pool.map_blocks(len, numbers, combine="sum")  # wrong: no such way to combine
    forklift.Pool(2, on_error="ignore")  # wrong: no such choice
