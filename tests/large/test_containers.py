"""Large things that are not one array: frames, sparse matrices, bytes, text, lists and dicts of arrays."""

from __future__ import annotations

import array as stdlib_array
import hashlib

import numpy as np
import pytest

from . import work

MB = 1_000_000

pd = pytest.importorskip("pandas", reason="pandas is not installed")
sparse = pytest.importorskip("scipy.sparse", reason="scipy is not installed")

pytestmark = pytest.mark.untidy("one pool for the module")


@pytest.fixture
def pool(module_pool):
    """Workers that have imported pandas and SciPy: that takes longer than what is tested."""
    return module_pool


def frame(kind: str, rows: int = 60_000):
    numbers = np.arange(rows, dtype=np.float64)
    columns = {
        "float": {"a": numbers, "b": numbers * 2, "c": numbers * 3},
        "string": {"a": [f"text {i % 100}" for i in range(rows)], "b": ["ä"] * rows},
        "mixed": {
            "a": numbers,
            "b": [f"{i}" for i in range(rows)],
            "c": pd.date_range("2020-01-01", periods=rows, freq="min"),
            "d": pd.Categorical(["x", "y", "z"] * (rows // 3)),
            "e": numbers > 7,
        },
    }
    return pd.DataFrame(columns[kind], index=pd.RangeIndex(5, rows + 5, name="key"))


@pytest.mark.parametrize("kind", ["float", "string", "mixed"])
def test_frames_cross_and_can_be_changed(pool, kind):
    made = frame(kind)
    before = made.copy(deep=True)
    unchanged, changed = pool.map(work.identity, [made])[0], pool.map(work.change_frame, [made])[0]
    pd.testing.assert_frame_equal(unchanged, before)
    pd.testing.assert_frame_equal(made, before)
    pd.testing.assert_frame_equal(changed, work.change_frame(before.copy(deep=True)))
    unchanged.iloc[0, 0] = unchanged.iloc[1, 0]  # the caller may write too
    unchanged["new"] = 1
    pd.testing.assert_frame_equal(made, before)


def test_many_frames(pool):
    frames = [frame("float", 6_000) * i for i in range(20)]
    for i, back in enumerate(pool.imap(work.identity, frames)):
        pd.testing.assert_frame_equal(back, frames[i])


def test_series_and_index(pool):
    series = pd.Series(np.arange(200_000.0), index=pd.date_range("2020", periods=200_000, freq="s"), name="s")
    (back,) = pool.map(work.identity, [series])
    pd.testing.assert_series_equal(back, series)
    (index,) = pool.map(work.identity, [series.index])
    pd.testing.assert_index_equal(index, series.index)


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_matrix"])
def test_sparse_matrices(pool, kind):
    random = np.random.default_rng(20_240_501)
    matrix = getattr(sparse, kind)(sparse.random(2_000, 2_000, 0.05, random_state=random))
    before = matrix.copy()
    for back in pool.map(work.scale_sparse, [matrix] * 3, 1):
        assert type(back) is type(matrix) and abs(back - before * 2).max() == 0
        back.data[:] = 0
    assert abs(matrix - before).max() == 0


DATA = {
    "bytes": lambda: bytes(range(256)) * 8_200,
    "bytes of 20 MB": lambda: b"0123456789" * 2 * MB,
    "bytearray": lambda: bytearray(range(256)) * 8_200,
    "ascii": lambda: "forklift " * 250_000,
    "latin": lambda: "gr\u00fc\u00dfe " * 400_000,
    "two bytes": lambda: "\u0436 " * MB,
    "four bytes": lambda: "\U0001f600 " * MB,
    "surrogates": lambda: "\ud800x" * MB,
}


@pytest.mark.parametrize("make", DATA.values(), ids=DATA)
def test_bytes_and_text(pool, make):
    data = make()
    expected = work.digest(data)
    assert pool.map(work.digest, [data] * 4, 1) == [expected] * 4
    (back,) = pool.map(work.identity, [data])
    assert type(back) is type(data) and back == data


def test_bytearrays_can_be_changed(pool):
    data = bytearray(2 * MB)
    (back,) = pool.map(work.change_bytearray, [data])
    assert len(data) == 2 * MB and data[0] == 0
    assert len(back) == 2 * MB + 1 and (back[0], back[-1]) == (7, 9)
    back.append(1)
    back[0] = 1


def test_buffers_kept_by_the_worker_stay_as_they_were(pool):
    jobs = [(bytearray([i]) * MB, i) for i in range(20)]
    assert pool.map(work.keep_buffer_and_check, jobs, 1) == [0] * 20
    assert pool.map(work.keep_buffer_and_check, jobs, 1) == [0] * 20


def test_array_of_the_standard_library(pool):
    numbers = stdlib_array.array("d", range(300_000))
    (back,) = pool.map(work.identity, [numbers])
    assert back == numbers and back.typecode == "d"


@pytest.mark.parametrize("data", [bytearray(b"x" * 2 * MB), b"y" * 2 * MB, bytearray(), b"z" * 100], ids=len)
def test_buffers_of_other_classes(pool, data):
    blob = work.Blob(data)
    digest = hashlib.sha256(data).hexdigest()
    for _, seen, size in pool.map(work.look_at_blob, [blob] * 3, 1):
        assert (seen, size) == (digest, len(data))
    (back,) = pool.map(work.identity, [blob])
    assert bytes(back.data) == bytes(data)


def test_lists_and_dicts_of_arrays(pool):
    arrays = [np.full(50_000, float(i)) for i in range(20)]
    named = {f"a{i}": array for i, array in enumerate(arrays)}
    expected = float(sum(array.sum() for array in arrays))
    assert pool.map(work.sum_parts, [arrays, named, tuple(arrays), {"one": arrays[1]}], 1) == [
        expected,
        expected,
        expected,
        50_000.0,
    ]
    (listed,) = pool.map(work.identity, [arrays])
    (mapped,) = pool.map(work.identity, [named])
    for i, array in enumerate(arrays):
        np.testing.assert_array_equal(listed[i], array)
        np.testing.assert_array_equal(mapped[f"a{i}"], array)


def test_very_many_buffers_in_one_item(pool):
    arrays = [np.full(2_000, i, np.int64) for i in range(3_000)]
    (back,) = pool.map(work.identity, [arrays])
    assert [int(a[0]) for a in back] == list(range(3_000))
    assert all(a.flags.writeable for a in back)


def test_long_lists_of_numbers(pool):
    items = [[float(i + j) for j in range(10_000)] for i in range(50)]
    assert pool.map(work.identity, items) == items
    assert pool.map(sum, items) == [sum(item) for item in items]


def test_large_and_small_items_mixed(pool):
    items = [np.zeros(300_000) if i % 5 == 0 else i for i in range(50)]
    for item, back in zip(items, pool.imap(work.identity, items), strict=True):
        if isinstance(item, int):
            assert back == item
        else:
            np.testing.assert_array_equal(back, item)


def test_large_keyword_arguments(pool):
    array = np.ones(300_000)
    assert pool.apply(work.fill_with, (), {"array": array, "value": 2.0}) == 300_000.0
    assert array.sum() == 300_000.0
