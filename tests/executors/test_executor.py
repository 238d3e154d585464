"""`forklift.Executor`. Where the standard library does the same, the test runs against both."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import itertools
import logging
import threading
import weakref
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

import forklift
from forklift import _options
from tests.patience import until

from . import work
from .conftest import make, occupy

# Calls and their futures -----------------------------------------------------------------------------------------


def test_calls_and_results(either):
    assert either.submit(pow, 2, 8).result() == 256
    assert either.submit(work.collect, 1, self=2, fn=3).result() == ((1,), {"self": 2, "fn": 3})
    assert either.submit(work.fail, "no").exception().args == ("no",)
    assert list(either.map(pow, range(5), range(9))) == [pow(x, x) for x in range(5)]
    assert list(either.map(work.square, [])) == [] == list(either.map(work.square))
    futures = [either.submit(work.square, x) for x in range(40)]
    assert {f.result() for f in concurrent.futures.as_completed(futures)} == {x * x for x in range(40)}
    assert concurrent.futures.wait(futures).not_done == set()


def test_states_of_futures(executor, gate, tmp_path):
    running = occupy(executor, gate, tmp_path, 2)
    waiting = [executor.submit(work.square, x) for x in range(20)]
    assert all(f.running() and not f.cancel() for f in running)
    # Two calls a worker and one more are in the pool's hands.
    assert [f.running() for f in waiting] == [True] * 3 + [False] * 17
    assert not waiting[2].cancel() and waiting[3].cancel() and waiting[3].cancelled()
    seen = []
    waiting[3].add_done_callback(seen.append)
    assert seen == [waiting[3]]
    gate.touch()
    assert [f.result() for f in waiting if f is not waiting[3]] == [x * x for x in range(20) if x != 3]
    assert all(f.result() and not f.running() for f in running)
    with pytest.raises(concurrent.futures.CancelledError):
        waiting[3].result()


def test_what_is_not_begun_is_bounded_in_bytes(tmp_path, gate):
    with make(workers=4, memory_limit="8MB") as executor:
        running = occupy(executor, gate, tmp_path, 4)
        futures = [executor.submit(len, bytes(3_000_000)) for _ in range(5)]
        # Nothing else than bytes hinders them: there are places for five.
        assert [f.running() for f in futures] == [True, True, False, False, False]
        gate.touch()
        assert [f.result() for f in futures] == [3_000_000] * 5 and all(f.result() for f in running)
        until(lambda: executor._desk.bytes == 0, "no bytes in flight")


def test_large_arrays_are_handed_over_and_writable(executor):
    array = np.ones(1_000_000)
    result = executor.submit(work.double, array).result()
    assert result.sum() == 2_000_000 and array.sum() == 1_000_000
    result += 1
    assert executor._desk.pool._counters()["result_bytes"] >= result.nbytes
    executor.shutdown()
    assert result[-1] == 3


def test_exceptions_bring_the_workers_traceback(either):
    error = either.submit(work.fail, "over there").exception()
    assert type(error.__cause__) is concurrent.futures.process._RemoteTraceback
    assert "in fail" in error.__cause__.tb
    assert getattr(error, "__notes__", []) == []


def test_what_cannot_be_sent_fails_alone(executor):
    bad = executor.submit(abs, [1, threading.Lock()])
    keyword = executor.submit(work.collect, key={"lock": threading.Lock()})
    function = executor.submit(threading.Lock().acquire)
    assert executor.submit(abs, -1).result() == 1
    assert bad.exception().path == "args[0][1]" and "args[0][1]" in str(bad.exception())
    assert keyword.exception().path == "kwargs['key']['lock']"
    for future in (bad, keyword, function):
        assert isinstance(future.exception(), forklift.EncodeError)


@pytest.mark.parametrize("kind", [work.Unreadable, work.ExitsWhenRead])
def test_what_cannot_be_rebuilt_fails_alone(executor, kind):
    there, back = executor.submit(work.square, kind()), executor.submit(work.make, kind)
    assert executor.submit(abs, -1).result() == 1
    assert isinstance(there.exception(), forklift.DecodeError)
    assert isinstance(back.exception(), forklift.DecodeError)


def test_exit_while_arguments_are_sent(executor, gate, tmp_path):
    running = occupy(executor, gate, tmp_path, 2)
    futures = [executor.submit(work.square, work.ExitsWhenSent()) for _ in range(9)]
    gate.touch()
    assert [f.exception().code for f in futures] == [6] * 9
    assert all(f.result() for f in running) and executor.submit(abs, -1).result() == 1


def test_nobody_waits_for_a_thread_that_failed(executor, gate, tmp_path, monkeypatch):
    failed = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    futures = occupy(executor, gate, tmp_path, 2) + [executor.submit(abs, x) for x in range(9)]
    monkeypatch.setattr(executor._desk, "settle", lambda number: 1 / 0)
    gate.touch()
    assert all(isinstance(f.exception(30), BrokenProcessPool) for f in futures)
    executor.shutdown()
    assert failed[0].exc_type is ZeroDivisionError
    with pytest.raises(BrokenProcessPool):
        executor.submit(abs, 1)


def test_arguments_are_let_go_of(executor):
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    future = executor.submit(id, thing)
    del thing
    future.result()
    until(lambda: gone() is None, "nothing refers to the argument")


def test_callbacks(executor, caplog, gate, tmp_path):
    future, _ = occupy(executor, gate, tmp_path, 2)
    seen = []

    def leave(_):
        raise SystemExit

    for callback in (lambda f: 1 / 0, leave, lambda f: seen.append(executor.submit(work.square, 7))):
        future.add_done_callback(callback)
    follow = executor.submit(abs, -1)
    follow.add_done_callback(lambda f: seen.append(executor.submit(work.square, 7)))
    gate.touch()
    assert future.result() == str(gate)
    until(lambda: seen, "the callback's own call")
    assert seen[0].result() == 49
    until(lambda: len(caplog.records) == 2, "both are logged")
    assert all("exception calling callback" in record.getMessage() for record in caplog.records)
    assert {record.name for record in caplog.records} == {"concurrent.futures"}


def test_asyncio(executor):
    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(executor, work.square, x) for x in range(20)),
            loop.run_in_executor(executor, work.fail, "no"),
            return_exceptions=True,
        )

    *squares, error = asyncio.run(main())
    assert squares == [x * x for x in range(20)] and isinstance(error, ValueError)


# Deaths ----------------------------------------------------------------------------------------------------------


def test_a_death_costs_its_own_call(executor):
    futures = [executor.submit(work.die_at, index, 4) for index in range(12)]
    error = futures[4].exception()
    assert isinstance(error, forklift.WorkerDied) and isinstance(error, BrokenProcessPool)
    assert error.signal == "SIGKILL" and "item" not in str(error)
    assert [f.result() for f in futures if f is not futures[4]] == [i for i in range(12) if i != 4]
    assert executor.submit(abs, -1).result() == 1


def test_a_death_in_a_map_names_the_item(executor):
    results = executor.map(work.die_at, range(6), itertools.repeat(2), chunksize=1)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(BrokenProcessPool, match="item 2") as caught:
        next(results)
    assert isinstance(caught.value, forklift.WorkerDied) and caught.value.index == 2
    assert list(results) == []


def test_retries_and_time_limits(tmp_path):
    with make(retries=1, task_timeout=2) as executor:
        assert executor.submit(work.die_once, str(tmp_path / "a")).result() == str(tmp_path / "a")
        late = executor.submit(work.wait_for, str(tmp_path / "never")).exception()
        assert isinstance(late, forklift.TaskTimeout) and isinstance(late, TimeoutError)
        assert late.seconds == 2 and "item" not in str(late).lower()


@pytest.mark.parametrize("context", [None, "fork", "spawn"])
def test_initializer(context):
    with make(initializer=work.remember, initargs=("here",), mp_context=context) as executor:
        assert executor.submit(work.recall).result() == "here"


def test_failing_initializer(caplog):
    with make(initializer=work.fail, initargs=("not today",)) as executor:
        futures = [executor.submit(abs, x) for x in range(10)]
        for future in futures:
            error = future.exception()
            assert isinstance(error, BrokenProcessPool) and "not today" in str(error)
            assert isinstance(error.__cause__, ValueError)
        for call in (lambda: executor.submit(abs, 1), lambda: executor.map(abs, [1])):
            with pytest.raises(BrokenProcessPool, match="not today"):
                call()
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]
    assert "not today" in caplog.text


def test_failing_initializer_and_a_map():
    with make(initializer=work.fail, initargs=("not today",)) as executor:
        results = executor.map(abs, range(5))
        with pytest.raises(BrokenProcessPool, match="not today"):
            next(results)


def test_workers_are_replaced():
    with make(workers=1, max_tasks_per_child=3) as executor:
        pids = [executor.submit(work.pid).result() for _ in range(7)]
    assert [len(set(pids[i : i + 3])) for i in (0, 3)] == [1, 1] and len(set(pids)) == 3


# Arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": -1}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": 1.5}, TypeError, "max_workers must be an int"),
        ({"initializer": 3}, TypeError, "initializer must be a callable"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be >= 1"),
        ({"max_tasks_per_child": 1.5}, TypeError, "max_tasks_per_child must be an integer"),
        ({"max_tasks_per_child": 1, "mp_context": "fork"}, ValueError, "max_tasks_per_child is incompatible"),
        ({"mp_context": "knife"}, ValueError, "context must be"),
        (
            {"processes": 2},
            TypeError,
            "unexpected keyword argument 'processes'; its options are memory_limit",
        ),
        ({"on_error": "return"}, TypeError, "unexpected keyword argument 'on_error'"),
        ({"memory_limit": "much"}, ValueError, "memory_limit must be"),
        ({"retries": -1}, ValueError, "retries must be"),
    ],
)
def test_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        forklift.Executor(**arguments)


def test_the_standard_librarys_second_argument():
    import multiprocessing

    with pytest.raises(TypeError, match="mp_context="):
        forklift.Executor(2, multiprocessing.get_context("spawn"))


def test_bad_arguments_of_calls(executor):
    for arguments, error in (
        ({"chunksize": 0}, ValueError),
        ({"chunksize": 1.5}, TypeError),
        ({"buffersize": 0}, ValueError),
        ({"buffersize": "many"}, TypeError),
    ):
        with pytest.raises(error):
            executor.map(abs, [1], **arguments)
    with pytest.raises(TypeError):
        executor.map(abs, 3)
    with pytest.raises(TypeError):
        executor.submit()
    assert executor.submit(abs, -1).result() == 1


def test_options_are_those_of_the_pool():
    pools = inspect.signature(forklift.Pool).parameters.values()
    keywords = {p.name for p in pools if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert set(_options.PoolOptions.__annotations__) == keywords - {"on_error"}


def test_parameters_are_those_of_the_standard_library():
    ours, theirs = forklift.Executor, concurrent.futures.ProcessPoolExecutor
    assert {*inspect.signature(theirs).parameters} <= {*inspect.signature(ours).parameters}
    for name in ("submit", "map", "shutdown"):
        known = inspect.signature(getattr(theirs, name)).parameters
        assert {*known} <= {*inspect.signature(getattr(ours, name)).parameters}
    assert forklift.Executor.__mro__[1] is concurrent.futures.Executor
