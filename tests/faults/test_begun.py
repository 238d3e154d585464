"""Items that had begun when their worker ended: they run again from what they saw first, or not at all, by name."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import forklift
from tests.patience import until

from .begun import STEPS, block_counted_up, change_and_wait, count_up, count_up_apart, nap
from .delays import FOREVER

# Enough that an array crosses out of band.
LENGTH = 8192
ITEMS = 24

#: Workers that are stopped beside each method.
STOPS = 40


def dropped(pool: Any) -> None:
    """An iterator is dropped half-way: its workers are stopped."""
    results = pool.imap_unordered(nap, [0.0003] * 400, 1)
    for _ in range(3):
        next(results)


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[Callable[[], int]]:
    """Do something for which workers are stopped, again and again. Gives how often it was done so far."""
    ended, done, failed = threading.Event(), [0], []

    def drop() -> None:
        try:
            while not ended.is_set():
                stop()
                done[0] += 1
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=drop)
    thread.start()
    try:
        yield lambda: STOPS if failed else done[0]
    finally:
        ended.set()
        thread.join()
    assert not failed


def items(diary: Path) -> list[tuple[int, str, Any]]:
    return [(index, str(diary), np.zeros(LENGTH)) for index in range(ITEMS)]


def rounds(
    pool: Any,
    diary: Path,
    call: Callable[[Any], list[float]],
    stop: Callable[[], None] | None = None,
    stops: int = STOPS,
) -> None:
    """Call until enough workers were stopped beside it: each item sees its own array, and begins once."""
    with stopping(stop or (lambda: dropped(pool))) as done:
        calls = 0
        while done() < stops:
            assert call(items(diary)) == [STEPS] * ITEMS
            calls += 1
    begun = Counter(diary.read_text().split())
    assert begun == {str(index): calls for index in range(ITEMS)}


METHODS: dict[str, Callable[[Any, Any], list[float]]] = {
    "map": lambda pool, items: pool.map(count_up, items),
    "map, one by one": lambda pool, items: pool.map(count_up, items, 1),
    "map of an iterator": lambda pool, items: pool.map(count_up, iter(items), 1),
    "map with retries": lambda pool, items: pool.map(count_up, items, 1, retries=2),
    "starmap": lambda pool, items: pool.starmap(count_up_apart, items, 1),
    "imap": lambda pool, items: list(pool.imap(count_up, items, 1)),
    "apply_async": lambda pool, items: [
        result.get(60) for result in [pool.apply_async(count_up, (item,)) for item in items]
    ],
}


@pytest.mark.parametrize("method", METHODS)
def test_nobody_else_is_stopped_for_a_cancelled_call(pool, tmp_path, method):
    rounds(pool, tmp_path / "diary", lambda items: METHODS[method](pool, items))


def test_nobody_else_is_stopped_for_an_item_that_takes_too_long(pool, tmp_path):
    def overdue() -> None:
        naps = [0.0003] * 20 + [FOREVER]
        results = pool.map(nap, naps, 1, task_timeout=0.02, on_error="return")
        assert type(results[-1]) is forklift.TaskTimeout

    rounds(pool, tmp_path / "diary", lambda items: pool.map(count_up, items, 1), overdue, STOPS // 2)


def test_blocks_beside_cancelled_calls(pool):
    with stopping(lambda: dropped(pool)) as done:
        while done() < STOPS:
            with forklift.shared_arrays():
                array = np.zeros((64, 1024))
            pool.map_blocks(block_counted_up, array, out=array, block=2)
            np.testing.assert_array_equal(array, STEPS)


def four_of_one_chunk(pool: Any, folder: Path, between: Callable[[list[Any]], None]) -> list[Any]:
    """Four items in one chunk, of which the third ends the worker when two are done and not yet answered."""
    items = [(index, str(folder), np.full(LENGTH, float(index))) for index in range(4)]
    result = pool.map_async(change_and_wait, items, 4, on_error="return")
    until((folder / "begun").exists, "the third item has begun")
    between(items)
    (folder / "gate").touch()
    return result.get(60)


def test_what_was_begun_goes_again_as_it_was(pool, tmp_path):
    results = four_of_one_chunk(pool, tmp_path, lambda items: None)
    assert isinstance(results[2], forklift.WorkerDied)
    assert [results[0], results[1], results[3]] == [0.0, 1.0, 3.0]


def test_what_the_caller_has_changed_meanwhile_is_lost_by_name(pool, tmp_path):
    def change(items: list[Any]) -> None:
        items[1][2][LENGTH // 2] = 5.0

    results = four_of_one_chunk(pool, tmp_path, change)
    for index, lost in enumerate(results[:2]):
        assert isinstance(lost, forklift.WorkerDied) and lost.index == index
        assert "had begun" in str(lost) and "what it saw first" in str(lost)
    assert isinstance(results[2], forklift.WorkerDied) and "SIGKILL" in str(results[2])
    assert results[3] == 3.0  # It had not begun, and sees what was there when it was taken.


def test_blocks_that_cannot_be_had_again_are_not_tried_again(pool, tmp_path):
    """A file that is mapped twice is one array, as one that is given twice is."""
    path = tmp_path / "file"
    np.zeros((64, 1024)).tofile(path)
    one, other = (np.memmap(path, np.float64, "r+", shape=(64, 1024)) for _ in range(2))
    with pytest.raises(ValueError, match="half written"):
        pool.map_blocks(block_counted_up, one, out=other, retries=1)
    with pytest.raises(ValueError, match="not the same array"):
        pool.map_blocks(block_counted_up, one[:32], out=other[16:48])
    pool.map_blocks(block_counted_up, one[:32], out=other[32:], block=4)
    np.testing.assert_array_equal(one[32:], STEPS)
    np.testing.assert_array_equal(one[:32], 0.0)
    pool.map_blocks(block_counted_up, one, out=other, block=4)
    np.testing.assert_array_equal(one[:32], STEPS)
