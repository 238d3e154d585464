"""Where forklift promises more than multiprocessing.Pool, or something where that one hangs or is silent."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections import Counter

import pytest

import forklift
from tests import house
from tests.patience import settled, until, wait_for_file

from . import work

HANG = 120


@pytest.fixture
def pool():
    with forklift.Pool(2) as pool:
        yield pool
    pool.join()


# maxtasksperchild counts calls


@pytest.mark.parametrize("chunksize", [None, 1, 2, 5, 100])
@pytest.mark.parametrize("limit", [1, 3, 7])
def test_max_tasks_counts_calls_whatever_the_chunk_size(limit, chunksize):
    with forklift.Pool(2, maxtasksperchild=limit) as pool:
        calls = pool.map(work.count_calls, range(42), chunksize)
    pool.join()
    assert len(calls) == 42
    assert max(count for _, count in calls) <= limit
    per_worker = Counter(pid for pid, _ in calls)
    assert (
        sum(1 for n in per_worker.values() if n < limit) <= 2
    )  # only the last worker of each seat is unspent


def test_max_tasks_counts_all_calls_of_all_kinds():
    with forklift.Pool(1, maxtasksperchild=4) as pool:
        calls = pool.map(work.count_calls, range(3))
        calls += [pool.apply(work.count_calls, (0,)) for _ in range(2)]
        calls += list(pool.imap(work.count_calls, range(3)))
    pool.join()
    assert [count for _, count in calls] == [1, 2, 3, 4] * 2
    assert len({pid for pid, _ in calls}) == 2


# Errors


def test_the_first_failure_in_order_is_raised(pool, tmp_path):
    for _ in range(10):
        with pytest.raises(ValueError, match="^item 5 fails"):
            pool.map(work.fail_if_listed, [(i, (5, 20, 39)) for i in range(40)])
    with pytest.raises(ValueError, match="^item 5 fails"):
        pool.map(work.fail_if_listed, [(i, (5, 6)) for i in range(8)], 1)


@pytest.mark.parametrize("chunksize", [None, 1, 10])
@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
def test_a_note_names_the_item(pool, method, chunksize):
    with pytest.raises(ValueError, match="item 37 fails") as caught:
        list(getattr(pool, method)(work.fail_if_listed, [(i, (37,)) for i in range(50)], chunksize))
    assert any("37" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("chunksize", [None, 1, 3, 100])
def test_imap_goes_on_after_a_failed_item_in_any_chunk_size(pool, chunksize):
    it = pool.imap(work.fail_if_listed, ((i, (3, 4)) for i in range(8)), chunksize)
    got = []
    for _ in range(8):
        try:
            got.append(next(it))
        except ValueError as error:
            got.append(str(error))
    assert got == [0, 1, 2, "item 3 fails", "item 4 fails", 5, 6, 7]
    with pytest.raises(StopIteration):
        next(it)


def test_stop_iteration_does_not_shorten_a_map(pool):
    """multiprocessing.Pool silently loses the rest of the chunk."""
    with pytest.raises((StopIteration, RuntimeError)):
        pool.map(work.raise_stop_iteration, range(4))
    assert pool.map(work.square, [3]) == [9]


@pytest.mark.parametrize("chunksize", [None, 1, 4])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_sized_iterable_that_fails(pool, count, chunksize):
    class Broken:
        def __len__(self):
            return 20

        def __iter__(self):
            yield from range(count)
            raise LookupError("the iterable failed")

    with pytest.raises(LookupError, match="the iterable failed"):
        pool.map(work.square, Broken(), chunksize)
    with pytest.raises(LookupError, match="the iterable failed"):
        pool.map_async(work.square, Broken(), chunksize).get(HANG)
    assert pool.map(work.square, [3]) == [9]


@pytest.mark.parametrize("actual", [0, 3, 30])
def test_a_length_that_is_wrong(pool, actual):
    class Wrong:
        def __len__(self):
            return 10

        def __iter__(self):
            return iter(range(actual))

    assert pool.map(work.square, Wrong()) == [i * i for i in range(actual)]
    assert pool.map(work.square, Wrong(), 4) == [i * i for i in range(actual)]


# Waiting that ends


def test_results_that_will_never_come_say_so(tmp_path):
    pool = forklift.Pool(2)
    jobs = [(str(tmp_path / "begun"), str(tmp_path / "never"))] * 10
    pending = pool.map_async(work.announce_and_wait, jobs, chunksize=1)
    it = pool.imap(work.announce_and_wait, jobs)
    wait_for_file(tmp_path / "begun")
    pool.terminate()
    pool.join()
    with pytest.raises(Exception) as caught:
        pending.get(HANG)
    assert not isinstance(caught.value, multiprocessing.TimeoutError)
    with pytest.raises(Exception) as caught:
        it.next(HANG)
    assert not isinstance(caught.value, (multiprocessing.TimeoutError, StopIteration))


def test_terminate_wakes_a_thread_that_waits_in_map(tmp_path):
    pool = forklift.Pool(2)
    seen: list[BaseException] = []

    def wait() -> None:
        try:
            pool.map(work.announce_and_wait, [(str(tmp_path / "begun"), str(tmp_path / "never"))])
        except Exception as error:
            seen.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for_file(tmp_path / "begun")
    pool.terminate()
    thread.join(HANG)
    assert not thread.is_alive() and len(seen) == 1
    pool.join()


def test_one_iterator_consumed_by_many_threads(pool):
    """multiprocessing.Pool raises spurious TimeoutErrors here, or forgets to wake a thread at the end."""
    it = pool.imap(work.square, range(400))
    got: list[int] = []

    def consume() -> None:
        got.extend(it)

    threads = [threading.Thread(target=consume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(got) == sorted(i * i for i in range(400))


def test_callback_that_raises(scripts):
    source = """
    import forklift
    def callback(value):
        raise RuntimeError("in the callback")
    with forklift.Pool(2) as pool:
        result = pool.apply_async(abs, (-1,), callback=callback)
        assert result.get(120) == 1
        result = pool.map_async(abs, [-1, -2], callback=callback)
        assert result.get(120) == [1, 2]
        assert pool.map(abs, [-3]) == [3]
    print("end")
    """
    ended = scripts.run(source)
    assert (ended.returncode, ended.stdout) == (0, "end\n"), ended.stderr
    assert ended.stderr.count("RuntimeError: in the callback") == 2  # said, not swallowed


def test_empty_map_async_has_its_callback(pool):
    calls: list[list] = []
    pool.map_async(work.square, [], callback=calls.append).wait(HANG)
    assert calls in ([], [[]])  # multiprocessing.Pool never calls it; either is allowed, twice is not


def test_nothing_is_held_after_join_though_the_pool_is():
    """A pool that a global still refers to has given back its memory, descriptors and threads."""
    before = house.look()
    pool = forklift.Pool(2)
    assert pool.map(len, [bytes(1_000_000)] * 20) == [1_000_000] * 20
    assert sum(map(len, pool.imap(bytes, [1_000_000] * 20))) == 20_000_000
    pool.close()
    pool.join()
    assert before.sweep(strict=True) == []
    assert "CLOSE" in repr(pool)


# Laziness and its bound


class Counted:
    """An endless iterable that counts how much was taken from it."""

    CAP = 300_000

    def __init__(self, make) -> None:
        self.make = make
        self.pulled = 0

    def __iter__(self):
        for index in itertools.count():
            if index >= self.CAP:
                raise AssertionError("pulled without bound")
            self.pulled += 1
            yield self.make(index)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("buffersize", [1, 4, 30])
def test_buffer_size_is_kept(pool, method, buffersize):
    items = Counted(lambda index: index)
    it = getattr(pool, method)(work.square, items, buffersize=buffersize)
    assert settled(lambda: items.pulled) <= buffersize
    for consumed in range(1, 12):
        next(it)
        if consumed in (1, 2, 11):
            assert settled(lambda: items.pulled) <= consumed + buffersize


def test_buffer_size_with_chunks(pool):
    items = Counted(lambda index: index)
    it = pool.imap(work.square, items, chunksize=3, buffersize=8)
    got = [next(it) for _ in range(20)]
    assert got == [i * i for i in range(20)]
    assert settled(lambda: items.pulled) <= 28


def test_buffer_size_and_a_finite_iterable(pool):
    for count in (0, 1, 3, 4, 5, 100):
        assert list(pool.imap(work.square, range(count), buffersize=4)) == [i * i for i in range(count)]


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_endless_tiny_items_are_pulled_with_a_bound(pool, method):
    items = Counted(lambda index: index)
    it = getattr(pool, method)(work.square, items)
    got = [next(it) for _ in range(100)]
    assert len(set(got)) == 100
    assert settled(lambda: items.pulled) <= 200_000


def test_endless_large_items_are_pulled_within_the_memory_limit():
    """Items of 1 MB come back as they are; the limit counts what is in flight and what was not consumed."""
    megabyte = 1_000_000
    with forklift.Pool(2, memory_limit="40MB") as pool:
        items = Counted(lambda index: bytes([index % 256]) * megabyte)
        it = pool.imap(work.identity, items)
        for consumed in range(1, 61):
            assert next(it)[0] == (consumed - 1) % 256
            if consumed in (1, 20, 60):
                assert settled(lambda: items.pulled) <= consumed + 44  # 40, one each in four pairs of hands
    pool.join()


def test_map_pulls_a_generator_of_large_items_as_room_appears():
    """The results are small, so the memory limit holds back the items alone, and the map ends."""
    with forklift.Pool(2, memory_limit="20MB") as pool:
        total = sum(pool.map(len, (bytes(1_000_000) for _ in range(100))))
    pool.join()
    assert total == 100_000_000


# Births


def test_a_pool_in_a_worker_of_another_pool(pool):
    assert pool.map(work.nest, [3, 5], 1) == [[0, 1, 4], [0, 1, 4, 9, 16]]


def test_cores_from_affinity():
    allowed = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, allowed[:1])
        with forklift.Pool() as pool:
            assert repr(pool).endswith("pool_size=1>")
            assert pool.map(work.square, [2]) == [4]
        pool.join()
    finally:
        os.sched_setaffinity(0, allowed)


def test_lambdas_and_closures(pool):
    factor = 3
    assert pool.map(lambda x: x * factor, range(5)) == [0, 3, 6, 9, 12]

    def local(x):
        return [factor, x]

    assert pool.starmap(lambda *args: args, [(1, 2), (3,)]) == [(1, 2), (3,)]
    assert list(pool.imap(local, range(2))) == [[3, 0], [3, 1]]
    (back,) = pool.map(lambda x: lambda y: (x, y), [1])
    assert back(2) == (1, 2)


def test_local_classes(pool):
    class Local:
        def __init__(self, x):
            self.x = x

    def grow(item):
        return Local(item.x + 1)

    (back,) = pool.map(grow, [Local(1)])
    assert type(back) is Local and back.x == 2


def test_function_defined_after_the_pool(pool):
    namespace: dict = {"__name__": "__main__"}
    exec("def late(x):\n    return x + 100\n", namespace)
    assert pool.map(namespace["late"], [1, 2]) == [101, 102]


def test_workers_are_there_before_there_is_work(tmp_path):
    """The initializer runs at birth, as in multiprocessing.Pool, not with the first item."""
    from tests.conformance.work import log_birth

    births = tmp_path / "births"
    with forklift.Pool(2, log_birth, (str(births),)) as pool:
        until(lambda: births.exists() and len(births.read_text().split()) == 2, "two births")
        assert pool.map(work.square, [2]) == [4]
    pool.join()
