"""A process that has as many descriptors open as it may cannot receive shared memory: the kernel drops it."""

from __future__ import annotations

import os
import resource

import pytest

import forklift

MB = 1_000_000


def fill() -> None:
    """Take all descriptors that this process may have, and may have few."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, hard))
    try:
        while True:
            os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return


def fill_and_tell(_: object) -> int:
    fill()
    return os.getpid()


def length_and_pid(data: bytes) -> tuple[int, int]:
    return len(data), os.getpid()


@pytest.mark.parametrize("method", ["apply", "map", "imap"])
def test_a_worker_that_has_used_them_up_is_succeeded(method):
    """Nothing is lost: what it could not receive goes to its successor."""
    with forklift.Pool(1) as pool:
        full = pool.apply(fill_and_tell, (0,))
        data = bytes(3 * MB)
        if method == "apply":
            results = [pool.apply(length_and_pid, (data,))]
        else:
            results = list(getattr(pool, method)(length_and_pid, [data] * 5, chunksize=1))
        assert {length for length, _ in results} == {3 * MB}
        assert full not in {pid for _, pid in results}
        assert pool._counters()["deaths"] == 0
    pool.join()


def test_workers_that_never_had_room():
    """The limit is named; items that need no shared memory are done."""
    with forklift.Pool(1, fill) as pool:
        for call in (
            lambda data: pool.apply(length_and_pid, (data,)),
            lambda data: pool.map(length_and_pid, [data] * 3),
        ):
            with pytest.raises(
                OSError, match=r"limit on open files of \d+ \(ulimit -n\) is reached in a worker"
            ) as caught:
                call(bytes(3 * MB))
            assert caught.value.errno == 24
    pool.join()


def test_results_where_the_program_has_used_them_up(scripts):
    """The pool keeps a few in reserve, and asks for what did not come through."""
    ended = scripts.run("""
    import resource
    import forklift
    def large(number):
        return bytes(3_000_000 + number)
    def warm(number):
        raise ValueError
    with forklift.Pool(2) as pool:
        assert len(pool.map(warm, range(-20, 0), 1, on_error="return")) == 20
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, hard))
        taken = []
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        results = pool.map(large, range(8), 1)
        assert [len(result) for result in results] == list(range(3_000_000, 3_000_008))
        assert pool._counters()["deaths"] == 0
        for descriptor in taken:
            os.close(descriptor)
        assert pool.map(abs, range(-20, 0), 1)
    print("end")
    """)
    assert ended.check() == "end\n"


def test_where_not_even_the_reserve_is_enough(scripts):
    """Results that cannot be had are lost by the name of the limit, and the pool is of use again afterwards."""
    ended = scripts.run("""
    import resource
    import forklift
    def large(number):
        return bytes(3_000_000 + number)
    def warm(number):
        raise ValueError
    with forklift.Pool(8) as pool:
        assert len(pool.map(warm, range(-80, 0), 1, on_error="return")) == 80
        while len(pool.workers()) < 8:
            pool.map(time.sleep, [0.05] * 16, 1)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, hard))
        taken = []
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        def slow(number):
            mark(number)
            for other in range(8):
                await_mark(other)
            return bytes(3_000_000 + number)
        outcomes = pool.map(slow, range(8), 1, on_error="return")
        lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for error in lost:
            assert isinstance(error, forklift.WorkerDied) and "ulimit -n" in str(error), error
        assert len(lost) < 8
        for descriptor in taken:
            os.close(descriptor)
        assert len(pool.map(large, range(8), 1)) == 8
    print("end")
    """)
    assert ended.check() == "end\n"


def use_up_and_fail(_: object) -> None:
    fill()
    open(os.devnull)  # noqa: SIM115


def test_a_worker_without_descriptors_says_what_its_function_raised():
    """Although it cannot read the modules that are needed for it."""
    with forklift.Pool(1) as pool:
        with pytest.raises(OSError, match="Too many open files") as caught:
            pool.apply(use_up_and_fail, (0,))
        assert caught.value.errno == 24
        assert pool._counters()["deaths"] == 0
    pool.join()
