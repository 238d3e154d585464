"""Fixtures for all tests: the pools under test, scripts in processes of their own, and the clean house."""

from __future__ import annotations

import copyreg
import gc
import os
import sys
import types
import uuid
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:  # so that workers find the functions of tests.conformance.work and its like by name
    sys.path.insert(0, ROOT)

from tests import house  # noqa: E402
from tests.script import Scripts  # noqa: E402

OUTCOME = pytest.StashKey[bool]()
ORACLE = "multiprocessing"
IMPLEMENTATIONS = (ORACLE, "forklift")

#: Of a conformance test's variants, the standard library's pool and those on clusters do one in so many: the tests take
#: their time, and the rest is code that they share. All of them with `--every-variant`.
VARIANTS_STEP = 5


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-variant", action="store_true", help="of conformance tests, for all pools")


def pytest_configure(config: pytest.Config) -> None:
    os.environ[house.MARK] = uuid.uuid4().hex
    config.addinivalue_line("markers", "huge: objects above 2 and 4 GiB; skipped where memory is short")
    config.addinivalue_line("markers", "untidy(reason): what this test leaves behind is looked at elsewhere")
    config.addinivalue_line(
        "filterwarnings", "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
    )


def patience(item: pytest.Item) -> float:
    """Return the seconds that a test may take, if it says so: the longest begin first, or all wait for them."""
    own = item.get_closest_marker("timeout")
    return float(own.args[0]) if own is not None else 0.0


@pytest.hookimpl(trylast=True)  # of what `-k` has chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=patience, reverse=True)
    if config.getoption("every_variant"):
        return
    seen: Counter[tuple[object, str]] = Counter()
    kept, left_out = [], []
    for item in items:
        callspec = getattr(item, "callspec", None)
        pool = "forklift" if callspec is None else callspec.params.get("implementation", "forklift")
        function = getattr(item, "function", None)
        if pool == "forklift" or not getattr(function, "__module__", "").startswith("tests.conformance"):
            kept.append(item)
            continue
        (kept if seen[function, pool] % VARIANTS_STEP == 0 else left_out).append(item)
        seen[function, pool] += 1
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What was imported so far stays: nobody need look through hundreds of thousands of objects again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if report.when == "call":
        item.stash[OUTCOME] = report.passed
    return report


def load_pool(name: str) -> Callable[..., Any]:
    """The pool of an implementation; a forklift that cannot be imported is a failure, never a skip."""
    if name == ORACLE:
        import multiprocessing

        return multiprocessing.get_context("fork").Pool
    import forklift

    return forklift.Pool


@pytest.fixture(autouse=True)
def clean_house(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """Fail a test that passed and left a process (any pool) or a thread, descriptor, mapping (forklift)."""
    yield from kept_clean(request)


def kept_clean(request: pytest.FixtureRequest, engine: bool = False) -> Generator[None, None, None]:
    """See `clean_house`; `engine`: with a cluster at work."""
    before = house.look()
    yield
    if getattr(request.node, "funcargs", None):
        request.node.funcargs.clear()  # pytest keeps them until the test is over, and with them the pool
    if not request.node.stash.get(OUTCOME, False) or request.node.get_closest_marker("untidy"):
        return  # a failed test's traceback keeps its pool alive: that is not a second finding
    callspec = getattr(request.node, "callspec", None)
    oracle = callspec is not None and callspec.params.get("implementation") == ORACLE
    left = before.sweep(strict=not oracle, engine=engine)
    if left:
        pytest.fail("left behind after the test:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(autouse=True)
def own_exceptions() -> Generator[None, None, None]:
    """Take back what a test's imports (dask's, by way of tblib) have changed of how exceptions are pickled here."""
    before = set(copyreg.dispatch_table)
    yield
    for kind in set(copyreg.dispatch_table) - before:
        if issubclass(kind, (BaseException, types.TracebackType)):
            del copyreg.dispatch_table[kind]


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> str:
    """The name of the module whose Pool is under test."""
    return request.param


@pytest.fixture
def Pool(implementation: str) -> Callable[..., Any]:
    """The class (or factory) under test."""
    return load_pool(implementation)


@pytest.fixture
def pool(Pool: Callable[..., Any]) -> Generator[Any, None, None]:
    """A pool of two workers."""
    pool = Pool(2)
    yield pool
    pool.terminate()
    pool.join()


@pytest.fixture(scope="module")
def module_house() -> Generator[None, None, None]:
    """As `clean_house`, but for all tests of a module together."""
    before = house.look()
    yield
    assert before.sweep(strict=True) == []


@pytest.fixture(scope="module")
def module_pool(module_house: None) -> Generator[Any, None, None]:
    """A pool of two workers for all tests of a module: where they import much, its start is most of a test.

    The pool outlives each test, so mark the module as `untidy`: the house is looked at when all are over.
    """
    import forklift

    with forklift.Pool(2) as pool:
        yield pool
    pool.join()


@pytest.fixture
def scripts(tmp_path: Path) -> Generator[Scripts, None, None]:
    """Programs that run in processes of their own; all that they started must be gone in the end."""
    scripts = Scripts(tmp_path)
    yield scripts
    scripts.end()
