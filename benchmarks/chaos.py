"""Maps of large mixed items while a killer strikes at random: `make chaos`, ARGS='--seconds 20 --seed 7'.

Payload takes every way that there is: in messages, copied, lent from `shared_arrays()`, as a place in a file, once for
all items, inherited, handed over, spilled to a disk, and written by workers into one array (`map_blocks(out=True)`).
Functions change what they get in place, at any depth, and other calls on the same pool are cancelled meanwhile. Every
result is compared with the for loop's. An item that its worker's death took with it is reported by the pool by name
(`WorkerDied` in its place) and given to the pool again, so nothing may be missing in the end.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import faulthandler
import os
import random
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

import forklift
from forklift.bench.page import machine, table
from tests import house

PAGE = Path(__file__).resolve().parent.parent / "docs" / "chaos.md"
METHODS = ("map", "imap", "imap_unordered", "starmap", "apply_async")
KINDS = ("array", "bytes", "list", "frame", "small", "file", "common", "deep", "tree")
#: What many items hold, so that it is sent once.
COMMON = np.arange(300_000, dtype=np.float32)
FILE = tempfile.NamedTemporaryFile(prefix="forklift-chaos-")  # noqa: SIM115  # it goes with the program
COMMON.astype(np.float64).tofile(FILE.name)
#: Results of a call that hold more than this are spilled.
TIGHT = "8MB"
#: Bytes by the ways that the pools count.
WAYS = ("bytes_in_messages", "bytes_copied_in", "bytes_lent", "result_bytes_handed", "spilled_bytes")
#: What is counted, in the order in which it is told.
FIGURES = (
    "items",
    "items inherited",
    "arrays cut into blocks",
    *WAYS,
    "tried again",
    "lost by name",
    "resubmitted",
    "lost silently",
    "wrong",
    "given up",
)
#: Beyond this the run hangs: stacks are printed and the command fails.
GRACE_SECONDS = 60.0
#: So many strikes at one item in a row are beyond chance.
ATTEMPTS_MAX = 50


class Node:
    """Holds an array, and knows the tree that it is in."""

    def __init__(self, array: Any, root: Any) -> None:
        self.array = array
        self.root = root


def make(index: int, kind: str) -> Any:
    """An item that its index and kind determine."""
    size = 1_000 + index * 7_919 % 200_000
    if kind == "array":
        return np.arange(size, dtype=np.float64) + index
    if kind == "bytes":
        return index.to_bytes(4, "little") * size
    if kind == "list":
        return [index, "text" * (size % 50), np.full(size, index), {"key": bytes(size)}]
    if kind == "file":
        return np.memmap(FILE.name, np.float64, "r", 8 * (index % 1000), shape=(100_000,))
    if kind == "common":
        return COMMON
    if kind == "deep":  # the same array in all items, out of sight
        return {"nodes": [Node(COMMON, None)], "index": index}
    if kind == "tree":
        tree: dict[str, Any] = {"sum": np.zeros(size)}
        tree["nodes"] = [Node(COMMON, tree), Node(np.full(size, index), tree)]
        return tree
    if kind == "frame":
        return pd.DataFrame({"a": np.arange(size) + index, "b": np.full(size, 0.5)})
    return index


def own(value: Any) -> Any:
    """A copy, if any of it is in other items too."""
    return copy.deepcopy(value) if value is COMMON or isinstance(value, dict) else value


def grow(tree: dict[str, Any], index: int) -> Any:
    """Changes parts in place, again and again, so that a half-done attempt would show."""
    for node in tree["nodes"]:
        for _ in range(10):
            node.array += 1
            if node.root is not None:
                node.root["sum"] += node.array[0]
    return [tree["nodes"][0].array[:1000], tree["nodes"][-1].array, tree.get("sum", index)]


def linger(array: Any) -> Any:
    """What nobody wants to the end."""
    time.sleep(0.005)
    array += 1
    return array


def work(index: int, value: Any) -> tuple[int, Any]:
    """Changes arguments in place, as a worker may: an item that is tried again must not show it."""
    time.sleep(index * 31 % 10 / 1000)
    if isinstance(value, np.memmap):
        value = np.asarray(value) + index
    elif isinstance(value, np.ndarray):
        value *= index
    elif isinstance(value, bytes):
        value = value[::-1]
    elif isinstance(value, list):
        value[2] += 1
    elif isinstance(value, dict):
        value = grow(value, index)
    elif isinstance(value, pd.DataFrame):
        value = value * 3
    else:
        value += 1
    return index, value


def work_on(item: tuple[int, Any]) -> tuple[int, Any]:
    return work(*item)


def same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return bool(np.array_equal(left, right))
    if isinstance(left, pd.DataFrame):
        return bool(left.equals(right))
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


class Killer(threading.Thread):
    """Strikes a process of the pool at random moments, now and then the zygote, or a call that nobody wants."""

    def __init__(self, seed: int) -> None:
        super().__init__(name="killer", daemon=True)
        self.random = random.Random(seed)
        self.over = threading.Event()
        self.strikes: Counter[str] = Counter()
        #: Iterators and maps that are there to be dropped and cancelled.
        self.unwanted: deque[Any] = deque()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.over.wait(self.random.uniform(0.05, 0.4)):
                self.strike()
        except BaseException as error:
            self.failure = error
            raise

    def cancel(self) -> None:
        try:
            call = self.unwanted.popleft()
        except IndexError:  # The pool has ended.
            return
        if hasattr(call, "cancel"):
            call.cancel()
        self.strikes["map cancelled" if hasattr(call, "cancel") else "iterator dropped"] += 1

    def strike(self) -> None:
        if self.random.random() < 0.3:
            self.cancel()
            return
        me = psutil.Process()
        try:  # workers that inherit are forks of this process; what it has started otherwise are zygotes
            zygotes = [child for child in me.children() if child.cmdline() != me.cmdline()]
        except psutil.NoSuchProcess:
            return
        workers = [p for p in me.children(recursive=True) if p not in zygotes]
        zygote = self.random.random() < 0.05
        victims = zygotes if zygote else workers
        if not victims:
            return
        victim = self.random.choice(victims)
        way = self.random.choice(["KILL", "KILL", "TERM", "STOP then CONT", "STOP then KILL"])
        try:
            for step, name in enumerate(way.split(" then ")):
                if step:
                    self.over.wait(self.random.uniform(0.0, 0.5))
                victim.send_signal(
                    getattr(signal, "SIG" + name)
                )  # psutil looks whether the pid is still its own
        except psutil.NoSuchProcess:
            return
        self.strikes[("zygote " if zygote else "worker ") + way] += 1


def call(
    pool: Any, method: str, items: list[tuple[int, Any]], chunksize: int | None, inherit: bool
) -> list[Any]:
    """The outcomes of one call: results, or exceptions in their place; imap_unordered's in any order."""
    if method == "starmap":
        return list(pool.starmap(work, items, chunksize, on_error="return", inherit=inherit))
    if method == "apply_async":
        outcomes: list[Any] = []
        for pending in [pool.apply_async(work, item) for item in items]:
            try:
                outcomes.append(pending.get())
            except forklift.WorkerDied as error:
                outcomes.append(error)
        return outcomes
    return list(getattr(pool, method)(work_on, items, chunksize, on_error="return", inherit=inherit))


def unwanted(pool: Any, dice: random.Random) -> Any:
    """A call that is there to be cancelled while others run."""
    items = [np.zeros(dice.choice([10, 9_000, 50_000])) for _ in range(200)]
    if dice.random() < 0.3:
        return pool.map_async(linger, items, chunksize=dice.choice([None, 1]), on_error="return")
    stream = pool.imap(linger, items, chunksize=dice.choice([None, 1, 5]), on_error="return")
    next(stream)  # One of which nothing was ever taken runs to its end.
    return stream


def one_round(pool: Any, dice: random.Random, counts: Counter[str]) -> None:
    method, count = dice.choice(METHODS), dice.randrange(1, 60)
    chunksize = dice.choice([None, 1, 7])
    shared, inherit = dice.random() < 0.5, method != "apply_async" and dice.random() < 0.3
    kinds = {index: dice.choice(KINDS) for index in range(count)}
    counts["items"] += count
    counts["items inherited"] += count * inherit
    missing = set(kinds)
    for attempt in range(ATTEMPTS_MAX):
        if attempt:
            counts["resubmitted"] += len(missing)
        with forklift.shared_arrays() if shared else contextlib.nullcontext():
            items = [(index, make(index, kinds[index])) for index in sorted(missing)]
        if inherit:  # what a worker writes to an object of its own, its later items find in it
            items = [(index, own(value)) for index, value in items]
        outcomes = call(pool, method, items, chunksize, inherit)
        if inherit:  # by workers of the call's own, which the pool does not count
            counts["tried again"] += pool.report().staff["retries"]
        if len(outcomes) != len(missing):
            counts["lost silently"] += abs(len(missing) - len(outcomes))
        for outcome in outcomes:
            if isinstance(outcome, forklift.WorkerDied):
                counts["lost by name"] += 1
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                index, _ = outcome
                missing.discard(index)
                if not same(outcome, work(index, own(make(index, kinds[index])))):
                    counts["wrong"] += 1
                    print(f"wrong: {method} of {kinds[index]}, chunksize={chunksize}, {shared=}, {inherit=}")
        if not missing:
            return
    counts["given up"] += len(missing)


def one_array(pool: Any, dice: random.Random, counts: Counter[str]) -> None:
    """Blocks of one array, which workers write into another."""
    with forklift.shared_arrays() if dice.random() < 0.5 else contextlib.nullcontext():
        array = np.arange(dice.randrange(1, 2_000_000), dtype=np.float64)
    block = dice.choice([None, 20_000])
    negated = pool.map_blocks(np.negative, array, block=block, out=True, retries=ATTEMPTS_MAX)
    counts["arrays cut into blocks"] += 1
    counts["wrong"] += not np.array_equal(negated, -array)


def page(options: argparse.Namespace, killer: Killer, counts: Counter[str], leaks: int) -> list[str]:
    strikes = [["Strikes", ""], *([way, f"{n:,}"] for way, n in sorted(killer.strikes.items()))]
    figures = [["Then", ""], *([name.replace("_", " "), f"{counts[name]:,}"] for name in FIGURES)]
    return [
        "# Under a random killer",
        f"Written by `make chaos ARGS='--seconds {options.seconds:g} --seed {options.seed} --write'`: maps of large "
        "mixed items, by every method and every way that payload takes, while a thread kills, stops and ends workers, "
        "now and then their fork server, and cancels other calls on the same pool, at random moments. Functions change "
        "what they get in place. Every result is compared with the for loop's.",
        machine(),
        table([*strikes, ["all", f"{killer.strikes.total():,}"]]),
        table([*figures, ["leaks", str(leaks)]]),
        "*Tried again*: by the pool, which had `retries`. *Lost by name*: reported as `WorkerDied` in its place by a "
        "pool that had none, and *resubmitted* by the program. *Lost silently*, *wrong*, *given up* and *leaks* "
        "(processes, threads, descriptors, mappings, files) have to be 0, or the command fails.",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--write", action="store_true", help=f"write docs/{PAGE.name}")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    faulthandler.dump_traceback_later(options.seconds + GRACE_SECONDS, exit=True)
    os.environ[house.MARK] = f"chaos-{os.getpid()}-{options.seed}"
    before = house.look()
    counts: Counter[str] = Counter()
    dice, killer, end = (
        random.Random(options.seed),
        Killer(options.seed + 1),
        time.monotonic() + options.seconds,
    )
    # The killer is a thread that forks should not meet: it holds no lock that a worker needs.
    warnings.filterwarnings("ignore", "inherit=True forks this process", RuntimeWarning)
    killer.start()
    try:
        while time.monotonic() < end:
            # Half of the pools try items again by themselves; for the others this program does it.
            limit = dice.choice([None, TIGHT])
            with forklift.Pool(4, retries=dice.choice([0, 20]), memory_limit=limit) as pool:
                for _ in range(dice.randrange(1, 20)):
                    if dice.random() < 0.5 and len(killer.unwanted) < 3:
                        killer.unwanted.append(unwanted(pool, dice))
                    one_round(pool, dice, counts)
                    if dice.random() < 0.2:
                        one_array(pool, dice, counts)
                    if time.monotonic() > end:
                        break
                killer.unwanted.clear()
                counters = pool._counters()
                counts["tried again"] += counters["retried"]
                for way in WAYS:
                    counts[way] += counters[way]
    finally:
        killer.over.set()
        killer.join()
        if counts["items"]:
            print(f"strikes {killer.strikes.total()}: {dict(sorted(killer.strikes.items()))}")
            for name in FIGURES:
                print(f"{name} {counts[name]}")
    left = before.sweep(strict=True)
    print(f"leaks {len(left)}", *left, sep="\n  ")
    faulthandler.cancel_dump_traceback_later()
    bad = counts["lost silently"] + counts["wrong"] + counts["given up"] + len(left)
    if options.write:
        PAGE.write_text("\n\n".join(page(options, killer, counts, len(left))) + "\n")
    return int(bool(bad or killer.failure))


if __name__ == "__main__":
    sys.exit(main())
