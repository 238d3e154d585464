"""A job's loop: takes items from the user's iterable when the native job asks for some, and its answers as they come.

The iterable, and whatever else of the user's is called here, has Python code alone beneath it. The interpreter's end
does away with threads that run such code, and one with native frames beneath it would take the whole process along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forklift import _native

Failures = list[tuple[int, BaseException]]

__all__ = ["feed", "run"]


def run(
    job: _native.Job,
    items: Iterator[Any],
    done: Callable[[int], object] | None = None,
    take: Callable[[int, list[Any], Failures], object] | None = None,
) -> tuple[list[Any], Failures]:
    """Feed a job and take all its results, until it is finished. Return them in order, with None where an item failed,
    and a list of `(index, exception)` in order of index.

    Raises what the iterator raises, `KeyboardInterrupt`, and the fault of a job that cannot go on; the caller then
    cancels. `done(items)` is called after each answer, and with 0 now and then while nothing comes. With
    `take(first, values, failures)`, which is called for each answer as it comes, no results are returned.
    """
    results: list[Any] = []
    failures: Failures = []
    try:
        while (turn := job.next_turn(True)) is not None:
            if isinstance(turn, tuple):
                first, values, failed, count = turn
                if take is not None:
                    take(first, values, failed)
                else:
                    failures += failed
                    _place(results, first, values)
                del turn, values, failed  # The caller may want their memory back while nothing comes.
                if done is not None:
                    done(count)
            elif turn:
                _give(job, items, turn)
            elif done is not None:
                done(0)  # Whoever shows progress also shows the time.
    except BaseException:
        # Whoever keeps the exception keeps this frame.
        turn, values, failed = None, [], []
        results.clear()
        failures.clear()
        raise
    failures.sort(key=lambda failure: failure[0])
    return results, failures


def feed(job: _native.Job, items: Iterator[Any]) -> None:
    """Feed a job until it is finished, however it ends. Somebody else takes the results, or nobody: see `abandon`."""
    while (turn := job.next_turn(False)) is not None:
        if isinstance(turn, int) and turn:
            _give(job, items, turn)


def _give(job: _native.Job, items: Iterator[Any], count: int) -> None:
    """Give a job the next items, up to `count`, as a list or one by one."""
    if job.takes_lists() and job.give_list(list(islice(items, count)), count):
        return
    wanted = job.wants(count)
    while wanted:
        try:
            # A list, out of which the job takes the item: nobody here keeps it.
            item = list(islice(items, 1))
        except BaseException:
            job.give_up(True)
            raise
        if not item:
            job.give_up(False)
            return
        wanted = job.give(item)


def _place(results: list[Any], first: int, values: list[Any]) -> None:
    """Put values into a list from `first` on, which grows as far as needed."""
    missing = first - len(results)
    if missing > 0:
        results += [None] * missing
    results[first : first + len(values)] = values
