"""Workers that die: which item is reported, what the others get, and that the pool goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import forklift
from tests import house
from tests.patience import until, wait_for_file

from . import work

HANG = 120

#: How a worker ends, what multiprocessing calls that exit code, and the word that must be in the text.
WAYS = {
    "SIGKILL": (-signal.SIGKILL, "SIGKILL"),
    "SIGTERM": (-signal.SIGTERM, "SIGTERM"),
    "exit 3": (3, "3"),
    "exit 0": (0, "0"),
    "segfault": (-signal.SIGSEGV, "SIGSEGV"),
    "abort": (-signal.SIGABRT, "SIGABRT"),
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS)


def jobs(way: str, tmp_path: Path) -> list[tuple[int, str, str]]:
    return [(index, way, str(tmp_path / "dead")) for index in range(8)]


def check_death(error: forklift.WorkerDied, way: str, tmp_path: Path, index: int | None = 3) -> None:
    """The exception knows the item, the process and how it ended, in attributes and in words."""
    exitcode, word = WAYS[way]
    pid = int((tmp_path / "dead").read_text())
    assert isinstance(error, forklift.ForkliftError)
    assert isinstance(error, RuntimeError)
    assert error.index == index
    assert error.pid == pid
    assert error.exitcode == exitcode
    text = str(error)
    assert str(pid) in text and word in text
    assert index is None or f"item {index}" in text
    assert not house.alive(pid)


@EVERY_WAY
@pytest.mark.parametrize("chunksize", [1, None, 8])
def test_map_reports_the_item(pool, tmp_path, way, chunksize):
    with pytest.raises(forklift.WorkerDied) as caught:
        pool.map(work.die_at_three, jobs(way, tmp_path), chunksize)
    check_death(caught.value, way, tmp_path)
    assert pool.map(work.square, range(100)) == [i * i for i in range(100)]
    assert len(set(pool.map(work.pid, range(2)))) >= 1


@pytest.mark.parametrize("method", ["map_async", "starmap_async", "apply", "apply_async", "starmap"])
def test_other_methods_report_it_too(pool, tmp_path, method):
    errors: list[BaseException] = []
    with pytest.raises(forklift.WorkerDied) as caught:
        if method == "starmap":
            pool.starmap(work.die_at_three, [(job,) for job in jobs("SIGKILL", tmp_path)], 1)
        elif method.startswith("apply"):
            job = jobs("SIGKILL", tmp_path)[3]
            result = getattr(pool, method)(work.die_at_three, (job,))
            result.get(HANG)
        else:
            items = jobs("SIGKILL", tmp_path)
            items = [(item,) for item in items] if method.startswith("star") else items
            getattr(pool, method)(work.die_at_three, items, 1, error_callback=errors.append).get(HANG)
    assert caught.value.pid == int((tmp_path / "dead").read_text())
    assert caught.value.index == (0 if method.startswith("apply") else 3) or method.startswith("apply")
    assert errors == ([caught.value] if "map_async" in method else [])
    assert pool.apply(work.square, (3,)) == 9


@EVERY_WAY
@pytest.mark.parametrize("chunksize", [None, 1, 4])
def test_imap_delivers_all_others(pool, tmp_path, way, chunksize):
    it = pool.imap(work.die_at_three, jobs(way, tmp_path), chunksize)
    assert [it.next(HANG) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(forklift.WorkerDied) as caught:
        it.next(HANG)
    check_death(caught.value, way, tmp_path)
    assert [it.next(HANG) for _ in range(4)] == [4, 5, 6, 7]
    with pytest.raises(StopIteration):
        it.next(HANG)


@pytest.mark.parametrize("chunksize", [None, 1, 4])
def test_imap_unordered_delivers_all_others(pool, tmp_path, chunksize):
    it = pool.imap_unordered(work.die_at_three, jobs("SIGKILL", tmp_path), chunksize)
    got, dead = [], []
    while True:
        try:
            got.append(it.next(HANG))
        except StopIteration:
            break
        except forklift.WorkerDied as error:
            dead.append(error.index)
    assert sorted(got) == [0, 1, 2, 4, 5, 6, 7]
    assert dead == [3]


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_lost_item_makes_room_in_the_buffer(pool, method):
    results = getattr(pool, method)(work.die, ["SIGKILL"] * 4, buffersize=1, on_error="return")
    assert [type(result) for result in results] == [forklift.WorkerDied] * 4


def test_every_item_kills_its_worker(pool):
    it = pool.imap(work.die, ["SIGKILL"] * 6)
    for index in range(6):
        with pytest.raises(forklift.WorkerDied) as caught:
            it.next(HANG)
        assert caught.value.index == index
    assert pool.map(work.square, [4]) == [16]


def test_death_with_large_payloads_in_flight(tmp_path):
    """The dead worker's segments are given back (the clean house sees to it), the others' results are whole."""
    np = pytest.importorskip("numpy")
    with forklift.Pool(2) as pool:
        for _ in range(5):
            (tmp_path / "once").unlink(missing_ok=True)
            items = [(np.full(300_000, float(i)), str(tmp_path / "once")) for i in range(10)]

            def double(array, path):
                if array[0] == 3 and not os.path.exists(path):
                    Path(path).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return array * 2

            with pytest.raises(forklift.WorkerDied) as caught:
                pool.starmap(double, items, 1)
            assert caught.value.index == 3
            results = pool.starmap(double, items, 1)
            assert [(r == 2 * i).all() for i, r in enumerate(results)] == [True] * 10
    pool.join()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_idle_worker_is_replaced_unnoticed(pool, tmp_path, sent):
    for round_number in range(3):
        directory = tmp_path / str(round_number)
        directory.mkdir()
        pids = pool.map(work.meet, [str(directory)] * 2, 1)
        for pid in pids[: 1 + round_number % 2]:
            os.kill(pid, sent)
            until(lambda pid=pid: not house.alive(pid), "worker dead")
        assert pool.map(work.square, range(50)) == [i * i for i in range(50)]
        assert list(pool.imap(work.square, range(50))) == [i * i for i in range(50)]


def test_worker_killed_from_outside_in_the_middle(pool, tmp_path):
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    result = pool.apply_async(work.announce_and_wait, ((str(begun), str(gate)),))
    wait_for_file(begun)
    pid = int(begun.read_text())
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(forklift.WorkerDied) as caught:
        result.get(HANG)
    assert (caught.value.pid, caught.value.exitcode) == (pid, -signal.SIGKILL)
    assert pool.map(work.square, [3]) == [9]


def test_the_number_of_workers_is_restored(pool, tmp_path):
    for way in ("SIGKILL", "exit 3"):
        with pytest.raises(forklift.WorkerDied):
            pool.map(work.die, [way])
    assert len(set(pool.map(work.meet, [str(tmp_path)] * 2, 1))) == 2


def test_initializer_runs_in_the_replacement(tmp_path):
    from tests.conformance.work import get_state, set_state

    with forklift.Pool(1, set_state, ("set",)) as pool:
        with pytest.raises(forklift.WorkerDied):
            pool.map(work.die, ["SIGKILL"])
        assert pool.map(get_state, [0]) == ["set"]
    pool.join()


def test_close_and_join_with_a_death(tmp_path):
    pool = forklift.Pool(2)
    result = pool.map_async(work.die_at_three, jobs("SIGKILL", tmp_path), 1)
    pool.close()
    pool.join()
    with pytest.raises(forklift.WorkerDied):
        result.get(0)


@pytest.mark.parametrize("code", [3, None, True, "a text", [1, 2]])
def test_system_exit_in_the_function(pool, code):
    """multiprocessing.Pool loses the worker and hangs; concurrent.futures ends the program that asks for the result."""
    for call in (
        lambda: pool.map_async(work.exit_politely, [code]).get(HANG),
        lambda: pool.map(work.exit_politely, [code]),
        lambda: pool.apply(work.exit_politely, (code,)),
        lambda: next(pool.imap(work.exit_politely, [code])),
    ):
        with pytest.raises(forklift.TaskExit, match="SystemExit") as caught:
            call()
        assert caught.value.code == (None if type(code) is list else code)
        assert repr(code) in str(caught.value) or code is None
        assert "exit_politely" in str(caught.value.__cause__)
    assert pool.map(work.pid, [1]) and pool.map(work.square, [3]) == [9]


def test_system_exit_in_a_function_of_an_executor():
    """As in `concurrent.futures`: the result is the exception itself."""
    with forklift.Executor(1) as executor:
        failed = executor.submit(work.exit_politely, 3)
        with pytest.raises(SystemExit) as caught:
            failed.result(HANG)
        assert caught.value.code == 3 and "exit_politely" in str(caught.value.__cause__)
        with pytest.raises(SystemExit):
            list(executor.map(work.exit_politely, [3]))
        assert executor.submit(work.square, 3).result(HANG) == 9


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit])
def test_other_ends_of_programs_in_the_function(pool, kind):
    """multiprocessing.Pool loses the worker and hangs."""
    with pytest.raises(forklift.TaskExit, match=kind.__name__):
        pool.map_async(work.throw, [kind]).get(HANG)
    assert pool.map(work.square, [3]) == [9]


def test_worker_died_can_be_pickled(pool, tmp_path):
    import pickle

    with pytest.raises(forklift.WorkerDied) as caught:
        pool.map(work.die_at_three, jobs("SIGKILL", tmp_path), 1)
    error = caught.value
    back = pickle.loads(pickle.dumps(error))
    assert (back.index, back.pid, back.exitcode, str(back)) == (3, error.pid, error.exitcode, str(error))


def test_the_pool_of_a_worker_dies_with_it(pool, tmp_path):
    """A worker that holds a pool of its own is killed: nothing of the inner pool may stay."""

    def hold(directory):
        inner = forklift.Pool(2)
        pids = inner.map(work.meet, [directory] * 2, 1)
        (Path(directory) / "ready").write_text(" ".join(map(str, [os.getpid(), *pids])))
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(forklift.WorkerDied):
        pool.map(hold, [str(tmp_path)])
    pids = [int(word) for word in (tmp_path / "ready").read_text().split()]
    assert len(pids) == 3
    until(lambda: not any(house.alive(pid) for pid in pids), "all of them gone")


def test_what_is_not_kept_does_not_count_for_the_chunk_before_it(pool, tmp_path):
    """A chunk's items are kept until all are answered, since what remains of it is encoded again. Items that share an
    object are encoded one by one, and not kept: their answers must not be taken for those of the chunk before them."""
    shared, done = ["shared"], str(tmp_path / "third")
    items = [(0, done, []), (1, done, []), (2, done, shared), (3, done, shared)]
    results = pool.map(work.die_after_the_third, items, 2, on_error="return")
    assert isinstance(results[0], forklift.WorkerDied)
    assert results[1:] == [1, 2, 3]
