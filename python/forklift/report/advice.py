"""What to do about a call that could be faster: rules over the figures of a report.

Each rule is a function of a report alone. It says what it would win, in seconds; what wins less than a tenth of the
call is not worth saying. Rules name their evidence in figures, so that a reader can judge them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from forklift._plain import plain
from forklift._units import count, counted, percent, seconds, size

if TYPE_CHECKING:
    from forklift.report.figures import Report

#: Advice that wins less than this, or than this share of the call, is not given.
SECONDS_MIN = 0.02
SHARE_MIN = 0.1

# Below this, an item and its result travel inside messages.
_SMALL_BYTES = 16 << 10

# What forking a worker costs, and its page tables: see `forklift._estimate`.
_BIRTH_SECONDS, _FORK_SECONDS_PER_BYTE = 0.005, 30e-3 / 2**30


@dataclass(frozen=True)
class Advice:
    """One piece of advice."""

    rule: str
    """The rule's name."""
    text: str
    """What was found, and what to do."""
    seconds: float
    """About what it would win."""
    evidence: Mapping[str, float]
    """The figures that speak for it."""


Rule = Callable[["Report"], Advice | None]


def advise(report: Report) -> list[Advice]:
    """Return what there is to say, what wins most first."""
    least = max(SECONDS_MIN, SHARE_MIN * report.wall)
    rules = [rule for rule in RULES if not (report.nodes and rule in OF_ONE_MACHINE)]
    found = [advice for rule in rules if (advice := rule(report)) is not None and advice.seconds >= least]
    # Modules and nodes are named by others.
    found = [replace(advice, text=plain(advice.text)) for advice in found]
    return sorted(found, key=lambda advice: -advice.seconds)


def _sides(report: Report) -> int:
    """How many workers can work at a time."""
    return report.sides


def _decoding(report: Report) -> float:
    """What decoding items costs, as a part of the wall time.

    Of workers' first answers only the time for decoding and function together is known, in which they import what items
    and function need: `slow_start` says so. They count as later ones did, where there were enough of these.
    """
    decode = report.workers["decode"]
    items, seconds = report.firsts[1:3]
    if 0 < 2 * items <= report.answered:
        later = max(decode - seconds, 0.0)
        decode = min(decode, later * report.answered / (report.answered - items))
    return decode / _sides(report)


def _there(report: Report) -> float:
    """What items cost on their way, as a part of the wall time."""
    return report.parent["encode"] + report.parent["copy"] + _decoding(report)


def _back(report: Report) -> float:
    """What results cost on their way, as a part of the wall time."""
    workers = report.workers
    return report.parent["decode_result"] + (workers["encode_result"] + workers["hand_over"]) / _sides(report)


def small_items(report: Report) -> Advice | None:
    """The work per item is smaller than what any transport costs."""
    items = report.answered
    payload = sum(report.bytes_in.values()) + sum(report.bytes_out.values())
    if items < 100 or report.speedup >= 1 or payload > _SMALL_BYTES * items:
        return None
    each, moved = report.work / items, (report.wall * _sides(report) - report.work) / items
    if each >= moved:
        return None
    return Advice(
        "small_items",
        f"Items are too small: the function takes {seconds(each)} for one, and moving it to a worker and back "
        f"takes {seconds(moved)}. A for loop would take {seconds(report.work)}, not {seconds(report.wall)}. Use "
        "one, or make items larger: many to one call of the function.",
        report.wall - report.work,
        {"seconds_per_item": each, "seconds_to_move_one": moved, "seconds_of_a_for_loop": report.work},
    )


def heavy_results(report: Report) -> Advice | None:
    """Results dominate."""
    cost = _back(report)
    out = report.bytes_out
    if report.answered == 0 or sum(out.values()) < _SMALL_BYTES * report.answered or cost < _there(report):
        return None
    moved = sum(out.values())
    cure = "Return less: the part that you need, or a smaller type."
    if out["handed_over"] < 0.9 * moved:
        cure = (
            f"Only {size(out['handed_over'])} of it could be handed over as it lay: return less, or new arrays that "
            "nothing in the worker keeps, which are not copied."
        )
    cure += (
        " Where results are parts of one array, map_blocks(out=) has workers write them where they shall lie."
    )
    return Advice(
        "heavy_results",
        f"Results take longer than items: {seconds(cost)} of {seconds(report.wall)} for {size(moved)}. {cure}",
        cost,
        {"seconds": cost, "bytes": moved, "bytes_handed_over": out["handed_over"]},
    )


def tail(report: Report) -> Advice | None:
    """One item, or one chunk, is all that the end of the call waits for."""
    ends = sorted(lane.end for lane in report.lanes)
    if not report.finished or len(ends) < 2 or report.fold > 1 or not report.records:
        return None
    last = max(report.records, key=lambda chunk: chunk.end)
    alone = last.end - max(ends[-2], last.begin)
    lost = alone * (1 - 1 / len(ends))
    what = f"item {last.first}"
    if last.items > 1:
        what = f"the chunk of items {last.first} to {last.first + last.items - 1}"
    cure = (
        "Put long items first, or cut them into smaller ones."
        if last.items == 1 or not report.chunksize
        else f"Give a smaller chunksize than {report.chunksize}, or none."
    )
    return Advice(
        "tail",
        f"The end waits for one worker: {what} took {seconds(last.end - last.begin)}, and for the last "
        f"{seconds(alone)} of it the other workers had nothing to do. {cure}",
        lost,
        {"first_item": last.first, "items": last.items, "seconds": last.end - last.begin, "alone": alone},
    )


def slow_start(report: Report) -> Advice | None:
    """Each worker's first items take much longer than later ones: they import something, or load it."""
    workers, items, _, least = report.firsts
    if workers == 0 or report.answered < 2 * items:
        return None
    usual = report.item_seconds.quantile(0.5) * items / workers
    extra = least - usual
    if extra < 4 * usual:
        return None
    found = f"The first items of each worker took {seconds(least)}, where {seconds(usual)} would be usual"
    names = _telling(report.imported)
    if names:
        quoted = ", ".join(f'"{name}"' for name in names)
        cure = (
            f": they imported {', '.join(names)}. Pool(preload=[{quoted}]) imports them once, before any "
            "worker is forked."
        )
    else:
        cure = ": they open or load something. Do it in an initializer, or pool.share() what they load."
    return Advice("slow_start", found + cure, extra, {"seconds": least, "usual": usual, "workers": workers})


def _telling(names: list[str]) -> list[str]:
    """Return the modules that are worth naming. The standard library's are quick, or come with others."""
    return ([name for name in names if name not in sys.stdlib_module_names] or names)[:3]


def fighting_threads(report: Report) -> Advice | None:
    """Threads of libraries fight for the cores that other workers use."""
    cpu = sum(lane.cpu for lane in report.lanes)
    others = sum(lane.cpu_of_other_threads for lane in report.lanes)
    if len(report.lanes) < 2 or cpu <= 0 or len(report.lanes) < report.cores or others < 0.2 * cpu:
        return None
    return Advice(
        "fighting_threads",
        f"Threads of libraries (BLAS, OpenMP) took {percent(others / cpu)} of the workers' processor time, while "
        f"{len(report.lanes)} workers already fill {counted(report.cores, 'core')}. Set OMP_NUM_THREADS=1 and its like "
        "(OPENBLAS_NUM_THREADS, MKL_NUM_THREADS) before the pool is made, or take fewer workers.",
        others / _sides(report) / 2,
        {"cpu_seconds": cpu, "cpu_seconds_of_other_threads": others},
    )


def short_of_memory(report: Report) -> Advice | None:
    """The pool admitted less because memory was short, and workers waited for it."""
    from forklift.report.text import least

    # A seat to which nothing came has no lane.
    busy = sum(spent for name, spent in report.workers.items() if name not in ("wait_for_work", "away"))
    idle = min(report.throttled, report.wall - busy / _sides(report))
    if not report.throttled:
        return None
    return Advice(
        "short_of_memory",
        f"Memory was short: for {seconds(report.throttled)} of {seconds(report.wall)} the pool admitted less than it "
        f"otherwise does, {least(report)}, and its workers waited for items meanwhile. Free memory that others hold, "
        "take smaller items, or fewer workers, which hold less together; raise the cgroup's limit if that is what is "
        "reached.",
        idle,
        {
            "seconds": report.throttled,
            "times": sum(p < 100 for _, p in report.admitted),
            "seconds_idle": idle,
        },
    )


def deaths(report: Report) -> Advice | None:
    """Workers died, or could not be born."""
    died, unborn = report.staff["deaths"], report.staff["failed_births"]
    stopped = report.staff.get("stopped_for_memory", 0)
    if not died and not unborn:
        return None
    left = f"{size(report.memory_available)} of memory are left"
    if unborn:
        text = (
            f"{counted(unborn, 'worker')} could not be born: {count(len(report.lanes))} of {count(report.processes)} "
            f"worked. {left}; limits of processes and descriptors are what else to look at."
        )
    elif stopped == died:
        text = (
            f"{counted(died, 'worker')} had to be stopped: during a call they held more than half as much again as "
            "worker_memory_limit. Raise it, or take smaller items, or a function that holds less at a time."
        )
    else:
        some = f" ({count(stopped)} stopped at worker_memory_limit)" if stopped else ""
        text = (
            f"{counted(died, 'worker')} died{some} and {'was' if died == 1 else 'were'} replaced; what "
            f"{'it was' if died == 1 else 'they were'} at was lost or done again. {left}. If the system killed for "
            "want of memory, take fewer workers, or smaller items."
        )
    evidence = {"deaths": died, "failed_births": unborn, "memory_available": report.memory_available}
    return Advice("deaths", text, report.wall, evidence)


def too_few_chunks(report: Report) -> Advice | None:
    """There is less to hand out than there are workers."""
    workers = _sides(report)
    if not report.finished or report.call == "apply" or not 0 < report.chunks < workers:
        return None
    lost = report.wall * (1 - report.chunks / workers)
    if report.submitted > report.chunks:
        cure = f"chunksize={report.chunksize} is too large: give a smaller one, or none."
    else:
        cure = "Cut them into smaller ones."
    return Advice(
        "too_few_chunks",
        f"{counted(report.submitted, 'item')} in {counted(report.chunks, 'chunk')} can keep no more than "
        f"{count(report.chunks)} of {counted(workers, 'worker')} busy. {cure}",
        lost,
        {"items": report.submitted, "chunks": report.chunks, "workers": workers},
    )


def too_many_workers(report: Report) -> Advice | None:
    """More workers than cores, and all cores busy."""
    cpu = sum(lane.cpu for lane in report.lanes)
    if len(report.lanes) <= report.cores or cpu < 0.7 * report.cores * report.wall:
        return None
    waste = report.work - cpu
    return Advice(
        "too_many_workers",
        f"{count(len(report.lanes))} workers share {counted(report.cores, 'core')}: they were at work for "
        f"{seconds(report.work)}, and had a core for {seconds(cpu)} of it. {counted(report.cores, 'worker')} would do "
        "as much, with less memory.",
        max(waste / len(report.lanes), 0.0),
        {"workers": len(report.lanes), "cores": report.cores, "cpu_seconds": cpu},
    )


def repeated_object(report: Report) -> Advice | None:
    """Items of an iterator hold the same object."""
    copied = report.bytes_in["copied"]
    if copied == 0 or report.repeated_bytes < 0.3 * copied:
        return None
    share = min(1.0, report.repeated_bytes / copied)
    cost = (report.parent["copy"] + report.parent["encode"]) * share
    return Advice(
        "repeated_object",
        f"Items hold the same object: {size(report.repeated_bytes)} of {size(copied)} were copied again from where "
        "the item before had them. It could not be sent once, because an iterator may change what it has "
        "yielded. Give a list, or pool.share() the object.",
        cost,
        {"repeated_bytes": report.repeated_bytes, "copied_bytes": copied},
    )


def python_objects(report: Report) -> Advice | None:
    """Turning Python objects into bytes and back dominates."""
    if not report.inherit.startswith("copy") or report.answered == 0:
        return None
    cost = report.parent["encode"] + _decoding(report)
    large = sum(report.bytes_in.values()) >= 1024 * report.answered
    if not large or cost < report.parent["copy"] or cost / report.answered < 20e-6:
        return None
    held = report.memory[0].parent if report.memory else 0
    forking = report.processes * (_BIRTH_SECONDS + held * _FORK_SECONDS_PER_BYTE)
    why_not = report.inherit.removeprefix("copy: ")
    return Advice(
        "python_objects",
        f"Turning items into bytes and back took {seconds(cost)} of {seconds(report.wall)}. With inherit=True workers "
        f"see them as they are; forking takes about {seconds(forking)}, so that would win {seconds(cost - forking)}. "
        f"It was not done by itself: {why_not}. Arrays in place of lists would do as well.",
        cost - forking,
        {"seconds": cost, "seconds_of_forking": forking},
    )


def copied_items(report: Report) -> Advice | None:
    """Copying large items dominates."""
    copied = report.bytes_in["copied"]
    if report.repeated_bytes >= 0.3 * copied:
        return None
    cost = report.parent["copy"]
    return Advice(
        "copied_items",
        f"Copying {size(copied)} of items into shared memory took {seconds(cost)} of {seconds(report.wall)}. Arrays "
        "that are made within forklift.shared_arrays(), and files opened with numpy.memmap, are not copied.",
        cost,
        {"seconds": cost, "bytes": copied},
    )


def slow_iterable(report: Report) -> Advice | None:
    """Making the items takes the time."""
    cost = min(report.parent["pull"], report.wall - report.work / _sides(report))
    return Advice(
        "slow_iterable",
        f"Taking items from the iterable took {seconds(report.parent['pull'])} of {seconds(report.wall)}: one thread "
        "of this process makes them while the workers wait. Let the function make them, from names, offsets or seeds.",
        cost,
        {"seconds": report.parent["pull"], "workers_waited": report.workers["wait_for_work"]},
    )


def one_machine(report: Report) -> Advice | None:
    """The call would be done sooner without the way to other machines."""
    if not report.nodes:
        return None
    crossing = report.workers["crossing"] / report.sides
    at_home = report.work / report.cores + _there(report) + _back(report)
    if at_home >= report.wall or crossing < SHARE_MIN * report.wall:
        return None
    return Advice(
        "one_machine",
        f"One machine would do: the function took {seconds(report.work)} in all, which {count(report.cores)} cores "
        f"here would do in about {seconds(at_home)}, and the call took {seconds(report.wall)}. "
        f"{size(report.network_bytes)} went through {report.engine}, and each worker spent {seconds(crossing)} "
        "waiting for them. Leave out backend=.",
        report.wall - at_home,
        {"seconds_here": at_home, "seconds_crossing": crossing, "network_bytes": report.network_bytes},
    )


#: Rules whose cure is of no use to workers on other machines.
OF_ONE_MACHINE: tuple[Rule, ...] = (too_many_workers, python_objects, copied_items)

RULES: tuple[Rule, ...] = (
    one_machine,
    small_items,
    heavy_results,
    tail,
    slow_start,
    fighting_threads,
    short_of_memory,
    deaths,
    too_few_chunks,
    too_many_workers,
    repeated_object,
    python_objects,
    copied_items,
    slow_iterable,
)
