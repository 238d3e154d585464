"""`Pool.map_blocks`: one large object is cut, worked on, and put together again.

    obj ── _cuts ──▶ blocks, cut as the feed asks for them ──▶ workers: func(block)
                     Sizes: how large, from what came back         │
    result ◀── Joined, Listed, Reduced ◀── results ◀───────────────┤
    out    ◀── Out, for blocks that were sent without their part   │
       ▲────── part of `out`, lent to the block's worker ◀─────────┘

A block is an item like any other, alone in its chunk. What is new is `out`: with each block goes the part of it that
is the block's (`_places`), in shared memory or in a file, and the worker writes the result there. So each byte of it
has one writer at a time, a worker that dies spoils its own part alone, and one that tries the block again writes all
of it anew. Everything here happens in the caller's thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from forklift import _cuts, _native, _places, _progress
from forklift._calls import ONE, STAR, note
from forklift._options import Terms, choice
from forklift.shared import shared_arrays

if TYPE_CHECKING:
    from forklift.pool import Pool

__all__ = ["Combine", "map_blocks", "size"]

Combine = Literal["concat", "list"] | Callable[[Any, Any], Any]

# The first blocks: large enough to be worth a message, small enough to be done soon and to tell what the others cost.
START_BYTES = 1 << 20

# What a block should take. A message costs a thousandth of it.
BLOCK_SECONDS = 0.05

# Each worker gets at least so many blocks, and this share of what is left: so all of them end at about the same time.
BLOCKS_PER_WORKER = 4
LEFT_PER_WORKER = 2

# Why workers do not inherit them, for a report.
CHOICE = "copy: the blocks of one object are cut as they are sent"


def map_blocks(
    pool: Pool,
    func: Callable[[Any], Any],
    obj: Any,
    axis: int,
    block: int | None,
    out: Any,
    combine: Combine,
    terms: Terms,
) -> Any:
    """See `Pool.map_blocks`."""
    cut, axis = _cuts.cut(obj, axis)
    sizes = Sizes(cut, size(block), pool._processes, int(pool._plan["window_bytes"]))
    results: _Results
    if out is not None and out is not False:
        if combine != "concat":
            raise ValueError("combine and out exclude each other: with out, results are put into it")
        results = Out(cut, axis, out, terms, pool._processes, pool._cluster is None)
    elif callable(combine):
        results = Reduced(combine)
    else:
        choice("combine", combine, ("concat", "list"))
        results = Joined(axis) if combine == "concat" else Listed()
    call = _Call(cut, sizes, results, terms.on_error == "return")
    function: Any = results.writer(func) if isinstance(results, Out) else func
    job = pool._open(
        function,
        STAR if isinstance(results, Out) else ONE,
        items=sizes.count(),
        chunksize=1,
        sample=[obj],
        sharing=False,  # Blocks are made as they are cut.
        **terms.limits(),
    )
    note(pool, "map_blocks", func, job, 1, sizes.count(), CHOICE)
    meter = _progress.opened(terms.progress, sizes.count(), job)
    _progress.run(job, call.items(job, meter), meter, call.take)
    if call.error is not None:
        raise call.error
    return results.finish()


def size(block: int | None) -> int | None:
    """Check a block size."""
    if block is not None:
        if isinstance(block, bool) or not hasattr(block, "__index__"):
            raise TypeError(f"block must be an int or None, not {type(block).__name__}")
        if int(block) < 1:
            raise ValueError(f"block must be None or 1+, not {block}")
    return None if block is None else int(block)


class _Call:
    """One call while it runs: which blocks were cut, and what came of them."""

    def __init__(self, cut: _cuts.Cut, sizes: Sizes, results: _Results, keeps_errors: bool) -> None:
        self._cut = cut
        self._sizes = sizes
        self._results = results
        self._keeps_errors = keeps_errors
        self._spans: list[tuple[int, int]] = []
        self._failed = -1
        self.error: BaseException | None = None

    def items(self, job: _native.Job, done: Callable[[int], object] | None) -> Iterator[Any]:
        """Cut blocks, one whenever there is room for it. None are begun after one has failed."""
        start, length = 0, self._cut.length
        # Of an empty object there is one block, so that a result has the type that the function gives it.
        while self.error is None and (start < length or not self._spans):
            if self._results.wants_first(len(self._spans)):
                # What comes is taken here, since the feed goes before the results as long as it may.
                answer = job.take()
                if answer:
                    self.take(*answer[:3])
                    if done is not None:
                        done(1)
                    continue
            stop = self._cut.end(start, self._sizes.next(start)) if length else 0
            self._spans.append((start, stop))
            yield self._results.item(self._cut.block(start, stop), start, stop)
            start = stop

    def take(self, index: int, values: list[Any], failures: list[tuple[int, BaseException]]) -> None:
        """Take the result of a block, or its failure."""
        start, stop = self._spans[index]
        self._sizes.note(stop - start, time.monotonic())
        error = failures[0][1] if failures else None
        if error is None and self.error is None:
            try:
                self._results.put(index, values[0], start, stop)
            except Exception as refused:
                error = refused
        if error is None:
            return
        error.add_note(f"forklift: item {index} is the block of {self._cut.unit} {start} to {stop}")
        if self._keeps_errors:
            self._results.put(index, error, start, stop)
        elif self.error is None or index < self._failed:
            self._failed, self.error = index, error


class Sizes:
    """How large the next block is to be.

    The user's own size, always; or small at first, then as much as takes `BLOCK_SECONDS` by what the last answers
    say, at most twice as much as the block before, within the bytes that a pool keeps warm for each worker.
    """

    def __init__(self, cut: _cuts.Cut, fixed: int | None, workers: int, window_bytes: int) -> None:
        self._length = cut.length
        self._fixed = fixed
        # The length of text says nothing about the number of its blocks, which end with a line.
        self._exact = not isinstance(cut, _cuts.Lines)
        self._workers = workers
        fair = max(1, self._length // (workers * BLOCKS_PER_WORKER))
        each = max(cut.element_bytes, 1e-9)
        warm = max(1, int(window_bytes / (workers * BLOCKS_PER_WORKER) / each))
        self._most = min(fair, warm)
        self._least = max(1, min(self._most, int(START_BYTES / each), fair // BLOCKS_PER_WORKER))
        self._size = self._least
        # Elements of the last answers, and when they came.
        self._answers: deque[tuple[int, float]] = deque(maxlen=2 * workers + 2)

    def count(self) -> int | None:
        """Return how many blocks there will be, where that is known."""
        if self._fixed is None or not self._exact:
            return None
        return max(1, -(-self._length // self._fixed))

    def note(self, elements: int, now: float) -> None:
        """Learn from an answer."""
        self._answers.append((elements, now))

    def next(self, start: int) -> int:
        """Return the size of a block that begins here."""
        if self._fixed is not None:
            return self._fixed
        if len(self._answers) > self._workers:
            spent = self._answers[-1][1] - self._answers[0][1]
            done = sum(elements for elements, _ in self._answers) - self._answers[0][0]
            wanted = int(done * BLOCK_SECONDS / max(spent * self._workers, 1e-9))
            self._size = max(1, min(wanted, 2 * self._size, self._most))
        left = (self._length - start) // (self._workers * LEFT_PER_WORKER)
        return max(1, min(self._size, max(left, min(self._least, self._size))))


# What becomes of results ---------------------------------------------------------------------------------------------


class _Results:
    """Results as they come."""

    def wants_first(self, sent: int) -> bool:
        """Whether a result should be seen before more than so many blocks are sent."""
        return False

    def item(self, block: Any, start: int, stop: int) -> Any:
        """Return what is sent for a block."""
        return block

    def put(self, index: int, result: Any, start: int, stop: int) -> None:
        """Take the result of a block, in whatever order."""
        raise NotImplementedError

    def finish(self) -> Any:
        """Return what the call returns, once all results have come."""
        raise NotImplementedError


class Listed(_Results):
    """A list of results, in order."""

    def __init__(self) -> None:
        self._results: dict[int, Any] = {}

    def put(self, index: int, result: Any, start: int, stop: int) -> None:
        self._results[index] = result

    def finish(self) -> Any:
        results, self._results = self._results, {}
        return [results[index] for index in range(len(results))]


class Joined(Listed):
    """Results one after the other, as one object."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self._axis = axis

    def finish(self) -> Any:
        return _cuts.join(super().finish(), self._axis)


class Reduced(_Results):
    """Results combined two by two, as soon as both are there.

    Which two hangs on the blocks alone, not on which worker was faster: neighbours first, then pairs of neighbours, and
    so on, the left one as the first argument; what is left over in the end is combined from the right. So with the same
    blocks floats come out the same to the last bit, and long sums are as exact as pairwise ones are.
    """

    def __init__(self, combine: Callable[[Any, Any], Any]) -> None:
        self._combine = combine
        self._early: dict[int, Any] = {}
        self._next = 0
        # Subtrees from left to right, each with its height; heights fall.
        self._trees: list[tuple[int, Any]] = []

    def put(self, index: int, result: Any, start: int, stop: int) -> None:
        self._early[index] = result
        while self._next in self._early:
            height, tree = 0, self._early.pop(self._next)
            self._next += 1
            while self._trees and self._trees[-1][0] == height:
                height, tree = height + 1, self._combine(self._trees.pop()[1], tree)
            self._trees.append((height, tree))

    def finish(self) -> Any:
        _, tree = self._trees.pop()
        while self._trees:
            tree = self._combine(self._trees.pop()[1], tree)
        return tree


class Out(_Results):
    """Results in one array, written there by the workers if they can be shown its memory, else here."""

    def __init__(
        self, cut: _cuts.Cut, axis: int, out: Any, terms: Terms, workers: int, reached: bool
    ) -> None:
        import numpy

        if isinstance(cut, _cuts.Lines):
            raise ValueError(
                f"out= needs an object with rows or elements: {type(cut.obj).__name__} is cut into lines"
            )
        self._length = cut.length
        self._before = (slice(None),) * axis
        self._axis = axis
        self._workers = workers
        # Whether workers can be shown our memory.
        self._reached = reached
        # Blocks whose workers were given their part.
        self._written: set[int] = set()
        self._array: Any = None
        self.writer = _places.SafeWriter if out is True else _places.Writer
        if out is not True:
            if type(out) not in (numpy.ndarray, numpy.memmap):
                raise TypeError(f"out must be a NumPy array or True, not {type(out).__name__}")
            if not out.flags.writeable:
                raise ValueError("out is read-only: a memmap has to be opened with mode 'r+' or 'w+'")
            if out.ndim <= axis or out.shape[axis] != cut.length:
                raise ValueError(
                    f"out has shape {out.shape}: along axis {axis} it needs the {cut.length} {cut.unit} of the object"
                )
            if isinstance(cut.obj, numpy.ndarray):
                if numpy.may_share_memory(cut.obj, out):
                    _check_in_place(_at_address(cut.obj), _at_address(out), out, terms)
                elif _places.overlap_in_file(cut.obj, out):
                    _check_in_place(_in_file(cut.obj), _in_file(out), out, terms)
            self._array = out

    def _part(self, start: int, stop: int) -> Any:
        return self._array[(*self._before, slice(start, stop))]

    def wants_first(self, sent: int) -> bool:
        # One for each worker, which come back as results, to learn what array it takes.
        return self._reached and self._array is None and sent >= self._workers

    def item(self, block: Any, start: int, stop: int) -> Any:
        shown = self._reached and self._array is not None
        place = _places.place(self._part(start, stop), True) if shown else None
        if place is not None:
            self._written.add(start)
        return block, place

    def put(self, index: int, result: Any, start: int, stop: int) -> None:
        if start in self._written:
            return
        if self._array is None:
            self._array = self._make(result, stop - start)
        _places.fill(self._part(start, stop), result, self.writer.casting)

    def _make(self, first: Any, length: int) -> Any:
        """Make the array, from what the first block to be done gave."""
        import numpy

        if not isinstance(first, numpy.ndarray):
            raise TypeError(f"out=True needs arrays: the function returned {type(first).__name__}")
        axis = self._axis
        if first.ndim <= axis or first.shape[axis] != length:
            raise ValueError(
                f"out=True needs arrays of as many rows along axis {axis} as the block has: for a block of {length} "
                f"the function returned shape {first.shape}"
            )
        shape = (*first.shape[:axis], self._length, *first.shape[axis + 1 :])
        if first.dtype.hasobject:
            return numpy.empty(shape, first.dtype)
        with shared_arrays():
            return numpy.empty(shape, first.dtype)

    def finish(self) -> Any:
        return self._array


def _at_address(array: Any) -> Any:
    return array.__array_interface__["data"][0], array.shape, array.strides, array.itemsize


def _in_file(array: Any) -> Any:
    return _places.place_in_file(array), array.shape, array.strides, array.itemsize


def _check_in_place(obj: Any, form: Any, out: Any, terms: Terms) -> None:
    """Refuse what would have a worker read what another has written, or its own results.

    `obj` and `form` say where the elements of the object and of `out` lie.
    """
    if obj != form:
        raise ValueError(
            "out overlaps the object but is not the same array: blocks would overwrite each other"
        )
    if terms.retries and _places.place(out, True) is not None:
        raise ValueError(
            "out is the object itself, so a block that was half written cannot be tried again: "
            "give another array as out, or retries=0"
        )
