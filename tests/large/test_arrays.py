"""NumPy arrays in and out: every layout and type, writable, owned by whoever got them."""

from __future__ import annotations

import numpy as np
import pytest

import forklift

from . import work

MB = 1_000_000

#: Takes the module's pool, whose workers have imported NumPy. Tests that leave something in a worker have their own.
SHARED = pytest.mark.untidy("one pool for several tests")


def grid(order: str) -> np.ndarray:
    return np.asarray(np.arange(400_000, dtype=np.float64).reshape(400, 1000), order=order)


def structured() -> np.ndarray:
    array = np.zeros(50_000, dtype=[("id", "<i4"), ("name", "S10"), ("at", "<M8[us]"), ("xyz", "<f4", (3,))])
    array["id"] = np.arange(50_000)
    array["name"] = b"name"
    return array


def objects() -> np.ndarray:
    array = np.empty(1000, dtype=object)
    array[:] = [None, "text", (1, 2), 2**100] * 250
    return array


ARRAYS = {
    "C order": lambda: grid("C"),
    "Fortran order": lambda: grid("F"),
    "strided": lambda: np.arange(900_000, dtype=np.int64)[::3],
    "backwards": lambda: np.arange(300_000, dtype=np.int32)[::-1],
    "column": lambda: grid("C")[:, 5:300],
    "transposed": lambda: grid("C").T,
    "broadcast": lambda: np.broadcast_to(np.arange(1000.0), (300, 1000)),
    "three axes": lambda: np.arange(600_000, dtype=np.int16).reshape(60, 100, 100).transpose(2, 0, 1),
    "structured": structured,
    "record": lambda: structured().view(np.recarray),
    "zero size": lambda: np.empty((0, 5)),
    "zero dimensions": lambda: np.array(3.5),
    "one element": lambda: np.array([1], dtype=np.uint8),
    "bool": lambda: np.arange(2_000_000) % 3 == 0,
    "complex": lambda: np.full(100_000, 1 - 2j),
    "half": lambda: np.ones(500_000, np.float16),
    "big endian": lambda: np.arange(300_000, dtype=">i4"),
    "datetime64": lambda: np.arange("2020-01-01", "2300-01-01", dtype="datetime64[h]"),
    "timedelta64": lambda: np.arange(200_000).astype("timedelta64[ms]"),
    "text": lambda: np.array(["ä", "text", ""] * 50_000),
    "object": objects,
    "matrix": lambda: np.matrix(grid("C")),
    "unaligned": lambda: np.frombuffer(bytes(800_001), np.uint8)[1:].view(np.float64),
}
MAKERS = pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")


@SHARED
@MAKERS
def test_array_in(module_pool, make):
    """The worker sees what unpickling gives, may write, and what it writes stays there."""
    array = make()
    before = array.copy()
    (seen,) = module_pool.map(work.describe, [array])
    assert seen["writeable"] is True
    assert seen["type"] == type(array).__name__
    assert (seen["dtype"], seen["shape"]) == (array.dtype, array.shape)
    assert seen["crc"] == work.checksum(array)
    assert seen["c"] == array.flags.c_contiguous or not array.flags.f_contiguous
    assert seen["aligned"] is True
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        assert seen["f"] is True
    np.testing.assert_array_equal(array, before)


@SHARED
@MAKERS
def test_array_out(module_pool, make):
    """What comes back equals what went, is writable, and is the caller's own."""
    array = make()
    first, second = module_pool.map(work.identity, [array, array], 1)
    assert type(first) is type(array) and first.dtype == array.dtype
    np.testing.assert_array_equal(first, array)
    assert first.flags.writeable and first.flags.aligned
    before = array.copy()
    if first.size:
        first[...] = first.flat[-1]
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(second, before)


def test_read_only_source_arrives_writable(pool):
    source = work.read_only(np.ones(MB))
    assert pool.starmap(work.fill_with, [(source, 5.0)] * 3, 1) == [float(MB)] * 3
    assert source.sum() == MB and not source.flags.writeable
    from_bytes = np.frombuffer(bytes(8 * MB), np.float64)
    assert pool.starmap(work.fill_with, [(from_bytes, 5.0)]) == [0.0]
    assert from_bytes.sum() == 0


def test_masked_array(pool):
    array = np.ma.masked_array(np.arange(300_000), mask=np.arange(300_000) % 2 == 0)
    (back,) = pool.map(work.double, [array])
    assert type(back) is np.ma.MaskedArray
    np.testing.assert_array_equal(back.filled(-1), (array * 2).filled(-1))


@SHARED
@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_work_in_place(module_pool, chunksize):
    arrays = [np.full(200_000, float(i)) for i in range(20)]
    results = module_pool.map(work.double_in_place, arrays, chunksize)
    assert [r[0] for r in results] == [2.0 * i for i in range(20)]
    assert all((a == i).all() for i, a in enumerate(arrays))
    assert all((r == 2 * i).all() for i, r in enumerate(results))


@SHARED
@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "map_async", "apply", "apply_async"])
def test_every_method(module_pool, method):
    arrays = [np.full(150_000, float(i)) for i in range(12)]
    if method.startswith("apply"):
        results = [getattr(module_pool, method)(work.double, (array,)) for array in arrays]
        results = [r.get(120) if method == "apply_async" else r for r in results]
    else:
        results = getattr(module_pool, method)(work.double, arrays)
        results = list(results.get(120) if method == "map_async" else results)
    assert sorted(r[0] for r in results) == [2.0 * i for i in range(12)]
    assert all((r == r[0]).all() for r in results)


def test_views_made_by_the_worker(pool):
    (views,) = pool.map(work.make_views, [400_000])
    base = np.arange(400_000, dtype=np.float64)
    expected = {
        "base": base,
        "reversed": base[::-1],
        "every third": base[::3],
        "transposed": base.reshape(4, -1).T,
        "column": base.reshape(4, -1)[:, 5],
        "broadcast": np.broadcast_to(base[:1000], (3, 1000)),
        "read-only": base,
        "again": base,
    }
    for name, array in expected.items():
        np.testing.assert_array_equal(views[name], array, err_msg=name)
    assert views["base"] is views["again"]


def test_results_outlive_the_pool():
    with forklift.Pool(2) as pool:
        results = pool.map(work.make_pattern, [(200_000, i) for i in range(10)])
        lazy = list(pool.imap(work.make_pattern, [(200_000, i) for i in range(10)]))
    pool.join()
    del pool
    for i in range(10):
        assert (results[i] == i).all() and (lazy[i] == i).all()
        results[i] += 1
        assert results[i].sum() == 200_000 * (i + 1)
        assert (lazy[i] == i).all()


def test_results_outlive_their_worker():
    with forklift.Pool(1, maxtasksperchild=1) as pool:
        results = pool.map(work.make_pattern, [(200_000, i) for i in range(6)], 1)
        assert all((r == i).all() for i, r in enumerate(results))
        more = pool.map(work.make_pattern, [(200_000, i) for i in range(6)], 1)
    pool.join()
    assert all((r == i).all() for i, r in enumerate(results))
    assert all((r == i).all() for i, r in enumerate(more))


def test_results_are_not_overwritten_by_later_ones(pool):
    kept = []
    for round_number in range(10):
        kept.append(pool.map(work.make_pattern, [(100_000, round_number * 10 + i) for i in range(6)]))
    for round_number, results in enumerate(kept):
        assert [(r == round_number * 10 + i).all() for i, r in enumerate(results)] == [True] * 6


def test_a_view_of_a_result_keeps_its_memory(pool):
    corners = [r[-1000:] for r in pool.map(work.make_pattern, [(300_000, i) for i in range(10)])]
    for _ in range(3):
        pool.map(work.make_pattern, [(300_000, 99)] * 10)
    assert [(c == i).all() for i, c in enumerate(corners)] == [True] * 10


def test_results_given_back_as_arguments(pool):
    arrays = pool.map(work.make, [100_000] * 4)
    for _ in range(5):
        arrays = pool.map(work.double, arrays)
    for array in arrays:
        np.testing.assert_array_equal(array, np.arange(100_000) * 32)


def test_result_that_lives_on_in_the_worker():
    with forklift.Pool(1) as pool:
        results = pool.map(work.accumulate, [np.full(200_000, 1.0)] * 5, 1)
        more = list(pool.imap(work.accumulate, [np.full(200_000, 1.0)] * 5))
    pool.join()
    assert [(r == i + 1).all() for i, r in enumerate([*results, *more])] == [True] * 10


@pytest.mark.parametrize("function", [work.keep_and_check, work.keep_slice_and_check])
@pytest.mark.parametrize("chunksize", [None, 1, 4])
def test_arguments_kept_by_the_worker_stay_as_they_were(pool, function, chunksize):
    jobs = [(np.full(100_000, i, np.int64), i) for i in range(40)]
    assert pool.map(function, jobs, chunksize) == [0] * 40
    assert pool.map(function, jobs, chunksize) == [0] * 40  # looks at those of the first round again


def test_forgotten_arguments_do_not_disturb(pool):
    for _ in range(4):
        jobs = [(np.full(100_000, i, np.int64), i) for i in range(10)]
        assert pool.map(work.keep_and_check, jobs, 1) == [0] * 10
        pool.map(work.forget, range(4), 1)


def test_identity_within_an_item(pool):
    array = np.arange(200_000)
    ((there, back),) = pool.map(work.same, [(array, array)])
    assert there is True and back[0] is back[1]
    ((there, back),) = pool.map(work.same, [(array, array.copy())])
    assert there is False and back[0] is not back[1]


@SHARED
@pytest.mark.parametrize("chunksize", [None, 1])
def test_one_array_in_many_items(module_pool, chunksize):
    """Each item writes into it; none may see what another wrote, nor may the caller."""
    array = np.zeros(200_000)
    jobs = [(array, float(i)) for i in range(30)]
    assert module_pool.starmap(work.add_and_sum, jobs, chunksize) == [200_000.0 * i for i in range(30)]
    assert not array.any()


def test_one_buffer_yielded_again_and_again(pool):
    def refilled():
        buffer = np.empty(100_000)
        for i in range(30):
            buffer[:] = i
            yield buffer

    assert list(pool.imap(work.total, refilled())) == [100_000.0 * i for i in range(30)]


def test_arrays_in_the_function(pool):
    table = np.arange(500_000)

    def look_up(index):
        return int(table[index])

    assert pool.map(look_up, range(0, 500_000, 50_000)) == list(range(0, 500_000, 50_000))
    table[0] = 77
    assert pool.map(look_up, [0]) == [77]  # a later call sees the table as it is then


def test_arrays_in_initargs():
    from tests.conformance.work import get_state, set_state

    with forklift.Pool(2, set_state, (np.arange(300_000),)) as pool:
        (back,) = pool.map(get_state, [0])
    pool.join()
    np.testing.assert_array_equal(back, np.arange(300_000))


@SHARED
@pytest.mark.parametrize(
    "size", [1, 100, 8_191, 8_192, 65_535, 65_536, 65_537, 262_144, 1_048_577, 4_194_304]
)
def test_sizes_around_the_borders(module_pool, size):
    array = np.arange(size, dtype=np.uint8)
    for back in module_pool.map(work.identity, [array] * 3, 1):
        np.testing.assert_array_equal(back, array)


def test_growing_and_shrinking_sizes(pool):
    sizes = [10, 10_000_000, 100, 3_000_000, 1, 0, 20_000_000, 50]
    for back, size in zip(pool.map(work.make, [s // 8 for s in sizes]), sizes, strict=True):
        assert len(back) == size // 8 and (size < 8 or back[-1] == size // 8 - 1)
    arrays = [np.full(s, 3, np.uint8) for s in sizes]
    assert pool.map(work.total, arrays) == [3.0 * s for s in sizes]
