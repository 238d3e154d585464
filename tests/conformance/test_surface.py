"""Signatures, and arguments that are refused."""

from __future__ import annotations

import inspect
import multiprocessing.pool

import pytest

from tests import house

from . import work

METHODS = [
    "map",
    "map_async",
    "starmap",
    "starmap_async",
    "imap",
    "imap_unordered",
    "apply",
    "apply_async",
    "close",
    "terminate",
    "join",
    "__enter__",
]
RESULT_METHODS = ["get", "wait", "ready", "successful"]

Named = list[tuple[str, object]]


def leading(function) -> Named:
    """The parameters that can be given by position, with their defaults."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.default) for p in parameters if p.kind in kinds]


def check_signature(ours, theirs, changes: dict[str, object]) -> None:
    """The same leading parameters; defaults as there or as in `changes`; additions have a default and a name."""
    expected = [(name, changes.get(name, default)) for name, default in leading(theirs)]
    assert leading(ours) in (expected, leading(theirs))
    for parameter in inspect.signature(ours).parameters.values():
        assert parameter.kind is not inspect.Parameter.VAR_POSITIONAL
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            assert parameter.default is not inspect.Parameter.empty, parameter


@pytest.mark.parametrize("name", METHODS)
def test_signature_of_a_method(pool, name):
    changes = {"chunksize": None} if name.startswith("imap") else {}
    check_signature(getattr(pool, name), getattr(multiprocessing.pool.Pool, name).__get__(pool), changes)


@pytest.mark.parametrize("name", RESULT_METHODS)
def test_signature_of_a_result(pool, name):
    result = pool.apply_async(work.square, (1,))
    theirs = getattr(multiprocessing.pool.AsyncResult, name).__get__(result)
    check_signature(getattr(result, name), theirs, {})
    result.get()


def test_signature_of_next(pool):
    it = pool.imap(work.square, [1])
    check_signature(it.next, multiprocessing.pool.IMapIterator.next.__get__(it), {})
    list(it)


def test_signature_of_the_pool(Pool, implementation):
    expected = leading(multiprocessing.pool.Pool)
    if implementation == "multiprocessing":  # there it is a method of a context, which is its own `context`
        expected = [pair for pair in expected if pair[0] != "context"]
    assert leading(Pool) == expected


REFUSED = {
    "no processes": (lambda Pool: Pool(0), ValueError, "^Number of processes must be at least 1$"),
    "less than none": (lambda Pool: Pool(-1), ValueError, "^Number of processes must be at least 1$"),
    "processes by name": (
        lambda Pool: Pool(processes=0),
        ValueError,
        "Number of processes must be at least 1",
    ),
    "text as processes": (lambda Pool: Pool("2"), TypeError, None),
    "initializer": (lambda Pool: Pool(1, 5), TypeError, "^initializer must be a callable$"),
    "initializer by name": (
        lambda Pool: Pool(1, initializer="f"),
        TypeError,
        "^initializer must be a callable$",
    ),
    "option": (lambda Pool: Pool(1, frobnicate=1), TypeError, "frobnicate"),
} | {
    f"maxtasksperchild {value!r}": (
        lambda Pool, value=value: Pool(1, maxtasksperchild=value),
        ValueError,
        "^maxtasksperchild must be a positive int or None$",
    )
    for value in (0, -1, 0.5, "12")
}


@pytest.mark.parametrize(("make", "error", "text"), REFUSED.values(), ids=REFUSED)
def test_pool_that_is_refused(Pool, make, error, text):
    before = house.offspring()
    with pytest.raises(error, match=text):
        make(Pool)
    assert house.offspring() <= before


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("chunksize", [0, -3])
def test_chunk_size_that_is_refused(pool, method, chunksize):
    with pytest.raises(ValueError, match=f"^Chunksize must be 1\\+, not {chunksize}$"):
        getattr(pool, method)(work.square, [1, 2], chunksize)
    assert list(getattr(pool, method)(work.square, [2])) == [4]


def test_numbers_of_numpy_are_numbers(Pool):
    numpy = pytest.importorskip("numpy")
    pool = Pool(numpy.int64(1))
    assert pool.map(work.square, [1, 2, 3], numpy.int64(2)) == [1, 4, 9]
    assert list(pool.imap(work.square, [1, 2, 3], numpy.int32(2))) == [1, 4, 9]
    pool.terminate()
    pool.join()


@pytest.mark.parametrize("name", ["map", "map_async", "starmap", "imap", "imap_unordered", "apply"])
def test_unknown_option_is_refused(pool, name):
    with pytest.raises(TypeError, match="frobnicate"):
        getattr(pool, name)(work.square, [(1,)], frobnicate=1)


def test_missing_arguments(pool):
    for name in ("map", "map_async", "starmap", "imap", "imap_unordered"):
        with pytest.raises(TypeError, match="missing"):
            getattr(pool, name)(work.square)
    with pytest.raises(TypeError, match="missing"):
        pool.apply()
