"""Reports: figures that add up, from the right call, in every form."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forklift import Pool, Report, WorkerDied, shared_arrays
from forklift.report import Look
from tests.beyond.test_advice import chunk, figures, lanes

MB = 1 << 20
PHASES = {"wait_for_work", "crossing", "decode", "compute", "encode_result", "hand_over", "away"}


def nap(seconds):
    time.sleep(seconds)
    return seconds


def double(array):
    return array * 2


def total(array):
    return float(array.sum())


def keep_a_view(array):
    keep_a_view.last = array = array * 2
    return array


def die_once(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "second"
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def bad(item):
    raise ValueError(item)


@pytest.fixture
def pool():
    with Pool(2) as pool:
        yield pool


def test_times_add_up(pool):
    pool.map(nap, [0.02] * 20)
    report = pool.report()
    assert report.finished and (report.submitted, report.answered, report.total) == (20, 20, 20)
    assert (report.call, report.function, report.processes) == ("map", "nap", 2)
    assert report.work >= 0.4 and report.wall >= 0.2
    assert report.speedup == pytest.approx(report.work / report.wall)
    assert sum(lane.items for lane in report.lanes) == 20
    for lane in report.lanes:
        assert set(lane.seconds) == PHASES
        assert sum(lane.seconds.values()) == pytest.approx(report.wall, rel=0.05)
    # One thread does it all, so its phases are its wall time but for the bookkeeping between.
    assert sum(report.parent.values()) <= report.wall * 1.01
    assert report.parent["wait_for_room"] + report.parent["wait_for_results"] > 0
    assert report.item_seconds.count == 20
    assert report.item_seconds.least >= 0.0195 and report.item_seconds.quantile(0.5) >= 0.0195


def test_every_chunk_is_there_and_none_overlap(pool):
    pool.map(nap, [0.001] * 50, 5)
    report = pool.report()
    assert (report.chunks, report.chunksize, report.fold) == (10, 5, 1)
    covered = sorted(
        item for chunk in report.records for item in range(chunk.first, chunk.first + chunk.items)
    )
    assert covered == list(range(50))
    for slot in range(2):
        mine = [chunk for chunk in report.records if chunk.slot == slot]
        assert all(one.end <= other.begin for one, other in itertools.pairwise(mine))
        assert all(0 <= chunk.begin < chunk.end <= report.wall for chunk in mine)


def test_the_longest_item_is_named(pool):
    pool.map(nap, [0.0] * 30 + [0.2] + [0.0] * 30)
    index, seconds, _slot = pool.report().longest
    assert index == 30 and seconds >= 0.15  # by a coarse clock


def test_a_long_item_among_many_short_ones_is_found(pool):
    pool.map(nap, [0] * 500 + [0.1] + [0] * 500, 1001)
    report = pool.report()
    assert report.longest[0] == 500 and report.longest[1] >= 0.09
    assert report.item_seconds.count == 1001


def test_bytes_by_the_way_they_took(pool):
    arrays = [np.ones(MB // 8) for _ in range(8)]
    pool.map(double, arrays)
    report = pool.report()
    assert report.bytes_in["copied"] == report.bytes_out["handed_over"] == 8 * MB
    assert report.bytes_in["by_reference"] == report.bytes_out["copied"] == 0
    assert report.item_bytes_in.greatest >= MB and report.item_bytes_out.greatest >= MB
    assert 0 < report.bytes_in["in_message"] < 16_384 and report.bytes_in["once_per_call"] > 0

    pool.map(keep_a_view, arrays)
    report = pool.report()
    assert report.bytes_out["copied"] == 8 * MB and report.bytes_out["handed_over"] == 0

    with shared_arrays():
        lent = [np.ones(MB // 8) for _ in range(8)]
    pool.map(total, lent)
    report = pool.report()
    assert report.bytes_in["by_reference"] == 8 * MB and report.bytes_in["copied"] == 0

    pool.starmap(np.dot, [(arrays[0], arrays[0]) for _ in range(8)])
    report = pool.report()
    assert MB <= report.bytes_in["once_per_call"] < 1.1 * MB and report.bytes_in["copied"] < MB


def test_an_iterator_that_repeats_an_object_shows(pool):
    one = np.ones(MB // 8)
    list(pool.imap(total, (one for _ in range(6))))
    assert pool.report().repeated_bytes == 5 * MB
    kept = [np.ones(MB // 8) for _ in range(6)]
    list(pool.imap(total, iter(kept)))
    assert pool.report().repeated_bytes == 0


def test_deaths_and_retries(pool, tmp_path):
    assert pool.map(die_once, [str(tmp_path / "once")], retries=1) == ["second"]
    staff = pool.report().staff
    assert (staff["deaths"], staff["retries"], staff["recycles"]) == (1, 1, 0)
    assert {"born", "ready", "died"} <= {what for _, what, _, _ in pool.report().incidents}
    with pytest.raises(WorkerDied):
        pool.map(die_once, [str(tmp_path / "other")])
    report = pool.report()
    assert (report.lost, report.answered, report.staff["deaths"], report.staff["retries"]) == (1, 0, 1, 0)


def test_recycles_and_failures():
    with Pool(1, maxtasksperchild=2) as pool:
        pool.map(bad, range(6), on_error="return")
        report = pool.report()
    assert (report.failed, report.answered) == (6, 6)
    staff = report.staff
    assert staff["recycles"] >= 2 and staff["births"] >= 3 and staff["deaths"] == 0
    assert staff["recycles_by_calls"] == staff["recycles"] and staff["recycles_by_memory"] == 0
    assert f"{staff['recycles']} recycles (by calls)" in " ".join(str(report).split())


def hold(bytes_):
    hold.held = bytearray(b"x") * bytes_
    return len(hold.held)


def test_workers_that_held_too_much_are_told_by_what_became_of_them():
    with Pool(1, worker_memory_limit="60MB") as pool:
        assert pool.map(hold, [70 * MB] * 3 + [1], 1) == [70 * MB] * 3 + [1]
        staff = pool.report().staff
        assert staff["recycles_by_memory"] >= 2 and staff["recycles_by_calls"] == 0
        assert (staff["deaths"], staff["stopped_for_memory"]) == (0, 0)
        pool.map(hold_until_stopped, [400 * MB], on_error="return")
        report = pool.report()
    assert (report.staff["deaths"], report.staff["stopped_for_memory"]) == (1, 1)
    assert "1 death (stopped for memory)" in " ".join(str(report).split())


def hold_until_stopped(bytes_):
    hold(bytes_)
    time.sleep(1000)


def test_results_that_went_to_a_disk_are_counted(tmp_path):
    with Pool(1, memory_limit="32MB", spill_dir=tmp_path) as pool:
        results = pool.map(ones, [4 * MB] * 16)
        report = pool.report()
        spilled = pool._counters()["spilled_bytes"]
        pool.map(ones, [8])
        assert pool.report().spilled_bytes == 0
    assert report.spilled_bytes == spilled >= 16 * MB and len(results) == 16
    assert report.bytes_out["handed_over"] + report.bytes_out["copied"] >= 64 * MB
    report.save(tmp_path / "report.html")
    for text in (str(report), report._repr_html_(), (tmp_path / "report.html").read_text()):
        assert f"{spilled / 1e6:.1f} MB of results were moved to files" in text


def ones(bytes_):
    return np.ones(bytes_, np.uint8)


def test_only_the_last_call_counts(pool):
    pool.map(nap, [0] * 10)
    pool.map(abs, range(7))
    report = pool.report()
    assert (report.function, report.answered) == ("abs", 7)
    assert report.staff["births"] == 0


def test_calls_of_apply_count_together(pool):
    for number in range(5):
        pool.apply(abs, (number,))
    report = pool.report()
    assert (report.call, report.answered, report.chunks) == ("apply", 5, 5)
    pool.map(abs, range(3))
    pool.apply(abs, (1,))
    assert pool.report().answered == 1


def test_during_a_call_and_after_the_end():
    with Pool(2) as pool:
        results = pool.imap(nap, [0.001] * 40, buffersize=4)
        next(results)
        during = pool.report()
        assert not during.finished and 1 <= during.answered < 40 and during.total == 40
        assert "of 40 items" in str(during)
        assert len(list(results)) == 39
    after = pool.report()
    assert after.finished and after.answered == 40
    assert after.wall == pool.report().wall


def test_inherited_items(pool):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pytest has threads
        pool.map(nap, [0.05] * 20, inherit=True)  # Long enough for a second worker to be of use.
    report = pool.report()
    assert report.answered == 20 and report.inherit == "inherit: inherit=True"
    assert report.staff["births"] == 2


def test_bytes_that_were_inherited_are_estimated(pool):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pytest has threads
        arrays = [np.ones(MB // 8) for _ in range(10)]
        pool.map(total, arrays, inherit=True)
        report = pool.report()
        assert report.inherited_bytes == 10 * MB and sum(report.bytes_in.values()) < MB
        assert "inherited (estimated) 10.5 MB" in " ".join(str(report).split())
        pool.map(len, [[float(number) for number in range(10_000)]] * 10, inherit=True)
        assert 3 * MB < pool.report().inherited_bytes < 3.3 * MB
    pool.map(total, arrays)
    assert pool.report().inherited_bytes == 0


def test_memory_is_looked_at_in_long_calls(pool):
    pool.map(nap, [0.1] * 6)
    report = pool.report()
    assert len(report.memory) >= 3
    assert report.peak_memory >= max(look.parent for look in report.memory) > MB


def test_nothing_to_report_yet(pool):
    with pytest.raises(ValueError, match="no call yet"):
        pool.report()


def test_text_fits_a_terminal(pool):
    pool.map(double, [np.ones(MB // 8) for _ in range(4)])
    text = str(pool.report())
    assert max(map(len, text.splitlines())) <= 80
    assert "map(double): 4 items, 2 workers" in text
    for word in ("speed-up", "handed over", "4.19 MB", "Chunks    4"):
        assert word in text
    # What takes next to nothing of a call is left out, and on a busy machine that may be anything.
    words = str(figures())
    assert "copy items" in words and "compute" in words
    assert "map(double), 4 items" in repr(pool.report())


#: "1 items" and the like.
PLURAL_OF_ONE = re.compile(
    r"\b1 (?:items|workers|cores|chunks|births|deaths|recycles|settings|calls|pools)\b"
)


def singular():
    """One of everything that is counted."""
    return figures(
        processes=1,
        cores=1,
        total=1,
        submitted=1,
        answered=1,
        chunks=1,
        lanes=lanes(1.0)[:1],
        records=[chunk(0, 0.0, 1.0)],
        memory=[Look(at, MB, 0, 0, 0) for at in (0.0, 0.5)],
        staff={
            "births": 1,
            "failed_births": 1,
            "deaths": 1,
            "stopped_for_memory": 1,
            "recycles": 1,
            "retries": 1,
        },
    )


@pytest.mark.parametrize(
    "report", [singular(), replace(singular(), total=None), replace(singular(), processes=2, cores=2)]
)
def test_one_of_something_is_written_as_one(report, tmp_path):
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text().partition('<script type="application/json"')[0]
    for text in (str(report), repr(report), report._repr_html_(), page):
        assert not PLURAL_OF_ONE.findall(text), text
    words = " ".join(str(report).split())
    assert "1 birth, 1 failed birth, 1 death (stopped for memory), 1 recycle, 1 item tried again" in words
    assert "1 worker could not be born: 1 of" in words


def test_json_holds_all_of_it(pool, tmp_path):
    pool.map(nap, [0.001] * 20)
    report = pool.report()
    path = tmp_path / "report.json"
    report.save(path)
    saved = json.loads(path.read_text())
    assert saved["forklift_report"] == 1
    assert saved["speedup"] == report.speedup and saved["workers"] == report.workers
    again = Report.load(path)
    assert again == report and str(again) == str(report)


def test_what_an_earlier_version_saved_is_read(pool, tmp_path):
    pool.map(nap, [0.001] * 20)
    path = tmp_path / "report.json"
    pool.report().save(path)
    saved = json.loads(path.read_text())
    for field in ("spilled_bytes", "inherited_bytes", "admitted", "throttled"):
        del saved[field]
    for field in ("recycles_by_calls", "recycles_by_memory", "stopped_for_memory"):
        del saved["staff"][field]
    saved["staff"] |= {"deaths": 1, "recycles": 2}
    path.write_text(json.dumps(saved))
    again = Report.load(path)
    assert (again.spilled_bytes, again.inherited_bytes, again.admitted, again.throttled) == (0, 0, [], 0)
    assert "1 death, 2 recycles" in str(again) and again.advice and again._repr_html_()


def test_every_field_of_json_is_documented(pool, tmp_path):
    pool.map(abs, range(3))
    pool.report().save(tmp_path / "report.json")
    documented = (Path(__file__).parents[2] / "docs" / "reports.md").read_text()
    fields = json.loads((tmp_path / "report.json").read_text())
    assert not [field for field in fields if f"`{field}`" not in documented]


def test_a_trace_has_every_chunk(pool, tmp_path):
    pool.map(nap, [0.001] * 20, 2)
    path = tmp_path / "report.trace.json"
    pool.report().save(path)
    events = json.loads(path.read_text())["traceEvents"]
    chunks = [event for event in events if event.get("cat") == "chunk"]
    assert len(chunks) == 10 and sum(event["args"]["items"] for event in chunks) == 20
    assert {event["args"]["name"] for event in events if event["name"] == "thread_name"} <= {
        "worker 0",
        "worker 1",
    }
    for event in events:
        assert event["ph"] in "MXCi" and isinstance(event["pid"], int)
        assert event["ph"] == "M" or event["ts"] >= 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a report"),
        ("[1]", "not a report"),
        ('{"wall": 1}', "not a report"),
        ('{"forklift_report": 99}', "form 99"),
        ('{"forklift_report": 1, "lanes": []}', "not a whole report"),
    ],
)
def test_other_files_are_refused(tmp_path, text, reason):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        Report.load(path)


def test_other_forms_are_refused(pool, tmp_path):
    pool.map(abs, range(3))
    with pytest.raises(ValueError, match=r"saved as .*not as 'report\.pdf'"):
        pool.report().save(tmp_path / "report.pdf")


def test_telemetry_can_be_switched_off_for_measuring(monkeypatch):
    monkeypatch.setenv("FORKLIFT_TELEMETRY", "off")
    with Pool(2) as pool:
        assert pool.map(abs, range(100)) == list(range(100))
        report = pool.report()
    assert report.finished and (report.answered, report.records) == (0, [])
