"""Calls of `apply_async` for which there is no room: they wait as they are, and are told of as ever."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest

import forklift
from tests.patience import until, wait_for_file

MB = 1_000_000
ITEM = 4 * MB
#: Half of it is what calls may hold that are not done.
LIMIT = 32 * MB
#: So many have begun when the others wait.
BEGUN = LIMIT // 2 // ITEM


def hold(path, array):
    """Return once the test has made `path`."""
    wait_for_file(path, 120)
    return array[0]


def first(array):
    return array[0]


def count(array):
    count.calls = getattr(count, "calls", 0) + 1
    return count.calls


def make(number=0):
    return np.full(ITEM // 8, float(number))


class Gate:
    """A pool whose calls that have begun wait for it to be opened, so that further calls find no room."""

    def __init__(self, pool, path):
        self.pool = pool
        self.path = str(path)
        self.held = [pool.apply_async(hold, (self.path, make(number))) for number in range(BEGUN)]
        assert pool._line.is_empty() and not pool._native.has_room()

    def open(self):
        open(self.path, "x").close()

    def check(self):
        assert [result.get(120) for result in self.held] == list(range(BEGUN))


@pytest.fixture
def pool():
    with forklift.Pool(1, memory_limit=LIMIT) as pool:
        yield pool
    pool.join()


@pytest.fixture
def gate(pool, tmp_path):
    return Gate(pool, tmp_path / "open")


def test_arguments_of_calls_that_are_not_done_are_bounded_in_bytes(pool, gate):
    arrays = [make(number) for number in range(40)]
    results = [pool.apply_async(first, (array,)) for array in arrays]
    assert not any(result.ready() for result in results)
    gate.open()
    assert [result.get(120) for result in results] == list(range(40))
    gate.check()
    assert pool._counters()["payload_bytes_peak"] <= LIMIT // 2 + ITEM + MB
    until(pool._line.is_empty, "the end of the thread that began them")


def test_what_functions_close_over_counts_as_well(pool):

    results = []
    for number in range(20):
        held = make(number)
        results.append(pool.apply_async(lambda held=held: held[0]))
    assert not pool._line.is_empty()
    assert [result.get(120) for result in results] == list(range(20))


def test_calls_begin_in_the_order_in_which_they_were_made(pool, gate):
    results = [pool.apply_async(count, (make() if number % 3 else 7,)) for number in range(30)]
    assert not any(result.ready() for result in results)
    gate.open()
    assert [result.get(120) for result in results] == list(range(1, 31))


def test_calls_of_several_threads(pool):
    def call(number):
        results = [pool.apply_async(first, (make(number + step),)) for step in range(10)]
        found[number] = [result.get(120) for result in results]

    found = {}
    threads = [threading.Thread(target=call, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {100 * number: [100 * number + step for step in range(10)] for number in range(4)}
    assert pool._counters()["payload_bytes_peak"] <= LIMIT // 2 + 4 * (ITEM + MB)


def test_a_call_that_waits_is_not_ready(pool, gate):
    result = pool.apply_async(first, (make(5),))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.01)
    result.wait(0.01)
    gate.open()
    assert result.get(120) == 5 and result.ready() and result.successful()


def test_callbacks_of_calls_that_waited(pool, gate):
    heard, failed = [], []
    results = [
        pool.apply_async(first, (make(number),), {}, heard.append, failed.append) for number in range(6)
    ]
    wrong = pool.apply_async(first, (), {}, heard.append, failed.append)
    gate.open()
    assert [result.get(120) for result in results] == list(range(6))
    with pytest.raises(TypeError):
        wrong.get(120)
    assert heard == list(range(6)) and [type(error) for error in failed] == [TypeError]


def test_what_cannot_be_sent_is_told_by_get(pool, gate):
    lock = threading.Lock()
    failed = []
    argument = pool.apply_async(first, ([lock],))
    function = pool.apply_async(lambda: lock)
    told = pool.apply_async(lambda: lock, (), {}, None, failed.append)
    after = pool.apply_async(first, (make(3),))
    gate.open()
    for result, path in ((argument, r"items\[0\]"), (function, "lambda"), (told, "lambda")):
        with pytest.raises(forklift.EncodeError, match=path):
            result.get(120)
        assert result.ready() and not result.successful()
    assert failed == [told._error]
    assert after.get(120) == 3


def test_a_callback_may_call_while_others_wait(pool, gate):
    lock = threading.Lock()
    found = []
    told = pool.apply_async(
        lambda: lock, (), {}, None, lambda error: found.append(pool.apply(first, (make(8),)))
    )
    others = [pool.apply_async(first, (make(9),)) for _ in range(2 * BEGUN)]
    gate.open()
    with pytest.raises(forklift.EncodeError):
        told.get(120)
    assert found == [8] and [other.get(120) for other in others] == [9] * len(others)


def test_a_call_that_waits_can_be_cancelled(pool, gate, tmp_path):
    failed = []
    argument = make(1)
    result = pool.apply_async(open, (str(tmp_path / "mark"), "x", argument))
    told = pool.apply_async(first, (make(2),), {}, None, failed.append)
    after = pool.apply_async(first, (make(3),))
    for cancelled in (result, told):
        assert cancelled.cancel()
        with pytest.raises(CancelledError):
            cancelled.get(120)
        assert not cancelled.cancel()
    assert failed == [told._error]
    assert result._waiting.item is None, "its arguments are let go of"
    gate.open()
    assert after.get(120) == 3
    assert not (tmp_path / "mark").exists()


def test_a_pool_that_is_closed_does_what_waits(pool, gate):
    results = [pool.apply_async(first, (make(number),)) for number in range(10)]
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.apply_async(first, (make(),))
    gate.open()
    pool.join()
    assert [result.get(0) for result in results] == list(range(10))
    gate.check()


def test_a_pool_that_is_terminated_fails_what_waits(pool, gate):
    failed = []
    results = [pool.apply_async(first, (make(),)) for _ in range(5)]
    results += [pool.apply_async(first, (make(),), {}, None, failed.append) for _ in range(5)]
    pool.terminate()
    for result in results:
        with pytest.raises(forklift.ForkliftError, match="terminated"):
            result.get(120)
    assert len(failed) == 5
    pool.join()


def test_the_report_is_of_the_last_call(pool, gate):
    results = [pool.apply_async(first, (make(),)) for _ in range(3)]
    iterator = pool.imap(abs, [1])
    assert pool.report().call == "imap"
    gate.open()
    assert [result.get(120) for result in results] == [0] * 3 and list(iterator) == [1]
    assert pool.report().call == "imap"
    assert pool.apply(abs, (-1,)) == 1
    assert pool.report().call == "apply"


def test_arguments_that_are_no_sequence_leave_nothing_behind(pool):
    with pytest.raises(TypeError):
        pool.apply_async(abs, 5)
    pool.close()
    pool.join()
