"""initializer, initargs, maxtasksperchild, and what initializers are used for: sharing."""

from __future__ import annotations

import multiprocessing
from collections import Counter

import pytest

from . import work

HANG = 120


def test_global_that_the_function_uses(Pool):
    with Pool(2, initializer=work.set_state, initargs=({"a": [1]},)) as pool:
        assert pool.map(work.get_state, range(20), chunksize=1) == [{"a": [1]}] * 20
    pool.join()
    assert work.get_state() == "never set"  # the caller's own is not touched


def test_arguments_by_position(Pool):
    with Pool(2, work.set_states, (1, "two")) as pool:
        assert pool.apply(work.get_state) == ((1, "two"), {})
    pool.join()


def test_arguments_may_be_a_list(Pool):
    with Pool(1, work.set_states, [1, 2]) as pool:
        assert pool.apply(work.get_state) == ((1, 2), {})
    pool.join()


def test_runs_once_in_each_worker(Pool, tmp_path):
    births = tmp_path / "births"
    pool = Pool(2, work.log_birth, (str(births),))
    pool.map(work.square, range(100), chunksize=1)
    pool.close()
    pool.join()
    pids = births.read_text().split()
    assert len(pids) == len(set(pids)) == 2


def test_runs_even_if_there_is_no_work(Pool, tmp_path):
    births = tmp_path / "births"
    pool = Pool(3, work.log_birth, (str(births),))
    pool.close()
    pool.join()
    assert len(set(births.read_text().split())) == 3


def test_runs_again_in_replaced_workers(Pool):
    with Pool(2, work.set_state, ("set",), maxtasksperchild=1) as pool:
        assert pool.map(work.get_state, range(10), chunksize=1) == ["set"] * 10
    pool.join()


@pytest.mark.parametrize("kind", ["Value", "Queue", "SimpleQueue", "Lock", "Event", "Semaphore", "Pipe"])
def test_shared_things_in_initargs(Pool, kind):
    """The idiom of every tutorial: what may only be inherited is given to the workers by initargs."""
    context = multiprocessing.get_context()
    shared = context.Pipe(duplex=False)[1] if kind == "Pipe" else None
    if shared is None:
        shared = context.Value("i", 0) if kind == "Value" else getattr(context, kind)()
    with Pool(2, work.set_state, (shared,)) as pool:
        names = pool.map(work.state_type, range(4), chunksize=1)
    pool.join()
    assert set(names) == {type(shared).__name__}


def test_shared_value_is_shared(Pool):
    counter = multiprocessing.Value("i", 0)
    with Pool(2, work.set_state, (counter,)) as pool:
        pool.map(work.increment_shared, range(200), chunksize=5)
    pool.join()
    assert counter.value == 200


def test_shared_queue_is_shared(Pool):
    queue = multiprocessing.SimpleQueue()
    pool = Pool(2, work.set_state, (queue,))
    pool.map(work.put_in_queue, range(50))
    pool.close()
    pool.join()
    assert sorted(queue.get() for _ in range(50)) == list(range(50))
    queue.close()


def test_proxies_of_a_manager(Pool):
    """They need the parent's authentication key in every worker."""
    with multiprocessing.get_context("fork").Manager() as manager:
        queue, table = manager.Queue(), manager.dict()
        with Pool(2, work.set_state, (queue,)) as pool:
            pool.map(work.put_in_queue, range(10))  # by initargs
            pool.map(work.put_in, [(queue, i) for i in range(10, 20)])  # and as arguments
            pool.starmap(work.set_item, [(table, i) for i in range(5)])
        pool.join()
        assert sorted(queue.get(timeout=HANG) for _ in range(20)) == list(range(20))
        assert dict(table) == {i: i for i in range(5)}
        del queue, table


@pytest.mark.parametrize("limit", [1, 3])
def test_workers_are_replaced(Pool, limit):
    with Pool(1, maxtasksperchild=limit) as pool:
        calls = pool.map(work.count_up, range(12), chunksize=1)
    pool.join()
    per_worker = Counter(pid for pid, _ in calls)
    assert set(per_worker.values()) == {limit}
    assert sorted(count for _, count in calls) == sorted([*range(1, limit + 1)] * (12 // limit))


def test_replaced_with_all_kinds_of_calls(Pool):
    with Pool(2, maxtasksperchild=2) as pool:
        assert pool.map(work.square, range(20), chunksize=1) == [i * i for i in range(20)]
        assert [pool.apply(work.square, (i,)) for i in range(10)] == [i * i for i in range(10)]
        assert list(pool.imap(work.square, range(20))) == [i * i for i in range(20)]
        assert sorted(pool.imap_unordered(work.square, range(20))) == [i * i for i in range(20)]
        assert len(set(pool.map(work.pid, range(20), chunksize=1))) >= 10
    pool.join()


def test_replaced_while_closing(Pool):
    """CPython issue 10332: join waited for ever when workers of limited lifetime were closed early."""
    pool = Pool(3, maxtasksperchild=1)
    results = [pool.apply_async(work.nap, ((i, 0.05),)) for i in range(12)]
    pool.close()
    pool.join()
    assert [result.get(0) for result in results] == list(range(12))


def test_replaced_after_failures_too(Pool):
    with Pool(1, maxtasksperchild=1) as pool:
        first = pool.apply(work.pid)
        with pytest.raises(ValueError, match="a value that is wrong"):
            pool.apply(work.raise_value, (1,))
        assert pool.apply(work.pid) != first
    pool.join()


def test_no_limit(Pool):
    with Pool(1, maxtasksperchild=None) as pool:
        assert len(set(pool.map(work.pid, range(50), chunksize=1))) == 1
    pool.join()
