"""`memory_limit`: what is in flight and what waits stays within it, by count of bytes; the rest goes to `spill_dir`."""

from __future__ import annotations

import itertools
import os
import platform
import signal
from pathlib import Path

import numpy as np
import pytest

import forklift
from forklift import _budget
from tests.patience import settled, until
from tests.script import Scripts

from . import work

MB = 1_000_000
LENGTH = 250_000
ITEM = 8 * LENGTH
LIMIT = 25 * MB
PAGE = os.sysconf("SC_PAGE_SIZE")


def make(i: int) -> np.ndarray:
    return np.full(LENGTH, float(i))


def double(array: np.ndarray) -> np.ndarray:
    return array * 2


def mortal(i: int) -> np.ndarray:
    if i == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(i)


def files_in(directory: Path) -> list[int]:
    """The descriptors of this process whose files are, or were, in a directory."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{entry}").startswith(f"{directory}/"):
                found.append(int(entry))
        except OSError:
            continue
    return found


def bytes_in(directory: Path) -> int:
    """What these files take of the disk."""
    return sum(os.fstat(fd).st_blocks * 512 for fd in files_in(directory))


def check(arrays, first: int = 0, factor: float = 1.0) -> None:
    for i, array in enumerate(arrays, first):
        assert array.shape == (LENGTH,) and array[0] == array[-1] == i * factor and array.flags.writeable


def held(pool) -> int:
    counters = pool._counters()
    return counters["payload_bytes_peak"] + counters["results_bytes_peak"]


@pytest.fixture
def tight(tmp_path):
    """A pool that may hold a dozen items of 2 MB."""
    with forklift.Pool(2, memory_limit="25MB", spill_dir=tmp_path) as pool:
        yield pool
    pool.join()


# What map returns


def test_results_beyond_the_limit_go_to_files_without_names(tight, tmp_path):
    results = tight.map(make, range(40))
    counters = tight._counters()
    assert held(tight) <= LIMIT
    assert counters["spilled_bytes"] + counters["results_bytes_peak"] >= 40 * ITEM
    assert counters["spilled_bytes"] >= 40 * ITEM - LIMIT
    assert counters["spilled_bytes"] % ITEM == 0
    assert list(tmp_path.iterdir()) == []
    assert bytes_in(tmp_path) >= counters["spilled_bytes"]
    check(results)


def test_both_ways_at_once_stay_within_the_limit(tight):
    arrays = [make(i) for i in range(30)]
    check(tight.map(double, arrays), factor=2)
    check(tight.starmap(np.multiply, [(array, 3) for array in arrays]), factor=3)
    assert held(tight) <= LIMIT
    assert tight._counters()["spilled_bytes"] > 0


def test_spilled_results_are_memory_like_any_other(tight, tmp_path):
    results = tight.map(make, range(30))
    assert bytes_in(tmp_path) > 0
    for array in results:
        array += 1
    tight.close()
    tight.join()
    check(results, first=1)
    with forklift.Pool(1) as other:
        check(other.map(double, results), first=1, factor=2)
    check(results, first=1)


def test_the_disk_has_its_room_back_when_the_last_view_dies(tight, tmp_path):
    results = tight.map(make, range(40))
    before = bytes_in(tmp_path)
    # Of the last ten, most are there; which of all, hangs on the order in which they came.
    kept = [array[10:20] for array in results[30:]]
    del results
    assert ITEM <= bytes_in(tmp_path) <= len(kept) * (ITEM + PAGE) < before
    assert [list(part) for part in kept] == [[float(i)] * 10 for i in range(30, 40)]
    del kept
    assert files_in(tmp_path) == []


def test_within_the_limit_no_disk_is_touched(tmp_path):
    with forklift.Pool(2, memory_limit="250MB", spill_dir=tmp_path) as pool:
        results = pool.map(make, range(20))
        assert pool._counters()["spilled_bytes"] == 0
        assert files_in(tmp_path) == []
        check(results)


def test_what_the_user_keeps_counts(tight):
    kept = []
    for first in range(0, 30, 5):
        kept += tight.map(make, range(first, first + 5))
    assert held(tight) <= LIMIT
    check(kept)


@pytest.mark.filterwarnings("ignore:inherit=True forks this process:RuntimeWarning")
@pytest.mark.parametrize("way", ["map_async", "apply_async", "inherit"])
def test_other_calls_spill_as_well(tight, tmp_path, way):
    if way == "map_async":
        results = tight.map_async(make, range(30)).get()
    elif way == "inherit":
        results = tight.map(make, range(30), inherit=True)
    else:
        waiting = [tight.apply_async(make, (i,)) for i in range(30)]
        for one in waiting:
            one.wait()
        assert tight._counters()["spilled_bytes"] >= 30 * ITEM - LIMIT  # before anyone took one
        results = [one.get() for one in waiting]
    assert bytes_in(tmp_path) >= 30 * ITEM - LIMIT
    assert held(tight) <= LIMIT
    check(results)


def test_small_results_and_failures_pass_those_that_are_moved_in_order(tight):
    def mixed(i):
        if i % 10 == 3:
            raise KeyError(i)
        return make(i) if i % 2 else i

    results = tight.map(mixed, range(80), on_error="return")
    assert tight._counters()["spilled_bytes"] > 0
    for i, result in enumerate(results):
        if i % 10 == 3:
            assert isinstance(result, KeyError)
        elif i % 2:
            check([result], first=i)
        else:
            assert result == i


def test_a_worker_that_dies_while_its_results_are_moved_costs_one_item(tight):
    results = tight.map(mortal, range(30), on_error="return")
    died = results.pop(7)
    assert isinstance(died, forklift.WorkerDied) and died.index == 7
    check(results[:7])
    check(results[7:], first=8)
    check(tight.map(make, range(3)))


def test_cancelling_and_terminating_while_results_are_moved(tight, tmp_path):
    call = tight.map_async(make, itertools.repeat(1.0, 1000), length=1000)
    until(lambda: tight._counters()["spilled_bytes"] > 0, "results are moved")
    call.cancel()
    with pytest.raises(forklift.ForkliftError):
        call.get()
    del call
    until(lambda: files_in(tmp_path) == [], "the files are gone")
    check(tight.map(make, range(20)))
    tight.map_async(make, itertools.repeat(1.0, 1000), length=1000)
    before = tight._counters()["spilled_bytes"]
    until(lambda: tight._counters()["spilled_bytes"] > before, "results are moved")
    tight.terminate()


def test_a_fork_that_drops_results_takes_nothing_from_its_parent(tight):
    results = tight.map(make, range(30))
    tight.close()
    tight.join()  # now the workers are gone, and what dies here is punched out
    child = os.fork()
    if child == 0:
        del results
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    check(results)


# Iterators


def test_an_endless_generator_with_a_slow_consumer_holds_steady(tight):
    pulled = itertools.count()

    def generate():
        for i in pulled:
            yield make(i)

    results = tight.imap(double, generate())
    ahead = []
    for i, array in enumerate(itertools.islice(results, 60)):
        check([array], first=i, factor=2)
        if i % 20 == 19:
            del array
            # As slow as can be: the pool has come to rest before the next is taken.
            ahead.append(settled(lambda: tight._counters()["chunks"]) - i - 1)
    assert max(ahead) * ITEM <= LIMIT
    assert held(tight) <= LIMIT + ITEM  # the one in the consumer's hand
    assert tight._counters()["spilled_bytes"] == 0
    del results


def test_several_iterators_share_the_budget(tight):
    streams = [tight.imap(make, itertools.count()) for _ in range(4)]
    for _ in range(10):
        for stream in streams:
            next(stream)
    # Each may have one item in hand beyond what all share.
    assert held(tight) <= LIMIT + len(streams) * ITEM


def test_results_that_nobody_takes_spill_when_the_pool_is_joined(tight, tmp_path):
    results = tight.imap(make, range(30))
    first = next(results)
    tight.close()
    tight.join()
    assert bytes_in(tmp_path) >= 30 * ITEM - LIMIT
    check([first, *results])


# One item that is larger than the limit


def test_items_above_the_limit_go_one_at_a_time():
    with forklift.Pool(2, memory_limit="1MB") as pool:
        arrays = [make(i) for i in range(6)]
        assert pool.map(work.total, arrays) == [float(LENGTH) * i for i in range(6)]
        assert pool._counters()["payload_bytes_peak"] <= ITEM + PAGE
        check(pool.imap(double, iter(arrays)), factor=2)
        assert pool._counters()["payload_bytes_peak"] <= ITEM + PAGE
        check(pool.map(make, range(6)))
    pool.join()


BOUNDLESS = 1 << 42


def boundless() -> np.ndarray:
    """More memory than any machine has, none of which is touched."""
    import mmap

    anywhere = mmap.mmap(-1, BOUNDLESS, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
    return np.frombuffer(anywhere, np.uint8)


def boundless_or(i: int) -> object:
    return boundless() if i == 2 else i


def test_an_item_for_which_the_machine_has_no_memory_fails_alone(tight):
    with pytest.raises(
        forklift.MemoryLimitExceeded, match=r"bytes were needed for item 2, the limit is"
    ) as caught:
        tight.map(np.size, [1, 1, boundless()])
    assert caught.value.index == 2 and caught.value.asked >= BOUNDLESS
    assert 0 < caught.value.limit < BOUNDLESS
    sizes = tight.map(np.size, iter([[1], boundless(), [1]]), on_error="return")
    assert sizes[0] == sizes[2] == 1 and isinstance(sizes[1], forklift.MemoryLimitExceeded)
    with pytest.raises(forklift.MemoryLimitExceeded):
        tight.apply(np.size, (boundless(),))
    until(lambda: all(worker.pid for worker in tight.workers()), "both workers born")
    before = [worker.pid for worker in tight.workers()]
    results = tight.map(boundless_or, range(4), on_error="return")
    assert isinstance(results.pop(2), forklift.MemoryLimitExceeded) and results == [0, 1, 3]
    assert [worker.pid for worker in tight.workers()] == before


# Where there is no disk


@pytest.mark.parametrize("bad", ["/nowhere/at/all", __file__, "/proc/self", "a\0b"])
def test_a_directory_that_is_none_is_refused_by_name(bad):
    with pytest.raises(ValueError, match=r"^spill_dir=.* is not a directory where files can be made"):
        forklift.Pool(1, spill_dir=bad)
    with pytest.raises(ValueError, match=r"^spill_dir must be the path of a directory or None, not an empty"):
        forklift.Pool(1, spill_dir="")
    with pytest.raises(TypeError, match=r"^spill_dir must be the path of a directory or None, not int"):
        forklift.Pool(1, spill_dir=7)  # type: ignore[arg-type]


def test_memory_is_no_disk_unless_it_is_named(monkeypatch):
    """A temporary directory in memory is passed over; results find another, or stay while there is plenty."""
    if not Path("/dev/shm").is_dir() or os.stat("/dev/shm").st_dev == os.stat("/").st_dev:
        pytest.skip("there is no directory in memory")
    shared = Path("/dev/shm")
    before = files_in(shared)  # Semaphores of earlier tests, say.
    monkeypatch.setattr(_budget, "_temporary_directories", lambda: ["/nowhere", "/dev/shm"])
    with forklift.Pool(2, memory_limit="12500KB") as pool:
        with pytest.raises(
            forklift.MemoryLimitExceeded, match=r"/dev/shm.*it lies in memory itself.*spill_dir"
        ):
            pool.map(make, range(20))
        assert files_in(shared) == before
        check(pool.map(make, range(2)))
    with forklift.Pool(2, memory_limit="12500KB", spill_dir="/dev/shm") as pool:
        results = pool.map(make, range(20))
        assert bytes_in(shared) > 0
        check(results)
        del results
    monkeypatch.setattr(_budget, "MEMORY_SHARE", 12.5 * MB / forklift._native.memory_total())
    with forklift.Pool(2) as pool:
        check(pool.map(make, range(20)))
        assert pool._counters()["spilled_bytes"] == 0


FULL = """
import numpy, forklift
def make(i):
    return numpy.full(250_000, float(i))
with forklift.Pool(2, memory_limit="12500KB", spill_dir=WHERE) as pool:
    for _ in range(2):
        try:
            pool.map(make, range(30))
        except forklift.MemoryLimitExceeded as error:
            text = str(error)
            assert WHERE in text and "No space left" in text and "spill_dir" in text, text
            assert error.limit == 12_500_000 and error.asked >= 2_000_000, (error.limit, error.asked)
            assert isinstance(error, MemoryError)
        else:
            raise AssertionError("it went somewhere")
        assert [a[0] for a in pool.map(make, range(2))] == [0.0, 1.0]
        waiting = [pool.apply_async(make, (i,)) for i in range(30)]
        for one in waiting:
            one.wait()
        assert {one.successful() for one in waiting} == {True, False}
        del waiting, one
        assert sum(a[0] for a in pool.imap(make, range(30))) == sum(range(30))
print("ok")
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter has x86-64's numbers of system calls")
def test_a_full_disk_is_named_and_leaves_the_pool_usable(scripts: Scripts, tmp_path):
    from tests.faults.test_limits import SECCOMP

    pwrite = 18
    ended = scripts.run(f"WHERE = {str(tmp_path)!r}\n{SECCOMP}\ndeny({pwrite}, errno.ENOSPC)\n{FULL}")
    assert ended.check() == "ok\n"


def test_a_file_size_limit_is_named(scripts: Scripts, tmp_path):
    source = f"""
import numpy, resource, forklift
def make(i):
    return numpy.full(250_000, float(i))
with forklift.Pool(2, memory_limit="12500KB", spill_dir={str(tmp_path)!r}) as pool:
    assert len(pool.map(make, range(2))) == 2
    # Of this process alone: workers go on, and so do the memory files that it has.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    try:
        pool.map(make, range(30))
    except forklift.MemoryLimitExceeded as error:
        print("ulimit -f" in str(error), {str(tmp_path)!r} in str(error))
"""
    assert scripts.run(source).check() == "True True\n"


def test_no_thread_is_started_before_it_is_needed(tight):
    def threads():
        return {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}

    tight.map(make, range(2))
    assert "forklift-spill" not in threads()
    tight.map(make, range(30))
    assert "forklift-spill" in threads()
