"""Advice: each rule on figures that must bring it about and on figures that must not, and on real calls."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import pytest

from forklift import Pool
from forklift.report import Chunk, Histogram, Lane, Look, Report
from forklift.report.advice import RULES, advise
from tests.patience import until

MB = 1 << 20
NOTHING = dict.fromkeys(
    ("wait_for_work", "crossing", "decode", "compute", "encode_result", "hand_over", "away"), 0.0
)


def lanes(*computes, cpu=None, others=0.0, **more):
    """Seats whose workers computed so long, and then had nothing to do."""
    seats = []
    for slot, compute in enumerate(computes):
        seconds = NOTHING | {"compute": compute} | more
        own = compute if cpu is None else cpu
        seats.append(Lane(slot, 50, 50, 0.0, compute, seconds, own, others))
    return seats


def figures(**changes) -> Report:
    """A call that went as well as it could: 100 items of 20 ms on two cores, in 1.05 s."""
    usual = {
        "call": "map",
        "function": "work",
        "processes": 2,
        "cores": 2,
        "chunksize": 0,
        "total": 100,
        "wall": 1.05,
        "finished": True,
        "submitted": 100,
        "answered": 100,
        "failed": 0,
        "lost": 0,
        "chunks": 100,
        "parent": {
            "pull": 0.001,
            "encode": 0.01,
            "copy": 0.01,
            "wait_for_room": 0.9,
            "wait_for_results": 0.05,
            "decode_result": 0.005,
        },
        "lanes": lanes(1.0, 1.0),
        "bytes_in": {"in_message": 1000, "copied": 50 * MB, "by_reference": 0, "once_per_call": 500},
        "bytes_out": {"in_message": 1000, "copied": 0, "handed_over": 0},
        "repeated_bytes": 0,
        "item_seconds": Histogram(100, 0.02, 0.02, 0.02, [(0.02, 100)]),
        "item_bytes_in": Histogram(100, MB / 2, MB / 2, MB / 2, [(MB / 2, 100)]),
        "item_bytes_out": Histogram(100, 10, 10, 10, [(10, 100)]),
        "longest": (3, 0.02, 0),
        "firsts": (2, 2, 0.042, 0.021),
        "imported": [],
        "staff": {"births": 2, "failed_births": 0, "deaths": 0, "recycles": 0, "retries": 0},
        "incidents": [],
        "memory": [Look(0.0, 100 * MB, 0, 0, 0)],
        "memory_available": 8 << 30,
        "fold": 1,
        "records": [
            Chunk(0.98, 1.0, slot, 7, 98 + slot, 1, 1, MB, 10, 0.0, 0.02, 0.0, 0.0) for slot in range(2)
        ],
        "inherit": "copy: the items are few, or cheap to encode",
        "version": "0",
    }
    usual["parent"] |= changes.pop("parent", {})
    for name in ("bytes_in", "bytes_out", "staff"):
        usual[name] = usual[name] | changes.pop(name, {})
    return Report(**(usual | changes))


def chunk(slot, begin, end, first=0, items=1):
    return Chunk(begin, end, slot, 7, first, items, 1, 1, 1, 0.0, end - begin, 0.0, 0.0)


#: Rule: figures that bring it about (with words that the advice must have), and figures close to them that do not.
SMALL = {"bytes_in": {"copied": 0}, "wall": 1.0, "parent": {"encode": 0.5}}
CASES = {
    "small_items": (
        figures(lanes=lanes(0.05, 0.05), answered=100_000, **SMALL),
        ["1.00 µs for one", "19.0 µs", "for loop would take 100 ms, not 1.00 s"],
        [
            figures(lanes=lanes(0.8, 0.8), answered=100_000, **SMALL),  # a speed-up all the same
            figures(lanes=lanes(0.05, 0.05), answered=50, **SMALL),  # too few to say
            figures(lanes=lanes(0.05, 0.05), answered=100, **(SMALL | {"bytes_in": {"copied": 100 * MB}})),
        ],
    ),
    "heavy_results": (
        figures(
            bytes_out={"copied": 800 * MB},
            parent={"decode_result": 0.1},
            lanes=lanes(0.3, 0.3, hand_over=0.5),
        ),
        ["600 ms of 1.05 s for 839 MB", "Only 0 of it", "map_blocks(out=)"],
        [
            figures(bytes_out={"copied": 800 * MB}, lanes=lanes(0.9, 0.9, hand_over=0.01)),  # cheap
            figures(parent={"decode_result": 0.3}),  # small results
            figures(
                bytes_out={"copied": 800 * MB}, parent={"decode_result": 0.2, "copy": 0.4}
            ),  # items cost more
        ],
    ),
    "tail": (
        figures(
            lanes=lanes(0.5, 1.0),
            records=[chunk(0, 0.4, 0.5, 98), chunk(1, 0.2, 1.0, 99)],
        ),
        ["item 99 took 800 ms", "last 500 ms", "Put long items first"],
        [
            figures(),
            figures(lanes=lanes(0.5, 1.0), records=[chunk(1, 0.2, 1.0, 99)], finished=False),
            figures(lanes=lanes(1.0), records=[chunk(0, 0.2, 1.0, 99)], processes=1),
        ],
    ),
    "slow_start": (
        figures(firsts=(2, 2, 1.3, 0.62), imported=["pandas", "re", "scipy", "six", "ast"]),
        ["took 620 ms", "20.0 ms would be usual", 'preload=["pandas", "scipy", "six"]'],
        [
            figures(firsts=(2, 2, 0.7, 0.03)),  # one worker only: not what each pays
            figures(firsts=(2, 60, 1.3, 0.62)),  # there was little after them
        ],
    ),
    "fighting_threads": (
        figures(lanes=lanes(1.0, 1.0, cpu=1.0, others=0.5)),
        ["50 % of the workers' processor time", "2 workers already fill 2 cores", "OMP_NUM_THREADS=1"],
        [
            figures(lanes=lanes(1.0, 1.0, cpu=1.0, others=0.1)),
            figures(lanes=lanes(1.0, 1.0, cpu=1.0, others=0.5), cores=8),  # there is room
        ],
    ),
    "deaths": (
        figures(staff={"deaths": 3}, memory_available=40 * MB),
        ["3 workers died", "41.9 MB of memory are left"],
        [figures(staff={"recycles": 3})],
    ),
    "short_of_memory": (
        figures(
            admitted=[(0.1, 50), (0.2, 0), (0.5, 100), (0.7, 50), (0.8, 100)],
            lanes=lanes(0.4, 0.4, wait_for_work=0.6),
        ),
        ["500 ms of 1.05 s", "down to one chunk at a time"],
        [
            figures(lanes=lanes(0.4, 0.4, wait_for_work=0.6)),  # all was admitted
            figures(admitted=[(0.1, 50)]),  # and was enough
        ],
    ),
    "too_few_chunks": (
        figures(chunks=1, chunksize=100, lanes=lanes(1.0)),
        ["100 items in 1 chunk can keep no more than 1 of 2 workers busy", "chunksize=100 is too large"],
        [figures(chunks=2, chunksize=50), figures(chunks=1, call="apply", lanes=lanes(1.0))],
    ),
    "too_many_workers": (
        figures(processes=8, lanes=lanes(*[1.0] * 8, cpu=0.25)),
        ["8 workers share 2 cores", "had a core for 2.00 s"],
        [figures(processes=8, lanes=lanes(*[1.0] * 8, cpu=0.01))],  # they sleep
    ),
    "repeated_object": (
        figures(repeated_bytes=49 * MB, parent={"copy": 0.5}),
        ["51.4 MB of 52.4 MB", "iterator", "pool.share()"],
        [figures(repeated_bytes=MB, parent={"copy": 0.5})],
    ),
    "python_objects": (
        figures(parent={"encode": 0.5}, lanes=lanes(0.5, 0.5, decode=0.4)),
        [
            "887 ms of 1.05 s",
            "inherit=True",
            "forking takes about 15.9 ms",
            "would win 871 ms",
            "few, or cheap",
        ],
        [
            figures(parent={"encode": 0.5}, inherit="inherit: inherit=True"),
            figures(parent={"encode": 0.05, "copy": 0.5}),  # arrays
            figures(
                parent={"encode": 0.05}, lanes=lanes(0.6, 0.6, decode=0.4), firsts=(2, 2, 0.82, 0.4)
            ),  # imports
        ],
    ),
    "copied_items": (
        figures(parent={"copy": 0.5}),
        ["Copying 52.4 MB", "500 ms of 1.05 s", "shared_arrays()"],
        [figures(parent={"copy": 0.05}), figures(parent={"copy": 0.5}, repeated_bytes=49 * MB)],
    ),
    "slow_iterable": (
        figures(parent={"pull": 0.8}, lanes=lanes(0.2, 0.2, wait_for_work=0.8)),
        ["iterable took 800 ms of 1.05 s"],
        [figures(parent={"pull": 0.8})],  # while the workers were busy anyway
    ),
    "one_machine": (
        figures(engine="Ray", nodes=["a", "b"], wall=3.0, lanes=lanes(1.0, 1.0, crossing=1.8)),
        [
            "One machine would do",
            "2.00 s in all",
            "2 cores here would do in about 1.02 s",
            "each worker spent 1.80 s",
        ],
        [
            figures(wall=3.0, lanes=lanes(1.0, 1.0, crossing=1.8)),  # on this machine
            figures(engine="Ray", nodes=["a", "b"], wall=1.1, lanes=lanes(1.0, 1.0, crossing=0.05)),
            figures(
                engine="Ray", nodes=list("abcd"), processes=4, wall=1.1, lanes=lanes(*[1.0] * 4, crossing=0.2)
            ),
        ],
    ),
}


def test_every_rule_has_a_case():
    assert {rule.__name__ for rule in RULES} == set(CASES)


def test_a_call_that_went_well_gets_no_advice():
    assert advise(figures()) == []


@pytest.mark.parametrize("rule", CASES)
def test_what_must_bring_it_about(rule):
    report, words, _ = CASES[rule]
    found = {advice.rule: advice for advice in advise(report)}
    assert rule in found, found
    for word in words:
        assert word in found[rule].text, found[rule].text
    assert found[rule].evidence and found[rule].seconds > 0
    assert "Advice" in str(report)
    assert max(map(len, str(report).splitlines())) <= 80


@pytest.mark.parametrize("rule", CASES)
def test_what_must_not(rule):
    for report in CASES[rule][2]:
        assert rule not in [advice.rule for advice in advise(report)], report


@pytest.mark.parametrize(
    ("died", "stopped", "words"),
    [
        (1, 0, "1 worker died and was replaced; what it was at"),
        (2, 1, "2 workers died (1 stopped at worker_memory_limit) and were replaced; what they were at"),
        (2, 2, "2 workers had to be stopped: during a call they held more"),
    ],
)
def test_workers_that_were_stopped_are_told_from_those_that_died(died, stopped, words):
    report = figures(staff={"deaths": died, "stopped_for_memory": stopped})
    [advice] = advise(report)
    assert advice.rule == "deaths" and words in advice.text


def test_advice_that_wins_most_comes_first():
    report = figures(parent={"encode": 0.2, "copy": 0.15}, lanes=lanes(0.2, 0.2, wait_for_work=0.8))
    wins = [advice.seconds for advice in advise(report)]
    assert len(wins) >= 2 and wins == sorted(wins, reverse=True)


# Real calls: advice names why they do not scale. --------------------------------------------------------


def negate(number):
    return -number


def nap(seconds):
    time.sleep(seconds)


def die_on_three(number):
    if number == 3:
        os._exit(1)
    time.sleep(0.01)


def make_rows(count):
    return [(number, str(number)) for number in range(count)]


def import_slowly(directory):
    if directory not in sys.path:
        sys.path.insert(0, directory)
    import slow_module

    time.sleep(0.001)
    return slow_module.VALUE


def count_rows(rows):
    return len(rows)


def total(array):
    return float(array[0])


def slowly(count):
    for number in range(count):
        time.sleep(0.01)
        yield number


def called(call, first=negate):
    """The report of a call on new workers, which know this module, and have imported nothing for the call."""
    with Pool(2) as pool:
        pool.map(first, range(4), 1)
        call(pool)
        return pool.report()


def advised(rule, call):
    """The advice of that rule on a call. What else a machine does can hide what takes the time: then on the next."""

    def advice():
        return next((each for each in called(call).advice if each.rule == rule), None)

    return until(advice, f"advice by the rule {rule}")


def test_tiny_items():
    assert advised("small_items", lambda pool: pool.map(negate, range(3_000_000)))


def test_large_results():
    assert advised("heavy_results", lambda pool: pool.map(make_rows, [20_000] * 20))


def test_a_long_item_at_the_end():
    assert "item 40" in advised("tail", lambda pool: pool.map(nap, [0.005] * 40 + [0.6])).text


def test_an_import_in_the_function(tmp_path):
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.5)\nVALUE = 1\n")
    advice = advised("slow_start", lambda pool: pool.map(import_slowly, [os.fspath(tmp_path)] * 40))
    assert 'preload=["slow_module"]' in advice.text


def import_pandas(number):
    import pandas

    time.sleep(0.001)
    return bool(pandas.__name__) and number


def test_an_import_that_imports_hundreds():
    """What the function asked for is named, not the first or last of all that come with it, by whatever order."""
    pytest.importorskip("pandas")
    advice = advised("slow_start", lambda pool: pool.map(import_pandas, range(100)))
    assert 'preload=["pandas"' in advice.text


def test_items_of_many_python_objects():
    items = [make_rows(4000) for _ in range(60)]
    advice = advised("python_objects", lambda pool: pool.map(count_rows, items, inherit=False))
    assert "inherit=True" in advice.text


def test_an_iterator_over_one_object():
    array = np.ones(2 * MB)
    assert advised("repeated_object", lambda pool: list(pool.imap(total, (array for _ in range(40)))))


def test_a_slow_generator():
    assert advised("slow_iterable", lambda pool: pool.map(negate, slowly(40)))


def test_arrays_that_have_to_be_copied():
    arrays = [np.ones(2 * MB) for _ in range(20)]
    assert advised("copied_items", lambda pool: pool.map(total, arrays))


def test_arrays_whose_library_each_worker_imports_are_not_taken_for_python_objects():
    """The first item's decoding imports NumPy: that is a slow start, and `inherit` would not mend it."""
    arrays = [np.ones(1 << 17) for _ in range(40)]

    def told_apart():
        rules = [advice.rule for advice in called(lambda pool: pool.map(len, arrays), abs).advice]
        return "slow_start" in rules and "python_objects" not in rules

    until(told_apart, "a slow start, and nothing else")


def test_a_chunk_size_for_one_worker():
    assert "chunksize=10" in advised("too_few_chunks", lambda pool: pool.map(nap, [0.02] * 10, 10)).text


def test_workers_that_die():
    advice = advised("deaths", lambda pool: pool.map(die_on_three, range(8), 1, on_error="return"))
    assert "1 worker died" in advice.text


def test_work_that_scales_gets_no_advice():
    until(lambda: not called(lambda pool: pool.map(nap, [0.02] * 40)).advice, "a call without advice")
