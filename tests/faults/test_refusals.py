"""Bad arguments, initializers that fail, resources that run out: told at once, by name, with nothing left behind."""

from __future__ import annotations

import multiprocessing

import pytest

import forklift
from tests import house
from tests.patience import settled

from . import work

HANG = 120

REFUSED = {
    "processes": ({"processes": 0}, ValueError, "Number of processes must be at least 1"),
    "negative processes": ({"processes": -3}, ValueError, "Number of processes must be at least 1"),
    "processes of text": ({"processes": "two"}, TypeError, "processes must be an int or None, not str"),
    "processes of float": ({"processes": 2.0}, TypeError, "processes must be an int or None, not float"),
    "unknown option": ({"frobnicate": 1}, TypeError, "frobnicate"),
    "unit of memory_limit": ({"memory_limit": "2XB"}, ValueError, "memory_limit.*2XB|2XB.*memory_limit"),
    "text of memory_limit": ({"memory_limit": "much"}, ValueError, "memory_limit"),
    "negative memory_limit": ({"memory_limit": -1}, ValueError, "memory_limit"),
    "no memory_limit": ({"memory_limit": 0}, ValueError, "memory_limit"),
    "kind of memory_limit": ({"memory_limit": [1]}, (TypeError, ValueError), "memory_limit"),
    "task_timeout": ({"task_timeout": -1}, (ValueError, TypeError), "task_timeout"),
    "context": ({"context": "nonsense"}, ValueError, "nonsense"),
    "kind of context": ({"context": 5}, (TypeError, ValueError), "context"),
    "initializer": ({"initializer": 5}, TypeError, "initializer must be a callable"),
    "maxtasksperchild": ({"maxtasksperchild": 0}, ValueError, "maxtasksperchild"),
    "too many": ({"processes": 10**9}, (ValueError, OverflowError, OSError, forklift.ForkliftError), None),
}


@pytest.mark.parametrize(("options", "error", "text"), REFUSED.values(), ids=REFUSED)
def test_pool_is_refused(options, error, text):
    before = house.look()
    with pytest.raises(error, match=text):
        forklift.Pool(**options)
    assert before.leftovers(strict=True) == []  # at once: nothing was ever started


BOUNDLESS = {"memory_limit": 2**64, "worker_memory_limit": "99999999TB", "maxtasksperchild": 2**70}


@pytest.mark.parametrize("name", BOUNDLESS)
def test_more_than_can_be_counted_is_no_limit(name):
    with forklift.Pool(1, **{name: BOUNDLESS[name]}) as pool:
        assert list(pool.imap(abs, [-1, -2], 2**70, buffersize=2**70)) == [1, 2]
    pool.join()


CALLS = {
    "map": lambda pool, **options: pool.map(work.square, [1], **options),
    "map_async": lambda pool, **options: pool.map_async(work.square, [1], **options),
    "starmap": lambda pool, **options: pool.starmap(work.square, [(1,)], **options),
    "starmap_async": lambda pool, **options: pool.starmap_async(work.square, [(1,)], **options),
    "imap": lambda pool, **options: pool.imap(work.square, [1], **options),
    "imap_unordered": lambda pool, **options: pool.imap_unordered(work.square, [1], **options),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@EVERY_CALL
@pytest.mark.parametrize("chunksize", [0, -1])
def test_chunk_size_is_refused(pool, call, chunksize):
    with pytest.raises(ValueError, match=f"[Cc]hunksize.*{chunksize}"):
        call(pool, chunksize=chunksize)


@EVERY_CALL
@pytest.mark.parametrize("chunksize", ["3", 2.5])
def test_kind_of_chunk_size_is_refused(pool, call, chunksize):
    with pytest.raises((TypeError, ValueError)):
        call(pool, chunksize=chunksize)


@EVERY_CALL
def test_unknown_option_is_refused(pool, call):
    with pytest.raises(TypeError, match="frobnicate"):
        call(pool, frobnicate=1)


@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
@pytest.mark.parametrize("buffersize", [0, -1])
def test_buffer_size_is_refused(pool, name, buffersize):
    with pytest.raises(ValueError, match="buffersize"):
        CALLS[name](pool, buffersize=buffersize)


def test_a_refused_call_pulls_nothing(pool):
    items = iter([1, 2, 3])
    with pytest.raises(ValueError, match="[Cc]hunksize"):
        pool.map(work.square, items, chunksize=0)
    assert list(items) == [1, 2, 3]


BAD_INITIALIZERS = {
    "raises": (work.bad_initializer, work.SetupFailed),
    "dies": (work.dying_initializer, forklift.ForkliftError),
}


@pytest.mark.parametrize(("initializer", "kind"), BAD_INITIALIZERS.values(), ids=BAD_INITIALIZERS)
def test_initializer_that_always_fails(tmp_path, initializer, kind):
    """multiprocessing.Pool bears workers without end and hangs."""
    births = tmp_path / "births"
    with pytest.raises(kind) as caught, forklift.Pool(2, initializer, (str(births),)) as pool:
        pool.map_async(work.square, range(100)).get(HANG)
    if kind is work.SetupFailed:
        assert caught.value.args == ("the model is missing", 5)
        assert "bad_initializer" in str(caught.value.__cause__)
    count = settled(lambda: len(births.read_text().splitlines()))
    assert count <= 10, "endless births"


def test_initializer_that_fails_does_not_hang_join(tmp_path):
    births = tmp_path / "births"
    try:
        pool = forklift.Pool(2, work.bad_initializer, (str(births),))
    except work.SetupFailed:
        return
    result = pool.map_async(work.square, range(10))
    pool.close()
    pool.join()
    with pytest.raises(work.SetupFailed):
        result.get(0)


def test_out_of_descriptors(scripts):
    """Whatever a pool needs and cannot get: an error, no hang, no process left."""
    source = """
    import resource
    import forklift
    used = len(os.listdir("/proc/self/fd"))
    for room in (0, 1, 2, 3, 5, 8, 13, 21, 34):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + room, 4096))
        try:
            with forklift.Pool(16) as pool:
                pool.map(abs, range(100))
            pool.join()
        except (OSError, forklift.ForkliftError) as error:
            assert str(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    with forklift.Pool(2) as pool:
        assert pool.map(abs, [-1]) == [1]
    pool.join()
    assert len(os.listdir("/proc/self/fd")) <= used + 1, os.listdir("/proc/self/fd")
    print("end")
    """
    ended = scripts.run(source)
    assert (ended.returncode, ended.stdout) == (0, "end\n"), ended.stderr


def test_errors_have_one_family():
    assert issubclass(forklift.WorkerDied, (forklift.ForkliftError, RuntimeError))
    assert issubclass(forklift.WorkerDied, RuntimeError)
    for error, kinds in {
        forklift.EncodeError: (forklift.ForkliftError, __import__("pickle").PicklingError),
        forklift.DecodeError: (forklift.ForkliftError, __import__("pickle").UnpicklingError),
        forklift.MemoryLimitExceeded: (forklift.ForkliftError, MemoryError),
        forklift.TaskTimeout: (forklift.ForkliftError, TimeoutError, multiprocessing.TimeoutError),
    }.items():
        assert all(issubclass(error, kind) for kind in kinds), error
