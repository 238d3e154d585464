"""One call: its function, its items, what the oracle says of it, and the comparison with what came."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import forklift
from tests.fuzz import functions, mains
from tests.fuzz.graphs import Graph, Task
from tests.fuzz.oracle import Oracle, Outcome
from tests.fuzz.shapes import extents, mutables, shape

__all__ = ["Call", "Find", "Maker"]

#: Numbers of items, so that those of one call are never those of another.
STEP = 1000


class Find(Exception):
    """Something that is not as it was promised."""


class Maker:
    """Makes the functions and items of an episode's calls."""

    def __init__(self, dice: random.Random, without: frozenset[str]) -> None:
        self.dice = dice
        self.without = without
        self.calls = 0
        self.globals = mains.Globals()
        self.graph = self.fresh()
        self.results: list[Any] = []  # of earlier calls, to be sent on

    def fresh(self, *, apart: bool = False) -> Graph:
        shared = not apart and "sharing" not in self.without
        return Graph(self.dice, shared=shared, frames=self.dice.random() < 0.15, pickled=not apart)

    def objects(self) -> Graph:
        """The objects that the next call's function and items are made of."""
        if self.dice.random() < 0.7 or len(self.graph.objects) > 60:
            lent = "lent" not in self.without and self.dice.random() < 0.3
            self.graph = self.fresh()
            if lent:
                with forklift.shared_arrays():
                    self.fill()
            else:
                self.fill()
        return self.graph

    def fill(self) -> None:
        for _ in range(self.dice.randrange(2, 7)):
            self.graph.new()
        if "cycles" not in self.without and self.dice.random() < 0.5:
            self.graph.tie()
        if self.results and self.dice.random() < 0.3:
            self.graph.objects += mutables(self.dice.choice(self.results))[:3]

    def function(self, graph: Graph, *, state: bool) -> tuple[str, Callable[..., Any], Any]:
        """Name, function, and what it keeps."""
        dice = self.dice
        # A fork has the globals of its own moment; who keeps no state is forked.
        if state and "globals" not in self.without and dice.random() < 0.15:
            self.globals.change(dice, dice.choice([dice.randrange(9), *graph.objects]))
            func = dice.choice(self.globals.functions())
            return func.__name__, func, None
        if not state or "state" in self.without or dice.random() < 0.25:
            func = dice.choice([functions.stateless, mains.main()["fuzz_stateless"]])
            return func.__name__, func, None
        kinds = {**functions.KINDS, **mains.KINDS}
        name = dice.choice(list(kinds))
        keep = dice.choice([functions.Keep, functions.Slotted])(graph.any(), "kept" not in self.without)
        func = kinds[name](keep)
        graph.objects.append(getattr(func, "__self__", keep) if "main" in name else keep)
        return name, func, keep

    def item(self, graph: Graph, index: int, form: str, *, trouble: bool) -> Any:
        """The arguments of one call of the function."""
        dice = self.dice
        seed = dice.randrange(2**32) * functions.TROUBLE + (0 if trouble and dice.random() < 0.03 else 7)
        nap = dice.choice([0.0, 0.0, 0.0, 0.001, 0.004])
        subjects = [graph.any() for _ in range(dice.choice([1, 1, 2, 3]))]
        if form == "apply":
            names = dict(zip("ab", subjects[1:], strict=False)) if dice.random() < 0.5 else {}
            return (index, seed, nap, *(subjects[:1] if names else subjects)), names
        if form == "star":
            return (index, seed, nap, *subjects)
        subject = subjects[0] if len(subjects) == 1 else dice.choice([list, tuple])(subjects)
        kind = dice.randrange(4)
        if kind == 0:
            return Task(index, seed, nap, subject)
        if kind == 1:
            return {"index": index, "seed": seed, "nap": nap, "subject": subject}
        return [index, seed, nap, subject] if kind == 2 else (index, seed, nap, subject)

    def call(
        self,
        form: str,
        *,
        apart: bool = False,
        held: bool = False,
        listed: bool = False,
        trouble: bool = True,
        bare: bool = True,
    ) -> Call:
        """A call. `apart`: nothing has parts in common; `held`: items are a list; `listed`: they are made one, as by
        `map_async` of the standard library; `bare`: items may be anything.
        """
        self.calls += 1
        graph = self.fresh(apart=True) if apart else self.objects()
        name, func, keep = self.function(graph, state=not apart)
        call = Call(f"{name}, {form}", func, keep, form, self.calls * STEP)
        count = self.dice.choice([0, 1, 2, 5, 9, 9, 20])
        if bare and form == "one" and keep is None and not apart and self.dice.random() < 0.15:
            call.func, call.title, call.bare = functions.bare, "bare, one", True
            call.items = [graph.any() for _ in range(count)]
            return call
        call.items = [self.item(graph, call.base + n, form, trouble=trouble) for n in range(count)]
        if "generators" not in self.without and not held and not apart and keep is None:
            if form == "one" and not listed and self.dice.random() < 0.15:
                call.buffer = self.fresh().new()
                call.title += ", from a generator of one buffer"
            elif self.dice.random() < 0.15:
                call.lazy = True
        return call


class Call:
    """One call of a pool's method."""

    def __init__(self, title: str, func: Callable[..., Any], keep: Any, form: str, base: int) -> None:
        self.title = title
        self.func = func
        self.keep = keep
        self.form = form
        self.base = base
        self.bare = False
        self.lazy = False
        self.items: list[Any] = []
        self.buffer: Any = None
        self.deaths = 0  # how many workers were killed
        self.ordered = True
        self.alone = False  # each item has a copy of the function of its own
        self.partly = False  # not all results were taken
        self.before = ""

    def begin(self) -> Iterable[Any]:
        """Have the oracle look at the function; returns the items as they are to be passed."""
        self.oracle = Oracle(self.func, self.form)
        if self.buffer is not None:
            return self.again_and_again()
        self.before = self.outside()
        for item in self.items:
            self.oracle.take(item)
        return (item for item in self.items) if self.lazy else self.items

    def again_and_again(self) -> Iterator[Any]:
        """One object, again and again, with new contents each time."""
        for number, item in enumerate(self.items):
            index, seed, nap, _ = functions.told((item,), {})
            functions.change(random.Random(self.base + number), self.buffer, [1])
            yield self.oracle.take((index, seed, nap, self.buffer))

    def outside(self) -> str:
        """The shape of the caller's own objects."""
        return shape(self.keep, self.items)

    def check(self, outcomes: list[Outcome]) -> list[Any]:
        """Compare with the oracle; returns the results."""
        taken = len(self.oracle.items) if self.buffer is not None else len(self.items)
        if not self.partly and len(outcomes) != taken:
            raise Find(f"{len(outcomes)} results of {taken} items")
        dead = sum(isinstance(outcome.error, forklift.WorkerDied) for outcome in outcomes)
        if dead > self.deaths:
            raise Find(f"{dead} items lost, {self.deaths} workers killed")
        seen: set[int] = set()
        for position, outcome in enumerate(outcomes):
            if not isinstance(outcome.error, forklift.WorkerDied):
                self.compare(position, outcome, seen)
        if self.buffer is None and self.outside() != self.before:
            raise Find(f"the caller's own objects have changed\n{difference(self.before, self.outside())}")
        results = [outcome.value for outcome in outcomes if outcome.error is None]
        self.separate(results)
        return results

    def compare(self, position: int, outcome: Outcome, seen: set[int]) -> None:
        if self.bare:
            order: tuple[int, ...] = (position,)
        else:
            told = outcome.error.args if isinstance(outcome.error, functions.Trouble) else outcome.value
            if outcome.error is not None and not isinstance(outcome.error, functions.Trouble):
                raise Find(f"item {position} raised {outcome.error!r}") from outcome.error
            order = tuple(index - self.base for index in (*told[1], told[0]))
            self.sensible(position, order, seen)
        want = self.oracle.outcome(order)
        expected, found = shape(want.whole()), shape(outcome.whole())
        if expected != found:
            after = f" after {order[:-1]}" if len(order) > 1 else ""
            raise Find(f"item {order[-1]}{after} {wrong(want.whole(), outcome.whole())}")

    def sensible(self, position: int, order: tuple[int, ...], seen: set[int]) -> None:
        """Check that who was there before may have been there, and that no item is there twice."""
        if order[-1] in seen:
            raise Find(f"item {order[-1]} was returned twice")
        seen.add(order[-1])
        if self.ordered and order[-1] != position:
            raise Find(f"at {position} stands the result of item {order[-1]}")
        if not all(0 <= index < len(self.oracle.items) for index in order):
            raise Find(f"item {position} was called by a function that knows of another call: {order}")
        if len(set(order)) < len(order):
            raise Find(f"item {position} was called by a function that was given an item twice: {order}")
        if self.alone and len(order) > 1:
            raise Find(f"item {position} was called by a function that knows of another: {order}")

    def separate(self, results: list[Any]) -> None:
        """Check that results have nothing in common with each other and with the caller's objects."""
        own = {id(found) for found in mutables(self.keep, self.items)}
        places: list[tuple[int, int, int]] = [(*extent, -1) for extent in extents(self.keep, self.items)]
        owners: dict[int, int] = dict.fromkeys(own, -1)
        for number, result in enumerate(results):
            for found in mutables(result):
                if owners.setdefault(id(found), number) != number:
                    raise Find(f"result {number} has a {type(found).__name__} of {named(owners[id(found)])}")
            places += [(*extent, number) for extent in extents(result)]
        end, owner = 0, -1
        for first, last, number in sorted(places):
            if first < end and number != owner:
                raise Find(f"{named(number)} shares memory with {named(owner)}")
            if last > end:
                end, owner = last, number


def named(number: int) -> str:
    return "the caller's" if number < 0 else f"result {number}"


def wrong(want: Any, got: Any) -> str:
    """How the outcome of one item differs."""
    texts = [whole[2] if isinstance(whole, tuple) and len(whole) == 4 else None for whole in (want, got)]
    if texts[0] != texts[1] and all(isinstance(text, str) for text in texts):
        return f"has seen something else\n{difference(*texts)}"
    return f"came back otherwise\n{difference(shape(want), shape(got))}"


def difference(expected: str, found: str) -> str:
    """The first lines in which two shapes differ."""
    left, right = expected.splitlines(), found.splitlines()
    pairs = [pair for pair in zip(left, right, strict=False) if pair[0] != pair[1]]
    lines = [f"  expected  {one[:300]}\n  found     {other[:300]}" for one, other in pairs[:3]]
    if len(left) != len(right):
        lines.append(f"  expected {len(left)} lines, found {len(right)}")
    return "\n".join(lines)
