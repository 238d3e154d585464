"""How executors end: `shutdown`, forgotten, forked, with the interpreter, by Ctrl-C."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import threading
from concurrent.futures.process import BrokenProcessPool

import pytest

from tests.patience import until

from . import work
from .conftest import make, occupy


def test_after_shutdown(either):
    future = either.submit(work.square, 3)
    either.shutdown()
    assert future.done() and future.result() == 9
    for call in (lambda: either.submit(abs, 1), lambda: list(either.map(abs, [1]))):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            call()
    either.shutdown()


def test_shutdown_without_waiting(executor, gate, tmp_path):
    futures = [*occupy(executor, gate, tmp_path, 2), *(executor.submit(work.square, x) for x in range(9))]
    results = executor.map(work.square, range(200))
    executor.shutdown(wait=False)
    assert not futures[0].done()
    gate.touch()
    assert [f.result() for f in futures[2:]] == [x * x for x in range(9)]
    assert list(results) == [x * x for x in range(200)]


def test_cancelling_what_waits(executor, gate, tmp_path):
    running = occupy(executor, gate, tmp_path, 2)
    waiting = [executor.submit(work.square, x) for x in range(20)]
    results = executor.map(work.square, range(100_000), chunksize=1)
    woken = threading.Thread(target=concurrent.futures.wait, args=(waiting[3:],))
    woken.start()
    executor.shutdown(wait=False, cancel_futures=True)
    woken.join(120)
    assert not woken.is_alive()
    assert [f.cancelled() for f in waiting] == [False] * 3 + [True] * 17
    gate.touch()
    executor.shutdown()
    assert all(f.result() for f in running)
    with pytest.raises(concurrent.futures.CancelledError):
        list(results)


def test_killing(executor, gate, tmp_path):
    running = occupy(executor, gate, tmp_path, 2)
    waiting = [executor.submit(work.square, x) for x in range(9)]
    executor.terminate_workers()
    for future in (*running, *waiting[:3]):
        assert isinstance(future.exception(30), BrokenProcessPool)
    assert all(f.cancelled() for f in waiting[3:])
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)


def test_forgotten_executor_does_what_it_was_given(tmp_path):
    executor = make()
    futures = [executor.submit(work.square, x) for x in range(30)]
    executor.map(work.touch, [(str(tmp_path), index) for index in range(30)])
    del executor
    gc.collect()
    assert [f.result(120) for f in futures] == [x * x for x in range(30)]
    until(lambda: len(list(tmp_path.iterdir())) == 30, "the map is done")


def test_shutdown_from_a_callback(executor):
    ended = threading.Event()

    def end(_):
        executor.shutdown()
        ended.set()

    executor.submit(abs, 1).add_done_callback(end)
    assert ended.wait(120)


def test_fork_of_the_process(executor):
    assert executor.submit(abs, -1).result() == 1
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            executor.submit(abs, -1)
        except RuntimeError as error:
            code = 7 if "forked" in str(error) else 2
            executor.shutdown()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert executor.submit(abs, -2).result() == 2


EXITS = {
    "pending calls": "fs = [executor.submit(show, i) for i in range(8)]",
    "pending calls, forgotten": "[executor.submit(show, i) for i in range(8)]\ndel executor",
    "a map": "it = executor.map(show, range(8))",
    "a map of an iterable that gives no more": (
        "def items():\n    yield from range(8)\n    time.sleep(1000)\n"
        "it = executor.map(show, items(), buffersize=100)\n"
        "for i in range(8): next(it)"
    ),
    "shutdown without waiting": "fs = [executor.submit(show, i) for i in range(8)]\nexecutor.shutdown(wait=False)",
}


@pytest.mark.parametrize("case", EXITS)
def test_exit_waits(scripts, case):
    program = (
        "import forklift\n"
        "def show(i):\n    time.sleep(0.02)\n    mark(i)\n"
        "executor = forklift.Executor(2)\n" + EXITS[case]
    )
    script = scripts.start(program, options=("-W", "error"))
    script.run().check()
    assert len(list(script.marks.iterdir())) == 8


def test_submitting_at_exit(scripts):
    script = scripts.start(
        "import atexit, forklift\n"
        "def late():\n"
        "    try:\n        executor.submit(abs, 1)\n"
        "    except RuntimeError as error:\n        print(error)\n"
        "atexit.register(late)\n"
        "executor = forklift.Executor(2)\n"
        "print(executor.submit(abs, -1).result())\n"
    )
    assert script.run().check().splitlines() == [
        "1",
        "cannot schedule new futures after interpreter shutdown",
    ]


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("block", [True, False])
def test_ctrl_c_ends_the_program(scripts, group, block):
    body = "fs = [executor.submit(mark_and_sleep, 1000) for _ in range(50)]\nfs[0].result()"
    head = "import forklift\n"
    if block:
        body = "with forklift.Executor(2) as executor:\n    " + body.replace("\n", "\n    ")
    else:
        body = "executor = forklift.Executor(2)\n" + body
    script = scripts.start(head + body)
    pids = script.begun(2)
    script.interrupt(group)
    ended = script.run()
    assert ended.returncode != 0 and ended.stderr.rstrip().endswith("KeyboardInterrupt")
    script.gone(pids)
