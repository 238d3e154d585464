"""Objects whose own code runs while they cross, and does what it should not: raises, exits, calls the pool."""

from __future__ import annotations

import os
import traceback
import types
from typing import Any

import pytest

import forklift

from . import work
from .misfits import (
    BAD,
    COUNT,
    DEEDS,
    POOL,
    Caller,
    Misfit,
    Shout,
    index_of,
    make,
    raise_one,
    same,
)

HANG = 120
TEXT_MAX = 10_000  # characters


def whole_text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def indices(results: list[Any]) -> list[Any]:
    return [result.index if isinstance(result, Misfit) else result for result in results]


def check(pool: Any, results: list[Any], kind: type[BaseException]) -> None:
    """Item BAD has its own error, with the cause in words that a person can read; all others have their results."""
    error = results.pop(BAD)
    assert isinstance(error, kind), error
    told = whole_text(error)
    assert "not for moving" in told and len(told) < 20 * TEXT_MAX and len(str(error)) < TEXT_MAX
    assert indices(results) == [index for index in range(COUNT) if index != BAD]
    assert pool.map(abs, [-1, -2]) == [1, 2]


CHUNKS = pytest.mark.parametrize("chunksize", [None, 4])


@CHUNKS
@pytest.mark.parametrize("deed", ["fail", "ramble"])
def test_argument_that_does_not_pickle(pool, deed, chunksize):
    items = [Misfit(index, deed if index == BAD else "") for index in range(COUNT)]
    check(pool, pool.map(index_of, items, chunksize, on_error="return"), forklift.EncodeError)
    check(pool, list(pool.imap(index_of, iter(items), chunksize, on_error="return")), forklift.EncodeError)


@CHUNKS
@pytest.mark.parametrize("deed", DEEDS)
def test_argument_that_cannot_be_rebuilt(pool, deed, chunksize):
    items = [Misfit(index, deed if index == BAD else "", "in", "away") for index in range(COUNT)]
    check(pool, pool.map(index_of, items, chunksize, on_error="return"), forklift.DecodeError)
    check(pool, list(pool.imap(index_of, iter(items), chunksize, on_error="return")), forklift.DecodeError)


@CHUNKS
@pytest.mark.parametrize("deed", DEEDS)
def test_result_that_does_not_pickle(pool, deed, chunksize):
    items = [(index, os.getpid(), deed, "out", "away") for index in range(COUNT)]
    check(pool, pool.starmap(make, items, chunksize, on_error="return"), forklift.EncodeError)


@CHUNKS
@pytest.mark.parametrize("deed", ["fail", "ramble", "leave", "shout"])
def test_result_that_cannot_be_rebuilt(pool, deed, chunksize):
    items = [(index, os.getpid(), deed, "in", "home") for index in range(COUNT)]
    check(pool, pool.starmap(make, items, chunksize, on_error="return"), forklift.DecodeError)


@pytest.mark.parametrize("deed", ["leave", "interrupt", "shout"])
@pytest.mark.parametrize("method", ["map", "map_async", "imap", "apply"])
def test_pickling_at_home_may_end_the_call(pool, method, deed):
    """What is no Exception is the program's own business, here as in a for loop; the pool stays usable."""
    kind = {"leave": SystemExit, "interrupt": KeyboardInterrupt, "shout": Shout}[deed]
    items = [Misfit(index, deed if index == BAD else "") for index in range(COUNT)]
    with pytest.raises(kind, match="not for moving"):
        if method == "map":
            pool.map(index_of, items)
        elif method == "map_async":
            pool.map_async(index_of, items).get(HANG)
        elif method == "imap":
            list(pool.imap(index_of, items))
        else:
            pool.apply(index_of, (items[BAD],))
    assert pool.map(abs, [-1, -2]) == [1, 2]


@pytest.mark.parametrize("when", ["out", "in"])
@pytest.mark.parametrize("method", ["map", "map_async", "imap", "apply_async"])
def test_what_crosses_may_call_the_pool(pool, method, when):
    POOL[:] = [pool]
    try:
        items = [Caller(when) for _ in range(3)]
        if method == "apply_async":
            results = [pool.apply_async(same, (item,)).get(HANG) for item in items]
        elif method == "imap":
            results = list(pool.imap(same, items))
        elif method == "map_async":
            results = pool.map_async(same, items).get(HANG)
        else:
            results = pool.map(same, items)
        assert [type(result) for result in results] == [Caller] * 3
    finally:
        POOL.clear()


# Functions -------------------------------------------------------------------------------------------------------


def test_function_that_the_workers_module_lacks(pool):
    """Sent by name, since it is there at home; the module that workers import is without it."""
    import colorsys

    function = types.FunctionType(work.square.__code__, {"__name__": "colorsys"}, "homemade")
    function.__module__, function.__qualname__ = "colorsys", "homemade"
    colorsys.homemade = function  # type: ignore[attr-defined]
    try:
        for method in (pool.map, lambda *args: list(pool.imap(*args))):
            with pytest.raises((forklift.DecodeError, AttributeError)) as caught:
                method(function, range(5))
            assert "homemade" in whole_text(caught.value)
    finally:
        del colorsys.homemade  # type: ignore[attr-defined]
    assert pool.map(abs, [-1]) == [1]


def test_function_that_differs_in_the_worker_is_the_workers(scripts):
    """A module is imported by workers as it lies on the disk, as with the other start methods that are not fork."""
    ended = scripts.run("""
    import pathlib
    sys.path.insert(0, os.getcwd())
    sys.dont_write_bytecode = True
    pathlib.Path("changing.py").write_text("def f(x): return 'old'\\n")
    import changing
    pathlib.Path("changing.py").write_text("def f(x): return 'new'\\ndef g(x): return x\\n")
    import forklift
    with forklift.Pool(2) as pool:
        print(pool.map(changing.f, [1, 2]))
    """)
    assert ended.check() == "['new', 'new']\n"


def test_class_that_the_workers_module_lacks(pool):
    import colorsys

    colorsys.Homemade = type("Homemade", (), {"__module__": "colorsys"})  # type: ignore[attr-defined]
    try:
        items = [1, colorsys.Homemade(), 3]  # type: ignore[attr-defined]
        results = pool.map(type, items, on_error="return")
        assert results[::2] == [int, int]
        assert isinstance(results[1], forklift.DecodeError) and "Homemade" in whole_text(results[1])
    finally:
        del colorsys.Homemade  # type: ignore[attr-defined]


# Exceptions ------------------------------------------------------------------------------------------------------


RAISED = {
    "keywords": ("NeedsKeywords", "code 77"),
    "grows": ("Grows", "text"),
    "leaves at home": ("LeavesAtHome", ""),
    "no text": ("RaisesForStr", ""),
    "own base": ("OwnBase", "base"),
    "group": ("ExceptionGroup", "code 5"),
    "cycle": ("ValueError", "cycle"),
    "local": ("Local", "local class"),
}


@CHUNKS
@pytest.mark.parametrize("name", RAISED)
def test_exception_is_told_whatever_it_is(pool, name, chunksize):
    """As itself, or as a DecodeError that names it; with the worker's traceback; its neighbours are done."""
    items = [(index, name, os.getpid()) for index in range(COUNT)]
    results = pool.map(raise_one, items, chunksize, on_error="return")
    error = results.pop(BAD)
    assert isinstance(error, BaseException)
    kind, text = RAISED[name]
    told = whole_text(error)
    assert kind in told and text in told and "raise_one" in told
    assert results == [index for index in range(COUNT) if index != BAD]
    with pytest.raises(BaseException) as caught:
        pool.map(raise_one, items, chunksize)
    assert type(caught.value).__name__ == type(error).__name__
    assert pool.map(abs, [-1, -2]) == [1, 2]


def test_a_long_exception_arrives_as_itself(pool):
    with pytest.raises(ValueError) as caught:
        pool.map(raise_one, [(BAD, "long", 0)])
    assert caught.value.args == ("y" * 5_000_000,)
    assert len(str(caught.value.__cause__)) < 100_000
