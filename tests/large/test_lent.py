"""What lies in shared memory already crosses as it lies, and what items share crosses once. Counted in bytes."""

from __future__ import annotations

import ctypes
import functools
import os
import tempfile
import threading

import numpy as np
import pytest

import forklift

from . import transport
from .transport import N

BYTES = N * 8


def counted(pool, *names):
    counters = pool._counters()
    return np.array([counters[name] for name in names])


def moved(pool, call):
    """What a call returns, and the bytes that were copied and lent on the way to the workers."""
    before = counted(pool, "bytes_copied_in", "bytes_lent")
    result = call()
    copied, lent = counted(pool, "bytes_copied_in", "bytes_lent") - before
    return result, int(copied), int(lent)


def write_memory(pid: int, address: int, data: bytes) -> None:
    """Write into the memory of another process."""

    class Run(ctypes.Structure):
        _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))

    source = ctypes.create_string_buffer(data, len(data))
    here, there = Run(ctypes.addressof(source), len(data)), Run(address, len(data))
    libc = ctypes.CDLL(None, use_errno=True)
    written = libc.process_vm_writev(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    if written != len(data):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def shared(count: int = 8, length: int = N) -> list[np.ndarray]:
    with forklift.shared_arrays():
        return [np.full(length, float(i)) for i in range(count)]


def test_shared_arrays_are_lent(pool):
    arrays = shared()
    for call in (
        lambda: pool.map(transport.first, arrays),
        lambda: list(pool.imap(transport.first, arrays)),
        lambda: [pool.apply(transport.first, (array,)) for array in arrays],
    ):
        result, copied, lent = moved(pool, call)
        assert result == [float(i) for i in range(8)]
        assert (copied, lent) == (0, 8 * BYTES)


def test_views_of_shared_arrays_are_lent(pool):
    (array,) = shared(1)
    array[:] = np.arange(N)
    views = [array[1000:], array[: N // 2], array.reshape(100, -1)[::-1][10:]]
    result, _, lent = moved(pool, lambda: pool.map(transport.total, views))
    assert result == [view.sum() for view in views]
    assert lent >= sum(view.nbytes for view in views[:2])


def test_a_worker_writes_to_its_own_copy(pool):
    arrays = shared(3)
    items = [(array, i) for i, array in enumerate(arrays * 10)]
    for chunksize in (None, 1, 5):
        found = pool.starmap(transport.write_and_tell, items, chunksize)
        assert found == [0.0, 1.0, 2.0] * 10
    assert [array[0] for array in arrays] == [0.0, 1.0, 2.0]


def by_numpy(array):
    array[len(array) // 2] = 7


def by_a_thread(array):
    thread = threading.Thread(target=by_numpy, args=(array,))
    thread.start()
    thread.join()


def by_the_kernel(array):
    with tempfile.TemporaryFile() as file:
        file.write(bytes([7]) * 4096)
        file.seek(0)
        assert file.readinto(memoryview(array).cast("B")[:4096]) == 4096


@pytest.mark.parametrize("write", [by_numpy, by_a_thread, by_the_kernel])
def test_what_was_written_once_the_pages_are_known_is_not_seen_later(write):
    arrays = shared(3)
    totals = [float(i) * N for i in range(3)]
    with forklift.Pool(1) as pool:
        for _ in range(3):  # Now the worker has its pages, and reading them is no fault any more.
            assert pool.map(transport.total, arrays) == totals
        for _ in range(3):
            assert pool.map(write, arrays) == [None] * 3
            assert pool.map(transport.total, arrays) == totals


# From a megabyte on pages are looked at, smaller ones are dropped without a look.
@pytest.mark.parametrize("length", [N, 3 * N])
def test_what_another_process_writes_is_not_seen_later(tmp_path, length):
    """No page fault of the worker's tells of it."""
    there, back = tmp_path / "there", tmp_path / "back"
    os.mkfifo(there)
    os.mkfifo(back)

    def answer(calls: int, write: bool) -> None:
        for _ in range(calls):
            pid, address = map(int, there.read_text().split())
            if write:
                write_memory(pid, address, b"\7" * 4096)
            back.write_text("go on")

    try:
        write_memory(os.getpid(), ctypes.addressof(ctypes.create_string_buffer(1)), b"\7")
    except OSError as error:
        pytest.skip(f"a process's memory cannot be written to from outside here: {error}")
    arrays = shared(3, length)
    totals = [float(i) * length for i in range(3)]
    with forklift.Pool(1) as pool:
        for write in [False] * 3 + [True] * 5:
            thread = threading.Thread(target=answer, args=(len(arrays), write))
            thread.start()
            found = pool.starmap(transport.await_a_writer, [(a, there, back) for a in arrays], 1)
            thread.join()
            assert found == ([7] if write else [0]) * 3
            assert pool.map(transport.total, arrays) == totals


@pytest.mark.parametrize("length", [N, 3 * N])
def test_memory_that_is_locked_shows_nothing_of_earlier_calls(length):
    """Its pages become the worker's own, all and at once, and cannot be dropped."""
    arrays = shared(3, length)
    with forklift.Pool(1) as pool:
        pool.map(transport.total, arrays)
        if not pool.apply(transport.lock_memory, (True,)):
            pytest.skip("no memory may be locked here")
        for value in range(5):
            for array in arrays:
                array[:] = value
            assert pool.map(transport.total, arrays) == [float(value) * length] * 3
            pool.map(by_numpy, arrays)
            assert pool.map(transport.total, arrays) == [float(value) * length] * 3
            assert pool.apply(transport.lock_memory, (value % 2 == 1,))


def test_results_are_lent_on(pool):
    results = pool.map(transport.fresh, range(8))
    found, copied, lent = moved(pool, lambda: pool.map(transport.total, results))
    assert found == [float(i) * N for i in range(8)]
    assert (copied, lent) == (0, 8 * BYTES)
    with forklift.Pool(1) as other:
        found, copied, lent = moved(other, lambda: other.map(transport.total, results))
        assert found == [float(i) * N for i in range(8)]
        assert (copied, lent) == (0, 8 * BYTES)
        other.terminate()


def test_results_are_lent_on_after_their_dropping(pool):
    def generate():
        for result in pool.map(transport.fresh, range(6)):
            yield result
            result[:] = -1  # a generator may use its buffer again: what it yielded is copied

    assert pool.map(transport.first, generate(), 1) == [float(i) for i in range(6)]


def test_one_shared_buffer_yielded_again_and_again(pool):
    (buffer,) = shared(1)

    def generate():
        for i in range(50):
            buffer[:] = i
            yield buffer

    for chunksize in (1, 7, None):
        assert list(pool.imap(transport.first, generate(), chunksize)) == [float(i) for i in range(50)]
        assert pool.map(transport.first, generate(), chunksize) == [float(i) for i in range(50)]


def test_what_a_generator_gives_up_is_lent(pool):
    with forklift.shared_arrays():
        result, copied, lent = moved(
            pool, lambda: pool.map(transport.first, (np.full(N, float(i)) for i in range(8)))
        )
    assert result == [float(i) for i in range(8)]
    assert (copied, lent) == (0, 8 * BYTES)


def test_memory_of_shared_arrays_comes_back(pool):
    arrays = shared()
    pool.map(transport.first, arrays)
    assert forklift._native.shared_usage()[0] == 8 * BYTES
    del arrays
    pool.map(transport.first, shared(1))
    assert forklift._native.shared_usage()[0] == 0


def test_shared_arrays_are_ordinary_arrays():
    with forklift.shared_arrays():
        a = np.arange(N, dtype=float)
        b = np.zeros((N, 3))
        a.resize(2 * N, refcheck=False)
        small = np.ones(3)
    c = a * 2 + b.sum()
    a.resize(10, refcheck=False)
    np.testing.assert_equal(c[:N], 2.0 * np.arange(N))
    assert not c[N:].any() and small.sum() == 3.0
    del a, b, c, small
    assert forklift._native.shared_usage() == (0, 0)


def test_a_fork_has_its_own_shared_arrays():
    (array,) = shared(1)
    child = os.fork()
    if child == 0:
        array[:] = 7
        del array
        with forklift.shared_arrays():
            again = np.full(N, 2.0)
        os._exit(0 if (again == 2.0).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (array == 0).all()


# Once per map -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_an_array_in_every_tuple_crosses_once(pool, chunksize):
    table = np.arange(N, dtype=float)
    items = [(table, i) for i in range(40)]
    result, copied, _ = moved(pool, lambda: pool.starmap(transport.write_and_tell, items, chunksize))
    assert result == [0.0] * 40
    assert copied == BYTES
    assert table[0] == 0.0


def test_an_array_in_every_dict_crosses_once(pool):
    table = np.arange(N, dtype=float)
    items = [{"table": table, "i": i} for i in range(40)]
    result, copied, _ = moved(pool, lambda: pool.map(transport.table_row, items))
    assert result == [float(i) for i in range(40)]
    assert copied == BYTES


def test_one_array_as_every_item_crosses_once(pool):
    table = np.full(N, 4.0)
    result, copied, _ = moved(pool, lambda: pool.map(transport.first, [table] * 30))
    assert (result, copied) == ([4.0] * 30, BYTES)


def test_a_part_that_few_items_hold_crosses_at_most_twice(pool):
    tables = [np.full(N, float(i)) for i in range(4)]
    items = [(tables[i % 4], i) for i in range(12)]  # three references each: noticed at the second
    result, copied, _ = moved(pool, lambda: pool.starmap(transport.write_and_tell, items))
    assert result == [float(i % 4) for i in range(12)]
    assert copied == 2 * 4 * BYTES


def test_lists_and_text_that_items_share(pool):
    values, text, data = list(range(50_000)), "é" * 100_000, b"x" * 200_000
    assert pool.starmap(transport.change_list, [(values, i) for i in range(20)]) == [50_001] * 20
    assert len(values) == 50_000
    for shared_part in (text, data):
        items = [(shared_part, i) for i in range(20)]
        result, copied, _ = moved(pool, lambda items=items: pool.starmap(transport.length, items))
        assert result == [len(shared_part)] * 20
        assert copied <= 2 * len(shared_part) * (1 if isinstance(shared_part, bytes) else 2)  # as UTF-8


def test_what_one_item_holds_twice_is_one_object(pool):
    table = np.arange(N, dtype=float)
    assert pool.starmap(transport.same_object, [(table, table)] * 20) == [True] * 20
    assert pool.starmap(transport.same_object, [[table, table] for _ in range(20)]) == [True] * 20


def test_a_frame_that_items_share(pool):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": np.arange(N, dtype=float), "b": np.ones(N)})
    items = [(frame, i) for i in range(20)]
    result, copied, _ = moved(pool, lambda: pool.starmap(transport.length, items))
    assert result == [N] * 20
    assert copied <= 2 * BYTES + 65_536


def look_up(table, i):
    return float(table[i])


class Holder:
    """An object of which a method is mapped."""

    def __init__(self, table):
        self.table = table

    def add(self, i):
        self.table[0] += 1  # copy-on-write, so no other worker sees it
        return float(self.table[i])


FUNCTIONS = {
    "partial": lambda table: functools.partial(look_up, table),
    "keyword of a partial": lambda table: functools.partial(lambda i, table: look_up(table, i), table=table),
    "bound method": lambda table: Holder(table).add,
    "closure": lambda table: lambda i: float(table[i]),
}


@pytest.mark.parametrize("chunksize", [None, 1])
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_what_a_function_holds_crosses_once_for_all_workers(pool, kind, chunksize):
    table = np.arange(N, dtype=float)
    function = FUNCTIONS[kind](table)
    sent = counted(pool, "functions_sent")[0]
    result, copied, _ = moved(pool, lambda: pool.map(function, range(5, 105), chunksize))
    assert result == [float(i) for i in range(5, 105)]
    assert copied == BYTES
    assert counted(pool, "functions_sent")[0] - sent <= 2
    assert table[0] == 0


def ones_twice(pool):
    """Objects in memory that many items see: what is sent once, what is lent, and results that are lent on."""
    (lent,) = shared(1)
    lent[:] = 1
    (result,) = pool.map(np.copy, [np.ones(N)])
    return {"sent once": np.ones(N), "lent": lent, "a result": result}


# The second size is below that from which a mapping is worth it; such views are copies.
@pytest.mark.parametrize("length", [N, 7000])
@pytest.mark.parametrize("chunksize", [None, 1, 3, 12])
def test_items_that_live_together_do_not_see_each_others_writes(pool, chunksize, length):
    for kind, array in ones_twice(pool).items():
        array = array[:length]
        items = [array] * 12
        tuples = [(array, i) for i in range(12)]
        found = {
            "map": pool.map(transport.double_and_return, items, chunksize),
            "starmap": pool.starmap(transport.double_and_return, tuples, chunksize),
            "imap": pool.imap(transport.double_and_return, items, chunksize),
            "retries": pool.map(transport.double_and_return, items, chunksize, retries=1),
            "views": pool.map(transport.double_and_return, [array[i:] for i in range(12)], chunksize),
        }
        for call, results in found.items():
            assert [(result.min(), result.max()) for result in results] == [(2.0, 2.0)] * 12, (kind, call)
        assert array.min() == array.max() == 1.0, kind


@pytest.mark.parametrize("chunksize", [1, 5])
def test_what_a_worker_keeps_of_its_arguments_is_not_in_later_ones(pool, chunksize):
    for kind, array in ones_twice(pool).items():
        for _ in range(3):
            assert pool.map(transport.double_and_keep, [array] * 10, chunksize) == [2.0] * 10, kind
        assert [pool.apply(transport.double_and_keep, (array,)) for _ in range(4)] == [2.0] * 4, kind
    assert set(pool.map(transport.kept_values, range(8), 1)) <= {(), (2.0,)}


def test_many_views_that_live_together_need_few_mappings(pool):
    """Rows of one table, some of which share pages, and all of them in one chunk."""
    with forklift.shared_arrays():
        table = np.zeros((300, 12_001))
    rows = list(table)
    found = pool.map(transport.mappings_and_write, rows, len(rows))
    assert max(count for count, _ in found) < 100
    assert {first for _, first in found} == {0.0}
    assert not table.any()


def test_retained_items_are_not_changed(pool):
    table = np.arange(N, dtype=float)
    items = [(table, i) for i in range(10)]
    pool.starmap(transport.write_and_tell, items)
    assert all(item[0] is table for item in items)


def test_a_shared_value(pool):
    table = np.arange(N, dtype=float)
    with pool.share({"table": table, "factor": 2}) as value:
        assert value.value["table"] is table
        before = counted(pool, "bytes_copied_in")[0]
        for _ in range(3):
            found = pool.map(lambda i: float(value["table"][i] * value["factor"]), range(50))
            assert found == [2.0 * i for i in range(50)]
            assert pool.starmap(transport.length, [(value, i) for i in range(50)]) == [2] * 50
            assert pool.apply(transport.length, (value, 0)) == 2
        assert counted(pool, "bytes_copied_in")[0] == before
    with pytest.raises(ValueError, match="closed"):
        pool.apply(transport.length, (value, 0))
    assert pool.map(transport.first, [table]) == [0.0]


def test_a_shared_value_reaches_later_workers():
    with forklift.Pool(2, maxtasksperchild=3) as pool:
        value = pool.share(np.arange(N, dtype=float))
        assert pool.starmap(transport.length, [(value, i) for i in range(30)], 1) == [N] * 30
    pool.join()


def test_a_shared_value_of_another_pool_is_refused(pool):
    with forklift.Pool(1) as other:
        value = other.share([1, 2, 3])
        with pytest.raises(forklift.DecodeError, match="another pool"):
            pool.apply(transport.length, (value, 0))
        assert other.apply(transport.length, (value, 0)) == 3
        assert pool.apply(transport.length, ([1], 0)) == 1
        other.terminate()


def test_a_value_that_cannot_be_shared(pool):
    import threading

    with pytest.raises(forklift.EncodeError, match=r"value\['lock'\]"):
        pool.share({"lock": threading.Lock()})
    assert pool.apply(transport.length, ([1], 0)) == 1
