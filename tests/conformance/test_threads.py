"""One pool used from many threads, many pools at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from . import work


def in_threads(count: int, task: Callable[[int], None]) -> None:
    """Run `task(0) ... task(count - 1)` each in a thread of its own; raise the first failure."""
    with ThreadPoolExecutor(count) as executor:
        for future in [executor.submit(task, n) for n in range(count)]:
            future.result(120)


def test_one_pool_from_many_threads(pool):
    def task(n: int) -> None:
        for _ in range(10):
            assert pool.map(work.square, range(n, n + 20)) == [i * i for i in range(n, n + 20)]
            assert pool.apply(work.square, (n,)) == n * n
            assert list(pool.imap(work.square, range(n))) == [i * i for i in range(n)]

    in_threads(6, task)


def test_failures_reach_the_thread_that_called(pool):
    def task(n: int) -> None:
        for _ in range(10):
            try:
                pool.map(work.raise_value, [n])
            except ValueError as error:
                assert error.args[1] == n
            else:
                raise AssertionError("did not raise")

    in_threads(4, task)


def test_several_pools_at_once(Pool):
    pools = [Pool(2) for _ in range(4)]
    results = [pool.map_async(work.square, range(100 + n)) for n, pool in enumerate(pools)]
    for n, result in enumerate(results):
        assert result.get(120) == [i * i for i in range(100 + n)]
    assert len({pool.apply(os.getpid) for pool in pools}) == 4
    pools[0].terminate()
    assert pools[1].map(work.square, [3]) == [9]
    for pool in pools:
        pool.terminate()
        pool.join()


def test_results_of_one_pool_are_items_of_another(Pool):
    with Pool(1) as one, Pool(1) as other:
        assert list(other.imap(work.square, one.imap(work.square, range(30)))) == [i**4 for i in range(30)]
    one.join()
    other.join()


def test_pools_in_threads(Pool, implementation):
    if implementation == "multiprocessing":
        count = 1  # forking while other threads hold locks may hang, which is not ours to find out
    else:
        count = 4

    def task(n: int) -> None:
        with Pool(2) as pool:
            assert pool.map(work.square, range(n + 10)) == [i * i for i in range(n + 10)]
        pool.join()

    in_threads(count, task)


def test_made_here_used_and_ended_there(Pool):
    pool = Pool(2)
    failures: list[BaseException] = []

    def task() -> None:
        try:
            assert pool.map(work.square, range(10)) == [i * i for i in range(10)]
            pool.close()
            pool.join()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=task)
    thread.start()
    thread.join(120)
    assert not thread.is_alive() and failures == []


def test_the_thread_that_made_it_is_gone(Pool):
    """PR_SET_PDEATHSIG is about the thread that forked: its end must not take the workers along."""
    made: list = []
    thread = threading.Thread(target=lambda: made.append(Pool(2)))
    thread.start()
    thread.join()
    (pool,) = made
    assert pool.map(work.square, range(50)) == [i * i for i in range(50)]
    pool.close()
    pool.join()


def test_terminated_from_another_thread(Pool, tmp_path):
    pool = Pool(2)
    it = pool.imap(work.square, range(10))
    assert next(it) == 0
    thread = threading.Thread(target=pool.terminate)
    thread.start()
    thread.join(120)
    assert not thread.is_alive()
    pool.join()
