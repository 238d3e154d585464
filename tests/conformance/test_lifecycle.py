"""close, terminate, join, with, garbage collection, use after the end, repr, pickling."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import re
import time
import warnings

import pytest

from tests import house
from tests.patience import until, wait_for_file

from . import work

HANG = 120

USES = {
    "map": lambda pool: pool.map(work.square, [1]),
    "map of nothing": lambda pool: pool.map(work.square, []),
    "map_async": lambda pool: pool.map_async(work.square, [1]),
    "starmap": lambda pool: pool.starmap(work.add, [(1, 2)]),
    "starmap_async": lambda pool: pool.starmap_async(work.add, [(1, 2)]),
    "imap": lambda pool: pool.imap(work.square, [1]),
    "imap chunked": lambda pool: pool.imap(work.square, [1], 5),
    "imap_unordered": lambda pool: pool.imap_unordered(work.square, [1]),
    "apply": lambda pool: pool.apply(work.square, (1,)),
    "apply_async": lambda pool: pool.apply_async(work.square, (1,)),
    "with": lambda pool: pool.__enter__(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_use_after_the_end(Pool, end, use):
    pool = Pool(1)
    getattr(pool, end)()
    with pytest.raises(ValueError, match="^Pool not running$"):
        use(pool)
    pool.join()
    with pytest.raises(ValueError, match="^Pool not running$"):
        use(pool)


def test_close_lets_everything_finish(Pool, tmp_path):
    pool = Pool(2)
    results = pool.map_async(work.touch, [(str(tmp_path), i) for i in range(30)], chunksize=1)
    one = pool.apply_async(work.square, (3,))
    pool.close()
    pool.join()
    assert len(os.listdir(tmp_path)) == 30
    assert results.get(0) == list(range(30)) and one.get(0) == 9


def test_close_waits_for_work_that_has_begun(Pool, tmp_path):
    pool = Pool(1)
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    result = pool.apply_async(work.announce_and_wait, ((str(begun), str(gate)),))
    wait_for_file(begun)
    pool.close()
    assert not result.ready()
    gate.touch()
    pool.join()
    assert result.get(0) == str(gate)


def test_close_and_join_of_an_idle_pool(Pool):
    pool = Pool(2)
    pool.close()
    pool.join()


def test_join_needs_close_first(pool):
    with pytest.raises(ValueError, match="^Pool is still running$"):
        pool.join()
    assert pool.map(work.square, [2]) == [4]


def test_everything_twice(Pool):
    pool = Pool(2)
    pool.map(work.square, [1])
    pool.close()
    pool.close()
    pool.join()
    pool.join()
    pool.terminate()
    pool.terminate()
    pool.join()
    pool.close()


def test_no_worker_after_join(Pool):
    pool = Pool(2)
    pids = set(pool.map(work.pid, range(20), chunksize=1))
    pool.close()
    pool.join()
    until(lambda: not any(house.alive(pid) for pid in pids), "workers gone")


def test_no_worker_after_terminate(Pool):
    pool = Pool(2)
    pids = set(pool.map(work.pid, range(20), chunksize=1))
    pool.terminate()
    until(lambda: not any(house.alive(pid) for pid in pids), "workers gone")
    pool.join()


@pytest.mark.parametrize("method", ["map_async", "imap", "imap_unordered"])
def test_terminate_drops_work(Pool, method, tmp_path):
    pool = Pool(2)
    begun = tmp_path / "begun"
    never = tmp_path / "never"
    pending = getattr(pool, method)(work.announce_and_wait, [(str(begun), str(never))] * 1000, chunksize=1)
    wait_for_file(begun)
    pool.terminate()  # in the middle of two items that would wait for 40 s, with 998 behind them
    pool.join()
    del pending


def test_terminate_at_once(Pool):
    pool = Pool(2)
    pool.map_async(time.sleep, [1000] * 10_000, chunksize=1)
    pool.terminate()
    pool.join()


def test_with_terminates(Pool, tmp_path):
    begun = tmp_path / "begun"
    with Pool(2) as pool:
        assert pool.map(work.square, [2]) == [4]
        pool.apply_async(work.announce_and_wait, ((str(begun), str(tmp_path / "never")),))
        wait_for_file(begun)
    with pytest.raises(ValueError, match="^Pool not running$"):
        pool.map(work.square, [1])
    pool.join()


def test_with_gives_the_pool_and_passes_exceptions_on(Pool):
    made = Pool(1)
    with pytest.raises(work.Plain), made as pool:
        assert pool is made
        raise work.Plain
    made.join()


def test_with_after_close(Pool):
    with Pool(2) as pool:
        result = pool.map_async(work.square, range(10))
        pool.close()
        pool.join()
    assert result.get(0) == [i * i for i in range(10)]


def test_repr(Pool):
    pool = Pool(2)
    assert re.fullmatch(r"<[\w.]*\bPool state=RUN pool_size=2>", repr(pool))
    pool.close()
    assert re.fullmatch(r"<[\w.]*\bPool state=CLOSE pool_size=\d>", repr(pool))
    pool.join()
    pool.terminate()
    assert re.fullmatch(r"<[\w.]*\bPool state=TERMINATE pool_size=\d>", repr(pool))


@pytest.mark.parametrize("attempt", [pickle.dumps, copy.copy, copy.deepcopy])
def test_pickling_is_refused(pool, attempt):
    with pytest.raises(
        NotImplementedError, match="^pool objects cannot be passed between processes or pickled$"
    ):
        attempt(pool)


def test_pool_as_an_argument_is_refused(pool):
    with pytest.raises(Exception, match="pool objects cannot be passed between processes or pickled"):
        pool.map(work.identity, [pool])


def test_forgotten_pool(Pool):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        pool = Pool(2)
        pids = set(pool.map(work.pid, range(20), chunksize=1))
        del pool
        gc.collect()
    messages = [str(w.message) for w in seen if w.category is ResourceWarning]
    seen.clear()  # a recorded warning refers to its source, the pool
    assert len(messages) == 1
    assert re.fullmatch(r"unclosed running \w+ pool <[\w.]*\bPool state=RUN pool_size=2>", messages[0])
    until(lambda: not any(house.alive(pid) for pid in pids), "workers gone")


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_forgotten_after_its_end(Pool, end):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        pool = Pool(2)
        getattr(pool, end)()
        del pool
        gc.collect()
    assert [w for w in seen if w.category is ResourceWarning] == []


def test_iterator_keeps_its_pool(Pool):
    def begin():
        return Pool(2).imap(work.square, range(50))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        it = begin()
        gc.collect()
        assert list(it) == [i * i for i in range(50)]
        del it
        gc.collect()


def test_result_keeps_its_pool(Pool):
    def begin():
        return Pool(2).map_async(work.square, range(50))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        result = begin()
        gc.collect()
        assert result.get(HANG) == [i * i for i in range(50)]
        del result
        gc.collect()


def test_arguments_are_not_kept_alive(pool):
    import weakref

    class Item(set):
        """A set can be pickled by way of a builtin type, and referred to weakly."""

        def __reduce__(self):
            return set, (list(self),)

    items = [Item({i}) for i in range(10)]
    references = [weakref.ref(item) for item in items]
    assert pool.map(len, items) == [1] * 10
    del items
    until(lambda: gc.collect() >= 0 and all(r() is None for r in references), "the pool lets go of its items")


def test_results_are_not_kept_alive(pool):
    import weakref

    async_result = pool.map_async(work.identity, [{1}, {2}])
    references = [weakref.ref(value) for value in async_result.get(HANG)]
    del async_result
    until(
        lambda: gc.collect() >= 0 and all(r() is None for r in references), "the pool lets go of its results"
    )


def test_many_pools_one_after_the_other(Pool):
    for n in range(10):
        with Pool(2) as pool:
            assert pool.map(work.square, range(n)) == [i * i for i in range(n)]
        pool.join()
