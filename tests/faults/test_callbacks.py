"""What callbacks of the user's raise costs nobody else anything: later callbacks come, and whoever waits goes on."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import forklift
from tests.patience import wait_for_file

from . import work

HANG = 40  # seconds: a guard, not an expectation

RAISED = [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("odd"), ValueError("usual")]
each_kind = pytest.mark.parametrize("error", RAISED, ids=[type(error).__name__ for error in RAISED])


@pytest.fixture(autouse=True)
def usual_hook(monkeypatch):
    """pytest's own makes a failure of what a thread has nobody to tell."""
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)


def raising(error: BaseException, seen: list[Any]) -> Any:
    def callback(value: Any) -> None:
        seen.append(value)
        raise error

    return callback


@each_kind
@pytest.mark.parametrize("method", ["apply_async", "map_async", "starmap_async"])
def test_a_callback_that_raises(pool, method, error, capsys):
    seen: list[Any] = []
    callback = raising(error, seen)
    good = [(-2,)] if method == "starmap_async" else [-2]
    bad = [("",)] if method == "starmap_async" else [""]

    def call(function: Any, items: list[Any], **options: Any) -> Any:
        if method == "apply_async":
            return pool.apply_async(function, tuple(items), **options)
        return getattr(pool, method)(function, items, **options)

    for _ in range(2):
        assert call(abs, good, callback=callback).get(HANG) in (2, [2])
        with pytest.raises(TypeError):
            call(abs, bad, error_callback=callback).get(HANG)
    call(abs, good, callback=seen.append).wait(HANG)
    assert [type(value) for value in seen[1::2]] == [TypeError, TypeError] and len(seen) == 5
    told = capsys.readouterr().err
    assert told.count("exception in a callback") == 4 and type(error).__name__ in told
    pool.close()
    pool.join()


def test_where_nothing_can_be_reported(pool, monkeypatch):
    """Standard error is closed, or the user's hook raises."""

    def hook(*_: object) -> None:
        raise SystemExit

    seen: list[Any] = []
    monkeypatch.setattr("sys.stderr", None)
    pool.apply_async(abs, (-1,), callback=raising(ValueError("lost"), seen)).wait(HANG)
    monkeypatch.setattr(threading, "excepthook", hook)
    pool.apply_async(abs, (-2,), callback=raising(ValueError("lost"), seen)).wait(HANG)
    pool.apply_async(abs, (-3,), callback=seen.append).wait(HANG)
    assert seen == [1, 2, 3]


@each_kind
def test_progress_that_raises_ends_its_call_alone(pool, error):
    def tell(done: int, total: int | None) -> None:
        if done:
            raise error

    with pytest.raises(type(error)):
        pool.map_async(abs, range(10), progress=tell).get(HANG)
    assert pool.map_async(abs, range(10)).get(HANG) == list(range(10))


@each_kind
def test_an_executors_thread_outlives_what_callbacks_of_futures_raise(error):
    with forklift.Executor(1) as executor:
        futures = [executor.submit(abs, -number) for number in range(8)]
        for future in futures:
            future.add_done_callback(raising(error, []))
        assert [future.result(HANG) for future in futures] == list(range(8))
        assert executor.submit(abs, -9).result(HANG) == 9


def test_an_executors_thread_outlives_an_interrupt_in_a_pickle(tmp_path):
    """Calls that find no room in the pool are encoded by that thread."""
    gate = tmp_path / "gate"

    class Bomb:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    with forklift.Executor(1) as executor:
        waiting = [executor.submit(wait_for_file, str(gate)) for _ in range(3)]
        bomb, follow = executor.submit(work.identity, Bomb()), executor.submit(abs, -1)
        gate.touch()
        assert [future.result(HANG) for future in waiting] == [None] * 3
        with pytest.raises(KeyboardInterrupt):
            bomb.result(HANG)
        assert follow.result(HANG) == 1


def test_a_thread_that_cannot_be_started_costs_its_call_alone(pool, monkeypatch):
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    for method in ("map_async", "imap"):
        with pytest.raises(RuntimeError, match="new thread"):
            getattr(pool, method)(abs, [1])
    monkeypatch.undo()
    assert pool.map(abs, [-1]) == [1]
    pool.close()
    pool.join()
