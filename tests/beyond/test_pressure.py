"""A machine that is short of memory: the pool admits less, says so, and recovers. The machine is made of files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import forklift
from tests.patience import until

GB = 1 << 30


class Machine:
    """A root directory with what the kernel tells about memory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for directory in ("proc/pressure", "proc/self"):
            (root / directory).mkdir(parents=True)
        self.show()

    def show(self, available: int = 6 * GB, some: float = 0.0, full: float = 0.0) -> None:
        """Say from now on that so many bytes of 8 GB are available, and how long processes wait for memory."""
        meminfo = f"MemTotal: {8 * GB >> 10} kB\nMemAvailable: {available >> 10} kB\n"
        (self.root / "proc/meminfo").write_text(meminfo)
        (self.root / "proc/pressure/memory").write_text(f"some avg10={some}\nfull avg10={full}\n")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    machine = Machine(tmp_path / "machine")
    monkeypatch.setattr(forklift.Pool, "_machine_root", str(machine.root))
    return machine


def others_at_work(directory):
    """How many other calls run while this one does."""
    own = Path(directory) / str(os.getpid())
    own.touch()
    time.sleep(0.01)
    others = len(os.listdir(directory)) - 1
    own.unlink()
    return others


def admitted(pool):
    counters = pool._counters()
    return counters["admitted_percent"], counters["throttled"]


def test_nothing_is_held_back_where_there_is_plenty(machine, tmp_path):
    (tmp_path / "running").mkdir()
    with forklift.Pool(2) as pool:
        pool.map(others_at_work, [str(tmp_path / "running")] * 30, 1)
        assert admitted(pool) == (100, 0)
        assert pool.report().admitted == [] and pool.report().throttled == 0
    pool.join()


@pytest.mark.parametrize("shortage", [{"available": GB // 8}, {"some": 90.0, "full": 60.0}])
def test_a_pool_that_is_short_of_memory_does_one_thing_at_a_time(machine, tmp_path, shortage):
    (tmp_path / "running").mkdir()
    items = [str(tmp_path / "running")] * 20
    machine.show(**shortage)
    with forklift.Pool(2) as pool:
        assert pool.map(others_at_work, items, 1) == [0] * 20
        assert list(pool.imap(others_at_work, items)) == [0] * 20
        assert admitted(pool)[0] == 0 and admitted(pool)[1] >= 1
    pool.join()


def test_the_report_says_so(machine):
    machine.show(available=GB // 8)
    with forklift.Pool(2) as pool:
        pool.map(time.sleep, [0.01] * 40, 1)
        report = pool.report()
        pool.map(time.sleep, [0.01] * 40, 1)
        again = pool.report()
    for each in (report, again):  # What was narrowed before a call holds in it, too.
        assert [percent for _, percent in each.admitted] == [0]
        assert 0 < each.throttled <= each.wall
        assert "short_of_memory" in [advice.rule for advice in each.advice], str(each)
        assert "down to one chunk at a time" in str(each)
        assert "Admitted" in each._repr_html_()


def test_pressure_in_the_middle_of_a_call_narrows_it(machine):
    def items():
        yield from range(10)
        machine.show(some=60.0)
        # The feed is the caller's thread: it goes on when the pool has looked.
        until(lambda: admitted(pool)[1] >= 1, "the pool admits less")
        yield from range(10, 200)

    with forklift.Pool(2) as pool:
        assert pool.map(abs, items()) == list(range(200))
        assert admitted(pool)[0] < 100
        machine.show()
        until(lambda: pool.map(abs, [1]) and admitted(pool)[0] == 100, "everything is admitted again", 120)
    pool.join()
