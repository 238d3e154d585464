"""`forklift.map` and `forklift.starmap`: whose workers they are, and when they go."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import forklift
from forklift import _kept
from tests.house import alive
from tests.patience import until, wait_for_file

from . import work


@pytest.fixture(autouse=True)
def nothing_is_kept():
    yield
    _kept._shelf.let_go()
    until(lambda: not _kept._shelf.kept and _kept._shelf.keeper is None, "nothing kept")


def pids(count=30, processes=2, **options):
    return set(forklift.map(work.pid, range(count), processes, chunksize=1, **options))


def kept():
    return list(_kept._shelf.kept.values())


def test_results():
    assert forklift.map(work.square, range(100)) == [x * x for x in range(100)]
    assert forklift.starmap(work.add, [(1, 2), (3, 4)]) == [3, 7]
    assert forklift.map(lambda x: -x, iter([1, 2])) == [-1, -2]
    assert forklift.map(work.square, []) == []


def test_options_of_the_call():
    failed = forklift.map(work.fail_at, range(5), 2, on_error="return", chunksize=2, length=5)
    assert failed[:3] == [0, 1, 2] and isinstance(failed[3], LookupError)
    with pytest.raises(LookupError, match="three"):
        forklift.map(work.fail_at, range(5), 2)
    with pytest.raises(forklift.TaskTimeout):
        forklift.map(work.wait_for, ["/nowhere"], 2, task_timeout=0.2)
    seen = []
    forklift.map(work.square, range(5), 2, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 5) and seen[-1] == (5, 5)
    assert len(kept()) == 1


def test_workers_are_kept_while_the_settings_are_equal():
    first = pids()
    assert len(first | pids()) <= 2
    other = pids(processes=1)
    assert not other & first and len(kept()) == 2
    assert len(first | pids()) <= 2
    started = pids(initializer=work.remember, initargs=["x"])
    assert not started & (first | other)
    assert len(started | pids(initializer=work.remember, initargs=("x",))) <= 2
    # The one that was used longest ago has gone.
    assert len(kept()) == 2
    until(lambda: not any(alive(pid) for pid in other), "its worker has left")
    assert len(first | pids()) <= 2


def test_workers_leave_when_nobody_calls(monkeypatch):
    monkeypatch.setattr(_kept, "IDLE_SECONDS", 0.3)
    first = pids()
    until(lambda: not kept(), "let go")
    until(lambda: not any(alive(pid) for pid in first), "all have left")
    until(lambda: _kept._shelf.keeper is None, "nobody waits any more")
    assert not pids() & first


def test_workers_do_not_leave_while_somebody_calls(monkeypatch, tmp_path):
    monkeypatch.setattr(_kept, "IDLE_SECONDS", 0.1)
    begun, go = tmp_path / "begun", tmp_path / "go"
    results = []
    call = threading.Thread(
        target=lambda: results.extend(forklift.map(work.announce_and_wait, [(str(begun), str(go))], 2))
    )
    call.start()
    wait_for_file(begun)
    first = pids()  # Makes the pool idle for nobody: the other call is still at it.
    time_over = threading.Event()
    time_over.wait(0.3)
    assert [k.users for k in kept()] == [1]
    go.touch()
    call.join(120)
    assert results == [str(go)] and first


def test_threads_share_the_workers():
    with ThreadPoolExecutor(8) as threads:
        found = set().union(*threads.map(lambda _: pids(10), range(8)))
    assert len(found) <= 2 and len(kept()) == 1


def test_threads_with_different_settings(tmp_path):
    with ThreadPoolExecutor(6) as threads:
        totals = list(threads.map(lambda n: sum(forklift.map(work.square, range(50), 1 + n % 3)), range(12)))
    assert totals == [sum(x * x for x in range(50))] * 12
    assert len(kept()) <= _kept.KEPT_MAX


def test_nested():
    assert forklift.map(work.nest, [3, 4], 2) == [[0, 1, 4], [0, 1, 4, 9]]


def test_a_dead_worker_costs_its_item_and_no_pool():
    with pytest.raises(forklift.WorkerDied):
        forklift.map(work.die, [1], 2)
    assert forklift.map(abs, [-1], 2) == [1] and len(kept()) == 1


def test_a_broken_pool_is_not_kept():
    for _ in range(2):
        with pytest.raises(ValueError, match="no luck"):
            forklift.map(abs, [-1], 2, initializer=work.fail, initargs=("no luck",))
        # Also where it is found to be over only by the next call.
        until(lambda: all(not k.is_good() for k in kept()), "the pool is over")
    assert forklift.map(abs, [-1], 2) == [1]
    until(lambda: all(k.is_good() or not k.users for k in kept()), "nothing broken in use")


def test_settings_that_cannot_be_pickled():
    first = pids(initializer=work.remember, initargs=(multiprocessing.Lock(),), context="fork")
    assert kept() == []
    until(lambda: not any(alive(pid) for pid in first), "they were for that call")


def test_bad_options():
    for options, error, text in (
        ({"chunk_size": 3}, TypeError, r"forklift.map\(\) got an unexpected keyword argument 'chunk_size'"),
        ({"chunksize": 0}, ValueError, "Chunksize"),
        ({"retries": -1}, ValueError, "retries"),
        ({"memory_limit": "none"}, ValueError, "memory_limit"),
        ({"preload": "numpy"}, TypeError, "preload must be names of modules"),
        ({"preload": ["numpy", "nupmy.linalg"]}, ValueError, "no module or package 'nupmy' here"),
        ({"preload": [".linalg"]}, ValueError, "preload names '.linalg'"),
        ({"processes": 0}, ValueError, "Number of processes"),
        ({"processes": 2.0}, TypeError, "processes must be an int"),
    ):
        with pytest.raises(error, match=text):
            forklift.map(abs, [1], **options)
    assert forklift.map(abs, [-1]) == [1]


def test_after_fork():
    first = pids()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            mine = pids()
            os.write(write, b"own" if not mine & first else b"shared")
            _kept._shelf.let_go()
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read() == b"own"
    os.waitpid(child, 0)
    assert len(first | pids()) <= 2


@pytest.mark.parametrize("via", ["file", "stdin"])
def test_at_exit(scripts, via):
    program = (
        "import atexit, forklift\n"
        "atexit.register(lambda: print(forklift.map(abs, [-3])))\n"
        "print(forklift.map(abs, [-1]), forklift.starmap(pow, [(2, 3)]))\n"
        "atexit.register(lambda: print(forklift.map(lambda x: x, [2])))\n"
    )
    ended = scripts.run(program, via=via, options=("-W", "error"))
    assert ended.check().splitlines() == ["[1] [8]", "[2]", "[3]"]


def test_star_import_leaves_the_builtin_alone():
    names = {}
    exec("from forklift import *", names)
    assert "map" not in names and names["starmap"] is forklift.starmap
    assert Path(_kept.__file__).exists()
