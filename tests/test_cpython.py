"""CPython's own tests of multiprocessing.Pool, from the installed interpreter, run against forklift.Pool.

The classes of `test._test_multiprocessing` are completed with a mixin whose `Pool` is ours; `multiprocessing.Pool` is
replaced while they run, also in the texts of programs that they start. Set `CPYTHON_TESTS_AGAINST=multiprocessing`
to check this harness: then nothing is excluded and everything must pass.
"""

from __future__ import annotations

import multiprocessing
import os
import unittest
from pathlib import Path
from unittest import mock

import pytest

from tests import house
from tests.conftest import ORACLE, load_pool

pytestmark = pytest.mark.untidy("looked at for each class")
pytest.importorskip("test.support", reason="this interpreter has no test package")
stdlib = pytest.importorskip("test._test_multiprocessing", reason="this interpreter has no test package")

from test.support import script_helper  # noqa: E402

AGAINST = os.environ.get("CPYTHON_TESTS_AGAINST", "forklift")

PRIVATE = "looks at the standard library's private parts: "
EXCLUSIONS = {
    "test_make_pool": PRIVATE + "len(pool._pool); its refusals of -1 and 0 are in tests/conformance",
    "test_pool_worker_lifetime": PRIVATE
    + "pool._pool, pool._repopulate_pool(); see test_workers_are_replaced",
    "test_resource_warning": PRIVATE + "sets pool._state; see test_forgotten_pool",
    "test_release_unused_processes": PRIVATE + "counts the calls of a mock in place of a context's Process",
    "test_unpickleable_result": "API.md promises that functions travel by value: its lambda is a good result",
}

#: What a program that a CPython test starts says, and what it has to say instead.
SUBSTITUTIONS = (
    ("from multiprocessing import Pool", "from forklift import Pool"),
    ("multiprocessing.Pool(", "__import__('forklift').Pool("),
)

if AGAINST == ORACLE:
    EXCLUSIONS.clear()
    SUBSTITUTIONS = ()


def pool_under_test(*args, **kwargs):
    return load_pool(AGAINST)(*args, **kwargs)


class Ours(stdlib.ProcessesMixin):
    """What the classes of the standard library's tests expect to be mixed with."""

    Pool = staticmethod(pool_under_test)

    @classmethod
    def setUpClass(cls) -> None:
        cls.patches = [
            mock.patch.object(multiprocessing, "Pool", pool_under_test),
            mock.patch.object(script_helper, "assert_python_ok", substituted(script_helper.assert_python_ok)),
        ]
        before = house.look()
        cls.addClassCleanup(cls.check_house, before)
        for patch in cls.patches:
            patch.start()
        cls.addClassCleanup(lambda: [patch.stop() for patch in cls.patches])
        super().setUpClass()

    @classmethod
    def check_house(cls, before: house.House) -> None:
        """Many tests of a class share one pool, so the house is looked at when all are over."""
        left = before.sweep(strict=AGAINST != ORACLE)
        assert left == [], left

    def setUp(self) -> None:
        if self._testMethodName in EXCLUSIONS:
            self.skipTest(EXCLUSIONS[self._testMethodName])
        super().setUp()


def substituted(run):
    """Run a program of the standard library's tests with our pool in the place of the other."""

    def translate(text: str) -> str:
        for theirs, ours in SUBSTITUTIONS:
            text = text.replace(theirs, ours)
        return text

    def assert_python_ok(*args, **variables):
        for arg in args:
            if Path(arg).suffix == ".py" or (len(arg) < 200 and Path(arg).is_file()):
                Path(arg).write_text(translate(Path(arg).read_text()))
        return run(*map(translate, args), **variables)

    return assert_python_ok


class TestPool(stdlib._TestPool, Ours, unittest.TestCase):
    """map, apply, imap, their errors and ends."""


class TestPoolWorkerErrors(stdlib._TestPoolWorkerErrors, Ours, unittest.TestCase):
    """Failing functions and results that cannot be pickled."""


class TestPoolWorkerLifetime(stdlib._TestPoolWorkerLifetime, Ours, unittest.TestCase):
    """maxtasksperchild and the end of the interpreter."""


class TestPoolNotLeakOnFailure(Ours, stdlib.TestPoolNotLeakOnFailure):
    """A process that cannot be started."""


class TestInitializers(Ours, stdlib.TestInitializers):
    """initializer and initargs, with a manager's proxy."""

    test_manager_initializer = None  # it is not about pools

    def tearDown(self) -> None:
        super().tearDown()
        del self.ns, self.mgr  # the test case outlives its test, and would keep the manager's connection open


class TestStdin(Ours, stdlib.TestStdinBadfiledescriptor):
    """A pool in a process of multiprocessing."""

    test_queue_in_process = None  # these two are not about pools
    test_flushing = None


if hasattr(stdlib.MiscTestCase, "test_large_pool"):

    class TestLargePool(Ours, unittest.TestCase):
        """Two hundred workers, whose program must say nothing on stderr (CPython 3.13 and later)."""

        test_large_pool = stdlib.MiscTestCase.test_large_pool


def test_exclusions_exist() -> None:
    """An exclusion of a test that no longer exists has to go."""
    names = {
        name
        for kind in (TestPool, TestPoolWorkerErrors, TestPoolWorkerLifetime, TestPoolNotLeakOnFailure)
        for name in dir(kind)
    }
    assert set(EXCLUSIONS) <= names
