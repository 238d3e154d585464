"""One case of the fuzzer: a pool, the calls that are made on it, and what befalls it meanwhile.

All of it follows from a seed and a number, but for the moments at which things happen.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import forklift
from tests.fuzz import blocks, functions
from tests.fuzz.calls import Call, Find, Maker
from tests.fuzz.oracle import Outcome
from tests.fuzz.routes import EXECUTOR_ROUTES, RETRIES, ROUTES, Route
from tests.fuzz.shapes import mutables, shape

__all__ = ["CLASSES", "Episode"]

#: What can be left out, with `--without`.
CLASSES = {
    "sharing": "objects that items have in common, with each other or with the function",
    "cycles": "objects that refer to themselves",
    "state": "functions with a state of their own",
    "kept": "functions that keep parts of arguments, and return what they keep",
    "globals": "functions of __main__ that read globals, which the caller changes",
    "lent": "arrays of shared_arrays(), and shared values",
    "generators": "iterables other than lists",
    "cancel": "iterators that are dropped, and maps that are cancelled",
    "kill": "workers that are killed",
    "idle": "rests between calls",
    "inherit": "inherit=True and inherit='auto'",
    "contexts": "context='fork' and 'spawn'",
    "limits": "tiny memory limits",
    "recycling": "maxtasksperchild=1",
    "blocks": "map_blocks",
    "executor": "Executor",
    "one-liners": "forklift.map and forklift.starmap",
    "joblib": "joblib",
    "trouble": "functions that raise",
}

#: Calls of an episode.
CALLS_MAX = 10
#: Results that are held, to be looked at later.
HELD_MAX = 12


class Episode:
    """One case."""

    def __init__(self, seed: int, number: int, without: frozenset[str] = frozenset()) -> None:
        self.name = f"{seed} {number}"
        self.dice = random.Random(self.name)
        self.without = without
        self.counts: Counter[str] = Counter()
        self.maker = Maker(self.dice, without)
        self.held: list[tuple[str, Any, str]] = []
        self.story: list[str] = []

    def maybe(self, name: str, chance: float) -> bool:
        """Whether something of this class shall be done now."""
        return self.dice.random() < chance and name not in self.without

    def play(self) -> None:
        """Make all calls; raises `Find`, which tells the story so far."""
        executor = self.maybe("executor", 0.25)
        settings = self.settings(executor)
        self.story.append(f"{'Executor' if executor else 'Pool'}({settings})")
        try:
            with forklift.Executor(**settings) if executor else forklift.Pool(**settings) as pool:
                for step in range(self.dice.randrange(1, CALLS_MAX)):
                    self.dice.seed(f"{self.name} {step}")  # whatever came of the step before
                    self.step(pool, EXECUTOR_ROUTES if executor else ROUTES)
            if not executor:
                pool.join()
            self.look_back("the pool has ended")
        except Exception as error:
            kind = "" if isinstance(error, Find) else f"{type(error).__name__}: "
            raise Find("\n".join([*self.story, f"{kind}{error}"])) from error
        finally:
            self.maker.globals.reset()

    def settings(self, executor: bool) -> dict[str, Any]:
        made: dict[str, Any] = {("max_workers" if executor else "processes"): self.dice.choice([1, 2, 2, 3])}
        if self.maybe("contexts", 0.25):
            made["mp_context" if executor else "context"] = self.dice.choice(["fork", "spawn"])
        if self.maybe("limits", 0.2):
            made["memory_limit"] = self.dice.choice(["1MB", "8MB"])
        slow = "spawn" in made.values() or made.get("mp_context") == "fork"  # or refused
        if self.maybe("recycling", 0.15) and not slow:
            made["max_tasks_per_child" if executor else "maxtasksperchild"] = 1
        if "inherit" in self.without:
            made["inherit"] = False
        return made

    def step(self, pool: Any, routes: dict[str, Route]) -> None:
        """A few calls at the same time, and a rest."""
        names = [name for name, route in routes.items() if not route.needs or route.needs not in self.without]
        if routes is ROUTES and self.maybe("blocks", 0.12):
            self.story.append("map_blocks")
            self.counts["map_blocks"] += 1
            blocks.one(pool, self.dice)
        else:
            chosen = [self.dice.choice(names) for _ in range(self.dice.choice([1, 1, 2, 3]))]
            self.together(pool, [(name, routes[name]) for name in chosen])
        if self.maybe("idle", 0.1):
            time.sleep(2 * float(os.environ.get("FORKLIFT_TRIM_SECONDS", "0.1")))
        self.look_back("later")

    def together(self, pool: Any, chosen: list[tuple[str, Route]]) -> None:
        kills = self.maybe("kill", 0.15) and all(route.mortal for _, route in chosen)
        with self.killer(pool) if kills else contextlib.nullcontext([]) as killed:
            begun = []
            for name, route in chosen:
                call, terms = self.make(name, route, kills)
                self.story.append(f"{name} of {call.title}, {len(call.items)} items, {terms}")
                self.counts[name] += 1
                self.counts["items"] += len(call.items)
                begun.append((call, route.begin(pool, call, self.dice, terms)))
            made = [(call, finish()) for call, finish in begun]
        for call, outcomes in made:
            call.deaths = len(killed)
            self.check(call, outcomes)

    def make(self, name: str, route: Route, kills: bool) -> tuple[Call, dict[str, Any]]:
        terms: dict[str, Any] = {}
        inheritable = "map" in name and not route.alone and not route.held
        forkable = "spawn" not in self.story[0] or name.startswith("forklift.")
        apart = inheritable and forkable and self.maybe("inherit", 0.06)
        if apart:
            terms["inherit"] = True
        elif inheritable and self.dice.random() < 0.5:
            terms["inherit"] = False
        if kills and inheritable and self.dice.random() < 0.5:
            terms["retries"] = RETRIES
        trouble = route.trouble and "trouble" not in self.without
        call = self.maker.call(
            route.form,
            apart=apart,
            held=route.held or apart,
            listed="map_async" in name,
            trouble=trouble,
            bare=route.ordered,
        )
        call.ordered, call.alone = route.ordered, route.alone
        return call, terms

    def check(self, call: Call, outcomes: list[Outcome]) -> None:
        try:
            results = call.check(outcomes)
        except Find as find:
            raise Find(f"{call.title}: {find}") from find
        for result in results:
            self.held.append((call.title, result, shape(result)))
        if results:
            self.maker.results = results[:4]
        del self.held[:-HELD_MAX]

    def look_back(self, when: str) -> None:
        """Check that results are what they were, but for what is written to them here."""
        for title, result, before in self.held:
            if shape(result) != before:
                raise Find(f"{when}, a result of {title} is no longer what it was")
        if self.held and self.dice.random() < 0.5:
            number = self.dice.randrange(len(self.held))
            title, result, _ = self.held[number]
            within = mutables(result)
            if within:
                functions.change(self.dice, self.dice.choice(within), within)
            self.held[number] = title, result, shape(result)
            for other, (owner, held, before) in enumerate(self.held):
                if other != number and shape(held) != before:
                    raise Find(f"a write to a result of {title} shows in one of {owner}")

    @contextlib.contextmanager
    def killer(self, pool: Any) -> Iterator[list[int]]:
        """Kill workers of this pool meanwhile."""
        killed: list[int] = []
        over = threading.Event()
        moments = [self.dice.uniform(0.0, 0.03) for _ in range(self.dice.choice([1, 1, 3]))]
        choice = random.Random(self.dice.random())

        def strike() -> None:
            for moment in moments:
                if over.wait(moment):
                    return
                with contextlib.suppress(ValueError, ProcessLookupError):
                    staff = getattr(pool, "_desk", None)
                    workers = (pool if staff is None else staff.pool).workers()
                    pids = [worker.pid for worker in workers if worker.pid is not None]
                    if pids:
                        killed.append(choice.choice(pids))
                        os.kill(killed[-1], signal.SIGKILL)

        thread = threading.Thread(target=strike, name="fuzz-killer", daemon=True)
        self.story.append("with workers killed:")
        thread.start()
        try:
            yield killed
        finally:
            over.set()
            thread.join()
