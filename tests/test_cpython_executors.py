"""CPython's own tests of ProcessPoolExecutor, from the installed interpreter, run against forklift.Executor.

The classes of `test.test_concurrent_futures` (a module until Python 3.11, then a package) are completed with a mixin
whose executor is ours, once for each start method. Where they look at private parts that every executor has in some
form (its processes, its thread), the harness shows ours. Some distributions leave these tests out: then all is skipped.

`CPYTHON_EXECUTOR_TESTS=name` takes another importable module of the old form in its place.
"""

from __future__ import annotations

import importlib
import os
import signal
import unittest
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker
from types import ModuleType
from typing import Any
from unittest import mock

import psutil
import pytest

import forklift
from tests import house

pytestmark = pytest.mark.untidy("looked at for each class")

USUAL = "test.test_concurrent_futures"
ROOT = os.environ.get("CPYTHON_EXECUTOR_TESTS", USUAL)
stdlib = pytest.importorskip(ROOT, reason=f"this interpreter comes without {ROOT}")


def part(name: str) -> ModuleType:
    """A module of the package, or the module that holds everything."""
    return importlib.import_module(f"{ROOT}.{name}") if hasattr(stdlib, "__path__") else stdlib


PRIVATE = "looks at the standard library's private parts: "
SURVIVES = "an executor of ours survives the death of a worker, which costs its own call (API.md); see tests/executors"
DECODE = "what cannot be rebuilt is a DecodeError of its own future, and breaks nothing; see tests/executors"
EXCLUSIONS = {
    "test_killed_child": SURVIVES,
    "test_error_at_task_unpickle": DECODE,
    "test_exit_at_task_unpickle": DECODE,
    "test_error_during_result_unpickle_in_result_handler": DECODE,
    "test_exit_during_result_unpickle_in_result_handler": DECODE,
    "test_exit_during_result_pickle_on_worker": "sys.exit while a result is encoded ends the worker: WorkerDied",
    "test_idle_process_reuse_one": PRIVATE + "counts processes; all workers are born together here",
    "test_idle_process_reuse_multiple": PRIVATE + "counts processes; all workers are born together here",
    "test_processes_terminate": PRIVATE + "counts processes as soon as calls are submitted",
    "test_saturation": PRIVATE + "counts processes as soon as calls are submitted",
    "test_max_tasks_per_child_defaults_to_spawn_context": PRIVATE + "executor._mp_context",
    "test_python_finalization_error": PRIVATE + "patches the start of its threads",
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": PRIVATE + "patches its pipe",
    "test_hang_gh83386": "its program for process pools has no import of multiprocessing; see test_exit_waits",
}

CONTEXTS = ("fork", "forkserver", "spawn")

#: What a program that a test starts says, and what it has to say instead.
SUBSTITUTIONS = (("from concurrent.futures import Executor", "from forklift import Executor"), (USUAL, ROOT))


class Shown:
    """A process of ours in the shape of one of `multiprocessing`."""

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def join(self) -> None:
        self.process.wait(house.SWEEP_SECONDS)


class Queue:
    """There is no queue whose thread could be joined."""

    def join_thread(self) -> None:
        return None


class Executor(forklift.Executor):
    """Ours, with what the tests look at."""

    @property
    def _processes(self) -> dict[int, Shown]:
        pool = self._desk.pool
        return {worker.pid: Shown(worker.pid) for worker in pool.workers() if worker.pid is not None}

    @property
    def _executor_manager_thread(self) -> Any:
        return self._desk.thread

    @property
    def _call_queue(self) -> Queue:
        return Queue()


class Ours:
    """What the tests are mixed with."""

    executor_type = Executor
    ctx: str

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # Servants of the standard library, which stay.
        resource_tracker.ensure_running()
        if cls.ctx == "forkserver":
            forkserver.ensure_running()
        before = house.look()
        cls.addClassCleanup(cls.check_house, before)

    @classmethod
    def check_house(cls, before: house.House) -> None:
        left = before.sweep(strict=True)
        assert left == [], left

    def setUp(self) -> None:
        if self._testMethodName in EXCLUSIONS:
            self.skipTest(EXCLUSIONS[self._testMethodName])
        for module in {part("test_shutdown"), stdlib}:
            if hasattr(module, "assert_python_ok"):
                self.enterContext(mock.patch.object(module, "assert_python_ok", substituted(module)))
        self.enterContext(mock.patch("concurrent.futures.ProcessPoolExecutor", Executor))
        super().setUp()


def substituted(module: ModuleType):
    """Run a program of the standard library's tests with our executor in the place of the other."""
    run = module.assert_python_ok

    def translate(text: str) -> str:
        for theirs, ours in SUBSTITUTIONS:
            text = text.replace(theirs, ours)
        return text

    def assert_python_ok(*args, **variables):
        if ROOT != USUAL:  # Without a variable, programs are run in isolation.
            variables["PYTHONPATH"] = os.environ["PYTHONPATH"]
        return run(*map(translate, args), **variables)

    return assert_python_ok


class Failing(part("test_init").FailingInitializerMixin):
    """A failing initializer. What it raised is logged here; no queue need be sent to the workers."""

    def setUp(self) -> None:
        self.executor_kwargs = {"initializer": part("test_init").init_fail}
        self.log_queue = None
        part("util").ExecutorMixin.setUp(self)


SUITES = {
    "ProcessPool": part("test_process_pool").ProcessPoolExecutorTest,
    "Shutdown": part("test_shutdown").ProcessPoolShutdownTest,
    "Wait": part("test_wait").WaitTests,
    "AsCompleted": part("test_as_completed").AsCompletedTests,
    "Initializer": part("test_init").InitializerMixin,
    "FailingInitializer": Failing,
    "Deadlock": part("test_deadlock").ExecutorDeadlockTest,
}

for suite, tests in SUITES.items():
    for context in CONTEXTS:
        name = f"Test{suite}{context.title()}"
        bases = (Ours, tests, part("util").ExecutorMixin, part("util").BaseTestCase)
        bases = tuple(base for base in bases if not any(base in other.__mro__[1:] for other in bases))
        globals()[name] = type(name, bases, {"ctx": context, "__module__": __name__})


def test_harness_is_complete() -> None:
    """Exclusions name tests that exist in this or another version; ours is what the classes run."""
    names = {name for tests in SUITES.values() for name in dir(tests)}
    assert "test_submit" in names and "test_hang_issue12364" in names
    assert not issubclass(Executor, ProcessPoolExecutor)
    if "test_max_tasks_per_child" in names:  # Python 3.12 and later.
        assert not set(EXCLUSIONS) - names - {"test_idle_process_reuse_one", "test_python_finalization_error"}
    assert unittest.TestCase in globals()["TestWaitFork"].__mro__
