"""Exceptions keep what they know through pickling; texts about objects stay short."""

from __future__ import annotations

import concurrent.futures.process
import dataclasses
import multiprocessing.pool
import pickle
from collections import OrderedDict, defaultdict, namedtuple
from typing import Any

import numpy
import pytest

from forklift import errors
from forklift.errors import (
    DecodeError,
    EncodeError,
    ForkliftError,
    MemoryLimitExceeded,
    RemoteTraceback,
    ResultEncodeError,
    TaskTimeout,
    WorkerDied,
    bounded_repr,
)


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (WorkerDied(3, 12, -9), (RuntimeError,)),
        (WorkerDied(None, None, None), (RuntimeError,)),
        (WorkerDied(1, 2, 3, "the user's own words"), (RuntimeError,)),
        (
            errors.broken_worker_died(WorkerDied(1, 2, -11)),
            (WorkerDied, concurrent.futures.process.BrokenProcessPool),
        ),
        (TaskTimeout(4, 2.5), (TimeoutError, multiprocessing.TimeoutError)),
        (MemoryLimitExceeded(2_000, 1_000, "results", 4), (MemoryError,)),
        (EncodeError("items[3].conn.lock", "cannot pickle", "<lock>", 3), (pickle.PicklingError,)),
        (
            errors.rebuild_encode_error("TypeError", "items[3]", "cannot pickle", "<lock>", 3),
            (EncodeError, pickle.PicklingError, TypeError),
        ),
        (
            errors.rebuild_encode_error("AttributeError", "items[3]", "no", "", 3),
            (EncodeError, AttributeError),
        ),
        (ResultEncodeError("result", "no", "<lock>"), (EncodeError, multiprocessing.pool.MaybeEncodingError)),
        (DecodeError("bad", "parent", 2), (pickle.UnpicklingError,)),
        (ForkliftError("text"), ()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_survive_pickling(error: ForkliftError, bases: tuple[type, ...]) -> None:
    assert isinstance(error, (ForkliftError, *bases))
    assert all(isinstance(error, base) for base in bases)
    error.add_note("note")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error) and vars(back) == vars(error) and back.args == error.args


@pytest.mark.parametrize(
    ("exitcode", "signal", "words"),
    [
        (-9, "SIGKILL", "killed by SIGKILL, possibly by the kernel's out-of-memory killer"),
        (-11, "SIGSEGV", "segmentation fault in native code"),
        (3, None, "called os._exit(3)"),
        (0, None, "exited with code 0"),
        (-63, "signal 63", "killed by signal 63"),
        (None, None, "vanished"),
    ],
)
def test_deaths_in_words(exitcode: int | None, signal: str | None, words: str) -> None:
    died = WorkerDied(7, 99, exitcode)
    assert died.signal == signal and words in died.reason
    assert "pid 99" in str(died) and "item 7" in str(died)


def test_texts_of_errors_are_bounded() -> None:
    assert len(str(EncodeError("p" * 10**6, "r" * 10**6, "v" * 10**6))) < 7_000
    assert len(str(WorkerDied(1, 1, 1, "x" * 10**6))) < 3_000
    assert len(errors.bounded_text("x" * 1000, 100)) == 100
    assert errors.bounded_text("x" * 100, 100) == "x" * 100


def test_remote_traceback_prints_the_workers() -> None:
    cause = errors.remote_traceback("Traceback: here\n")
    assert type(cause) is RemoteTraceback is multiprocessing.pool.RemoteTraceback
    assert str(pickle.loads(pickle.dumps(cause))) == '\n"""\nTraceback: here\n"""'


@dataclasses.dataclass
class Record:
    a: object
    b: int = 1


class Raises:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Forbidden(list[int]):
    def __repr__(self) -> str:
        raise AssertionError("asked for the repr of a large container")

    def __iter__(self) -> Any:
        raise AssertionError("iterated")


class LongAndStrange:
    def __len__(self) -> int:
        return 10**9

    def __repr__(self) -> str:
        raise AssertionError("asked for the repr of something huge")


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        (1, "1"),
        ("a'b", '"a\'b"'),
        ((1,), "(1,)"),
        ([], "[]"),
        ({1: [2]}, "{1: [2]}"),
        (frozenset([1]), "frozenset({1})"),
        (set(), "set()"),
        pytest.param(1 << 20_000, "<int of 20,001 bits>", id="int"),
        ([0] * 10**6, "[0, 0, 0, 0, 0, 0, ... (1,000,000 in all)]"),
        (numpy.zeros((1000, 2)), "<numpy.ndarray of shape (1000, 2), float64>"),
        (Record([1] * 100), "Record(a=[1, 1, 1, 1, 1, 1, ... (100 in all)], b=1)"),
        (ValueError("x", [1]), "ValueError('x', [1])"),
        (Pair(1, 2), "Pair((1, 2))"),
        (OrderedDict(a=1), "OrderedDict({'a': 1})"),
        (defaultdict(int, a=1), "defaultdict({'a': 1})"),
        ([Raises()], "[<Raises: its repr raised RuntimeError>]"),
        (LongAndStrange(), "<tests.unit.test_errors.LongAndStrange of length 1,000,000,000>"),
        (len, "<built-in function len>"),
    ],
)
def test_bounded_repr(obj: object, text: str) -> None:
    assert bounded_repr(obj) == text


def test_bounded_repr_is_bounded() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    deep: object = "x"
    for _ in range(10_000):
        deep = [deep, "y" * 1000]
    for obj in (
        cycle,
        deep,
        "x" * 10**8,
        Forbidden([1] * 1000),
        Raises(),
        dict.fromkeys(range(10**4), "v" * 500),
    ):
        assert len(bounded_repr(obj)) <= 200
        assert len(bounded_repr(obj, 50)) <= 50
