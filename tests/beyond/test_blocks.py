"""`map_blocks`: one large object cut, worked on and put together again equals the function of the whole."""

from __future__ import annotations

import itertools
import operator
import os
import signal
import time
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import forklift
from forklift import _cuts, blocks

N = 60_000


pytestmark = pytest.mark.untidy("one pool for the module")


@pytest.fixture
def pool(module_pool):
    return module_pool


def counted(pool: Any, call: Any) -> tuple[Any, dict[str, int]]:
    before = pool._counters()
    result = call()
    after = pool._counters()
    return result, {name: after[name] - before[name] for name in after}


def shared(array: np.ndarray) -> np.ndarray:
    with forklift.shared_arrays():
        copy = np.empty(array.shape, array.dtype)
    copy[...] = array
    return copy


# Elementwise functions ---------------------------------------------------------------------------------------------

FUNCTIONS = {
    "ufunc": np.negative,
    "other type": lambda part: part > 3,
    "in place": lambda part: np.add(part, 1, out=part),
    "wider": lambda part: part.astype(np.complex128) * 1j,
}


def arrays(path: Any) -> Any:
    """Arrays of every sort: plain, shared, in a file; in C's order, in Fortran's, strided, backwards."""

    def make(sort: str, dtype: str, shape: list[int], form: str) -> np.ndarray:
        values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        if sort == "file" and values.size:
            array: Any = np.memmap(path, values.dtype, "w+", shape=values.shape)
            array[...] = values
        else:
            array = shared(values) if sort == "shared" else values
        return {
            "as it is": array,
            "transposed": array.T,
            "backwards": array[::-1],
            "strided": array[..., ::2],
        }[form]

    return st.builds(
        make,
        st.sampled_from(["plain", "shared", "file"]),
        st.sampled_from(["<f8", "<i4", "<f4"]),
        st.lists(st.sampled_from([0, 1, 3, 40, 90]), min_size=1, max_size=3),
        st.sampled_from(["as it is", "transposed", "backwards", "strided"]),
    )


def test_elementwise_functions_of_arrays(pool, tmp_path):
    ways = ["none", "True", "plain", "shared", "file"]

    @settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        arrays(tmp_path / "in"),
        st.integers(0, 2),
        st.sampled_from(sorted(FUNCTIONS)),
        st.sampled_from([None, 1, 7, 50, 1000]),
        st.sampled_from(ways),
    )
    def check(array: Any, axis: int, name: str, block: int | None, way: str) -> None:
        func = FUNCTIONS[name]
        axis = axis % array.ndim
        before = array.copy()
        expected = func(array.copy())
        out: Any = {"none": None, "True": True}.get(way)
        if way in ("plain", "shared", "file"):
            out = np.zeros(expected.shape, expected.dtype)
            if way == "shared":
                out = shared(out)
            if way == "file" and expected.size:
                out = np.memmap(tmp_path / "out", expected.dtype, "w+", shape=expected.shape)
        result = pool.map_blocks(func, array, axis=axis - array.ndim, block=block, out=out)
        np.testing.assert_array_equal(result, expected)
        assert result.dtype == expected.dtype
        assert result.flags.writeable
        np.testing.assert_array_equal(array, before, "what a function writes is its own")
        if way in ("plain", "shared", "file"):
            assert result is out

    check()


def test_large_arrays_are_cut_into_many_blocks_whose_results_are_right(pool):
    array = np.random.default_rng(1).random((400, 5000))
    for axis in (0, 1):
        for given_array in (array, shared(array)):
            for out in (None, True):
                result = pool.map_blocks(np.sqrt, given_array, axis=axis, out=out)
                np.testing.assert_array_equal(result, np.sqrt(array))


FRAME = pd.DataFrame(
    {"a": np.arange(N), "b": np.arange(N) / 7, "c": pd.Categorical(["x", "y", "z"] * (N // 3))},
    index=pd.Index(np.arange(N)[::-1], name="i"),
)
# Polars opens descriptors of its own, for good, when it first computes something.
pl.DataFrame({"a": [1]}).with_columns(d=pl.col("a") * 2)
TABLE = pa.table({"a": np.arange(N), "b": [str(i) for i in range(N)]})
TEXT = "".join(f"line {i}\n" for i in range(N // 5)) + "no end"

KINDS = {
    "pandas frame": (FRAME, lambda f: f.assign(d=f.a * 2), pd.testing.assert_frame_equal),
    "pandas series": (FRAME["b"], lambda s: s + 1, pd.testing.assert_series_equal),
    "polars frame": (pl.from_arrow(TABLE), lambda f: f.with_columns(d=pl.col("a") * 2), None),
    "polars series": (pl.Series("s", np.arange(N)), lambda s: s * 2, None),
    "arrow table": (TABLE, lambda t: t.append_column("d", t.column("a")), None),
    "arrow batch": (TABLE.to_batches()[0], lambda b: b.select(["b"]), None),
    "arrow array": (pa.array(range(N)), lambda a: a.cast(pa.float32()), None),
    "arrow chunks": (TABLE.column("b"), lambda a: a.cast(pa.large_string()), None),
    "bytes": (TEXT.encode(), bytes.upper, None),
    "bytearray": (bytearray(TEXT.encode()), lambda b: b.upper(), None),
    "str": (TEXT, str.upper, None),
    "str that is not ASCII": (TEXT.replace("l", "λ"), str.upper, None),
    "lines of text": (TEXT, str.splitlines, None),
    "list of floats": ([float(i) for i in range(N)], lambda part: [x + 1 for x in part], None),
    "list of mixed": ([i if i % 3 else str(i) for i in range(N)], lambda part: part[:], None),
    "tuple": (tuple(range(N)), lambda part: tuple(-x for x in part), None),
    "array of objects": (
        np.array([str(i) for i in range(N)], object),
        lambda part: part + "!",
        np.testing.assert_array_equal,
    ),
    "masked array": (
        np.ma.masked_greater(np.arange(N), 10),
        lambda part: part + 1,
        lambda a, b: (
            np.testing.assert_array_equal(a.filled(0), b.filled(0)),
            isinstance(a, np.ma.MaskedArray),
        ),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds(pool, kind):
    obj, func, check = KINDS[kind]
    expected = func(obj)
    for block in (None, 700, N // 2, 10 * N):
        result = pool.map_blocks(func, obj, block=block)
        assert type(result) is type(expected)
        if check is not None:
            check(result, expected)
        elif hasattr(result, "equals"):
            assert result.equals(expected)
        else:
            assert result == expected
    # Of an empty object there is one block.
    empty = (
        obj.iloc[:0] if hasattr(obj, "iloc") else obj[:0] if hasattr(obj, "__getitem__") else obj.slice(0, 0)
    )
    assert len(pool.map_blocks(func, empty)) == 0
    assert pool.map_blocks(len, empty, combine="list") == [0]
    assert pool.map_blocks(len, empty, combine=operator.add) == 0


def test_text_is_cut_at_line_ends(pool):
    cuts = pool.map_blocks(lambda part: part, TEXT, block=1000, combine="list")
    assert len(cuts) > 10
    assert all(part.endswith("\n") for part in cuts[:-1])
    assert all(1000 <= len(part) < 1020 for part in cuts[:-1])
    assert pool.map_blocks(lambda part: part, b"x" * N, block=100, combine="list") == [b"x" * N]


# Combining ---------------------------------------------------------------------------------------------------------


def test_results_as_a_list(pool):
    assert pool.map_blocks(sum, list(range(10)), block=3, combine="list") == [3, 12, 21, 9]


@pytest.mark.parametrize("count", [1, 2, 7, 64, 100])
def test_a_function_combines_neighbours_in_order(pool, count):
    def slow_at_first(part):
        time.sleep(0.02 if part[0] == 0 else 0)
        return (part[0],)

    combined: list[tuple[Any, Any]] = []

    def combine(left: Any, right: Any) -> Any:
        combined.append((left, right))
        return left + right

    assert pool.map_blocks(slow_at_first, list(range(count)), block=1, combine=combine) == tuple(range(count))
    assert len(combined) == count - 1
    assert all(left[-1] + 1 == right[0] for left, right in combined)
    first, combined = sorted(combined), []
    pool.map_blocks(slow_at_first, list(range(count)), block=1, combine=combine)
    assert sorted(combined) == first, "which two are combined hangs on the blocks alone"


def test_floats_are_reduced_to_the_same_bits_each_time(pool):
    array = np.random.default_rng(2).random(300_000)
    sums = {pool.map_blocks(np.sum, array, block=1000, combine=operator.add) for _ in range(10)}
    assert len(sums) == 1
    assert sums.pop() == pytest.approx(array.sum())


def test_what_cannot_be_joined_is_named(pool):
    with pytest.raises(TypeError, match=r"float64 for the first block.*combine='list'.*operator\.add"):
        pool.map_blocks(np.sum, np.ones(N))
    with pytest.raises(TypeError, match="returned bytes and str"):
        pool.map_blocks(lambda part: b"" if part[0] else "", [0, 1], block=1)
    with pytest.raises(TypeError, match=r"shape \(10, 2\).*axis 2"):
        pool.map_blocks(lambda part: part[:, :, 0], np.ones((10, 2, 9)), axis=2)
    assert pool.map(abs, [-1]) == [1]


# What crosses how --------------------------------------------------------------------------------------------------


def test_plain_arrays_are_copied_once(pool):
    array = np.random.default_rng(3).random(1_000_000)
    _, counters = counted(pool, lambda: pool.map_blocks(len, array, block=100_000, combine="list"))
    assert counters["chunks"] == 10
    assert counters["bytes_copied_in"] == array.nbytes


@pytest.mark.parametrize("axis", [0, 1])
def test_shared_arrays_are_lent_along_any_axis(pool, axis):
    array = shared(np.random.default_rng(3).random((1000, 1000)))
    total, counters = counted(
        pool, lambda: pool.map_blocks(np.sum, array, axis=axis, block=100, combine=operator.add)
    )
    assert total == pytest.approx(array.sum())
    assert counters["bytes_copied_in"] == 0
    assert counters["bytes_lent"] >= array.nbytes


@pytest.mark.parametrize("axis", [0, 1])
def test_files_cross_by_reference_both_ways(pool, tmp_path, axis):
    array = np.memmap(tmp_path / "in", np.float64, "w+", shape=(1000, 1000))
    array[...] = np.random.default_rng(4).random(array.shape)
    out = np.memmap(tmp_path / "out", np.float64, "w+", shape=array.shape)
    _, counters = counted(pool, lambda: pool.map_blocks(np.sqrt, array, axis=axis, out=out, block=100))
    np.testing.assert_array_equal(out, np.sqrt(array))
    np.testing.assert_array_equal(np.fromfile(tmp_path / "out").reshape(out.shape), out)
    assert counters["bytes_copied_in"] == 0
    assert counters["result_bytes"] < 10_000


def test_a_file_that_is_larger_than_what_is_touched(pool, tmp_path):
    # A sparse file of 1 TB: whoever copied it, or read it whole, would not come back.
    rows = 1 << 40 >> 10
    path = tmp_path / "huge"
    with open(path, "wb") as file:
        file.truncate(rows << 10)
    array = np.memmap(path, np.uint8, "r", shape=(rows, 1024))
    found = pool.map_blocks(lambda part: (len(part), int(part[0, 0])), array, block=rows // 5, combine="list")
    assert [length for length, _ in found] == [rows // 5] * 5 + ([rows % 5] if rows % 5 else [])


# out ---------------------------------------------------------------------------------------------------------------


def test_workers_write_into_a_shared_array(pool):
    array = np.random.default_rng(5).random((1000, 1000))
    out = shared(np.zeros_like(array))
    for func in (np.sqrt, lambda part: part * 3):
        result, counters = counted(pool, lambda func=func: pool.map_blocks(func, array, out=out, block=10))
        assert result is out
        np.testing.assert_array_equal(out, func(array))
        assert counters["bytes_copied_in"] == array.nbytes
        assert counters["bytes_lent"] == out.nbytes
        assert counters["result_bytes"] < 100_000, "no result came in a message"


def test_only_the_first_blocks_of_a_new_array_come_as_results(pool):
    array = np.random.default_rng(5).random((1000, 1000))
    result, counters = counted(pool, lambda: pool.map_blocks(np.sqrt, array, out=True, block=10))
    np.testing.assert_array_equal(result, np.sqrt(array))
    assert counters["bytes_lent"] == array.nbytes - 2 * 10 * 1000 * 8
    assert counters["result_bytes"] < 2 * 10 * 1000 * 8 + 100_000
    _, counters = counted(pool, lambda: pool.map_blocks(np.sum, result, combine=operator.add))
    assert (counters["bytes_copied_in"], counters["bytes_lent"]) == (0, array.nbytes), (
        "it lies in shared memory"
    )


def test_results_of_earlier_calls_are_written_to_where_they_lie(pool):
    (out,) = pool.map(np.zeros, [(1000, 1000)])
    array = np.random.default_rng(6).random(out.shape)
    _, counters = counted(pool, lambda: pool.map_blocks(np.exp, array, out=out, block=10))
    np.testing.assert_array_equal(out, np.exp(array))
    assert counters["result_bytes"] < 100_000


def test_only_rows_of_the_block_are_written(pool):
    out = shared(np.full((300, 4000), 7.0))
    view = out[100:200, 1000:2000]
    pool.map_blocks(lambda part: part * 0, np.ones(view.shape), out=view, block=3, axis=1)
    expected = np.full(out.shape, 7.0)
    expected[100:200, 1000:2000] = 0
    np.testing.assert_array_equal(out, expected)


def test_in_place(pool, tmp_path):
    values = np.random.default_rng(7).random((500, 1000))
    file = np.memmap(tmp_path / "file", np.float64, "w+", shape=values.shape)
    file[...] = values
    for array in (values.copy(), shared(values), file):
        assert pool.map_blocks(np.sqrt, array, out=array, block=7) is array
        np.testing.assert_array_equal(array, np.sqrt(values))
        assert pool.map_blocks(lambda part: part**2, array, out=array, axis=1) is array
        np.testing.assert_array_equal(array, np.sqrt(values) ** 2)


def test_results_of_another_shape_than_the_object(pool):
    rows = [(i, i + 1) for i in range(1000)]
    found = pool.map_blocks(np.array, rows, out=True, block=10)
    np.testing.assert_array_equal(found, np.array(rows))
    found = pool.map_blocks(lambda f: f[["a", "b"]].to_numpy(), FRAME, out=True)
    np.testing.assert_array_equal(found, FRAME[["a", "b"]].to_numpy())
    names = pool.map_blocks(
        lambda part: np.array([str(x) for x in part], object), list(range(1000)), out=True
    )
    assert list(names) == [str(x) for x in range(1000)]


def test_the_memory_of_out_comes_back(pool):
    out = pool.map_blocks(np.sqrt, np.ones(1_000_000), out=True)
    assert forklift._native.shared_usage()[0] >= out.nbytes
    del out
    assert forklift._native.shared_usage()[0] == 0


# Deaths and failures -----------------------------------------------------------------------------------------------


def test_a_worker_that_dies_spoils_its_own_block_alone(tmp_path):
    mark = tmp_path / "died"

    def die_once(part):
        if part[0, 0] == 500 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return -part

    array = np.arange(1000.0).repeat(100).reshape(1000, 100)
    with forklift.Pool(2) as pool:
        for out in (shared(np.zeros_like(array)), True, None):
            mark.unlink(missing_ok=True)
            found = pool.map_blocks(die_once, array, out=out, block=10, retries=1)
            np.testing.assert_array_equal(found, -array)
        mark.unlink()
        out = shared(np.full_like(array, 7))
        with pytest.raises(forklift.WorkerDied) as caught:
            pool.map_blocks(die_once, array, out=out, block=10)
        assert caught.value.index == 50
        assert "forklift: item 50 is the block of rows 500 to 510" in caught.value.__notes__
        np.testing.assert_array_equal(out[:500], -array[:500])
        assert (out[500:510] == 7).all()
    pool.join()


def fail_at(number):
    def func(part):
        if number in part:
            raise LookupError(number)
        return part

    return func


def test_the_first_failure_ends_the_call(pool):
    array = np.arange(100_000)
    pool.map(abs, range(4))
    for out in (None, True, shared(array)):
        result, counters = counted(pool, lambda out=out: failure(pool, fail_at(25), array, block=10, out=out))
        assert isinstance(result, LookupError)
        assert "forklift: item 2 is the block of rows 20 to 30" in result.__notes__
        assert counters["chunks"] < 1000, "no further blocks are begun"
        assert counters["births"] == 0, "nobody is killed for it"


def failure(pool, *args, **options):
    with pytest.raises(Exception) as caught:
        pool.map_blocks(*args, **options)
    return caught.value


def test_failures_stand_in_their_blocks_places(pool):
    found = pool.map_blocks(fail_at(5), list(range(9)), block=3, combine="list", on_error="return")
    assert found[0] == [0, 1, 2]
    assert isinstance(found[1], LookupError)
    assert found[2] == [6, 7, 8]
    with pytest.raises(ValueError, match="needs combine='list'"):
        pool.map_blocks(fail_at(5), [1], on_error="return")


def test_a_block_that_takes_too_long(pool):
    error = failure(pool, lambda part: time.sleep(1000), [1, 2, 3], block=1, task_timeout=0.2)
    assert isinstance(error, forklift.TaskTimeout)


def test_what_combine_raises(pool):
    error = failure(pool, len, list(range(100)), block=1, combine=lambda a, b: 1 // 0)
    assert isinstance(error, ZeroDivisionError)
    assert pool.map(abs, [-1]) == [1]


@pytest.mark.parametrize("out", [None, True])
def test_progress_counts_blocks(pool, out):
    seen: list[tuple[int, int | None]] = []
    pool.map_blocks(np.negative, np.arange(100), block=7, out=out, progress=lambda *state: seen.append(state))
    assert seen[-1] == (15, 15)


# Refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words", "obj", "options"),
    [
        (TypeError, "cannot cut builtins.dict: it cuts NumPy arrays, pandas", {}, {}),
        (TypeError, "cannot cut builtins.generator", (i for i in ()), {}),
        (ValueError, "0 dimensions", np.array(1.0), {}),
        (np.exceptions.AxisError, "axis 2 is out of bounds", np.ones((2, 2)), {"axis": 2}),
        (np.exceptions.AxisError, "axis -3 is out of bounds", np.ones((2, 2)), {"axis": -3}),
        (TypeError, "axis must be an int, not str", np.ones(2), {"axis": "rows"}),
        (ValueError, "axis must be 0 for DataFrame", FRAME, {"axis": 1}),
        (ValueError, "axis must be 0 for list", [1], {"axis": 1}),
        (ValueError, "block must be None or 1", [1], {"block": 0}),
        (ValueError, "block must be None or 1", [1], {"block": -1}),
        (TypeError, "block must be an int or None, not float", [1], {"block": 1.5}),
        (TypeError, "block must be an int or None, not bool", [1], {"block": True}),
        (ValueError, "combine must be 'concat' or 'list', not 'sum'", [1], {"combine": "sum"}),
        (ValueError, "exclude each other", [1], {"combine": "list", "out": True}),
        (TypeError, "out must be a NumPy array or True, not list", np.ones(2), {"out": [1]}),
        (TypeError, "not MaskedArray", np.ones(2), {"out": np.ma.zeros(2)}),
        (ValueError, r"out has shape \(3,\)", np.ones(2), {"out": np.ones(3)}),
        (ValueError, "is cut into lines", "text", {"out": True}),
        (ValueError, "retries must be", [1], {"retries": -1}),
    ],
)
def test_bad_arguments_are_named_at_once(pool, kind, words, obj, options):
    before = pool._counters()["chunks"]
    with pytest.raises(kind, match=words):
        pool.map_blocks(len, obj, **options)
    assert pool._counters()["chunks"] == before


def test_out_that_cannot_be_written(pool, tmp_path):
    array = np.ones(1000)
    (tmp_path / "file").write_bytes(array.tobytes())
    for out in (np.memmap(tmp_path / "file", np.float64, "r"), np.broadcast_to(array[:1], 1000)):
        with pytest.raises(ValueError, match=r"read-only.*'r\+'"):
            pool.map_blocks(np.sqrt, array, out=out)
    private = np.memmap(tmp_path / "file", np.float64, "c")
    assert pool.map_blocks(lambda part: part * 2, array, out=private) is private
    assert (private == 2).all()
    assert (np.fromfile(tmp_path / "file") == 1).all()


def test_out_that_overlaps(pool):
    array = shared(np.ones(100_000))
    with pytest.raises(ValueError, match="overlaps"):
        pool.map_blocks(np.sqrt, array, out=array[::-1])
    with pytest.raises(ValueError, match="retries=0"):
        pool.map_blocks(np.sqrt, array, out=array, retries=1)


@pytest.mark.parametrize("out", [True, "shared", "plain"])
def test_results_that_do_not_fit_out(pool, out):
    array = np.ones((1000, 10))
    into = {"shared": shared(np.ones((1000, 100)))[:, :10], "plain": np.ones((1000, 10))}.get(out, out)
    error = failure(pool, lambda part: part[1:], array, out=into, block=100)
    assert isinstance(error, ValueError)
    assert "(99, 10)" in str(error)
    error = failure(pool, np.sum, array, out=into, block=100)
    assert isinstance(error, TypeError)
    assert "float64" in str(error)
    if out is not True:
        error = failure(pool, lambda part: part * 1j, array, out=into, block=100)
        assert isinstance(error, TypeError)
        assert "complex128" in str(error)


def wider_later(part):
    return np.full(len(part), "a longer text" if part[0] else "short")


def rounder_at_first(part):
    return part * 1.1 if part[0] else part.astype(np.float32)


@pytest.mark.parametrize("func", [wider_later, rounder_at_first])
def test_a_new_array_loses_nothing_of_later_results(func):
    with forklift.Pool(1) as pool:
        error = failure(pool, func, np.arange(1000.0), out=True, block=300)
    assert isinstance(error, TypeError)
    assert "the type of the first result: give an array as out" in str(error)


@pytest.mark.parametrize("out", [True, "shared", "plain"])
def test_masked_values_are_refused_for_out(pool, out):
    array = np.ma.masked_greater(np.arange(1000.0), 950)
    into = {"shared": shared(np.ones(1000)), "plain": np.ones(1000)}.get(out, out)
    error = failure(pool, lambda part: part * 2, array, out=into, block=100)
    assert isinstance(error, TypeError)
    assert "no room for a mask" in str(error)
    result = pool.map_blocks(lambda part: part.filled(0.0), array, out=into, block=100)
    assert np.array_equal(result, array.filled(0.0))


def test_a_closed_pool_refuses():
    pool = forklift.Pool(1)
    pool.close()
    pool.join()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.map_blocks(len, [1])


# Sizes -------------------------------------------------------------------------------------------------------------


def sizes_of(cut: _cuts.Cut, seconds_per_element: float, workers: int = 4) -> list[int]:
    """The sizes that are chosen when blocks take so long, two of them on their way to each worker."""
    sizes = blocks.Sizes(cut, None, workers, 128 << 20)
    chosen: list[int] = []
    start, now = 0, 0.0
    while start < cut.length:
        if len(chosen) >= 2 * workers:
            done = chosen[len(chosen) - 2 * workers]
            now += done * seconds_per_element / workers
            sizes.note(done, now)
        chosen.append(min(sizes.next(start), cut.length - start))
        start += chosen[-1]
    return chosen


def test_blocks_grow_until_they_take_long_enough_and_shrink_in_the_end():
    cut = _cuts.Cut(None, 1 << 30, 8 << 30)
    chosen = sizes_of(cut, 1e-9)
    assert chosen[0] * 8 == blocks.START_BYTES
    assert max(chosen) * 8 == 8 << 20, "what is kept warm for each worker, in four blocks"
    assert all(after <= 2 * before for before, after in itertools.pairwise(chosen))
    chosen = sizes_of(cut, 1e-6)
    middle = chosen[len(chosen) // 2]
    assert 0.5 * blocks.BLOCK_SECONDS <= middle * 1e-6 <= 2 * blocks.BLOCK_SECONDS


@pytest.mark.parametrize("seconds", [1e-9, 1e-3, 10.0])
@pytest.mark.parametrize("length", [1, 2, 5, 16, 100, 5000])
def test_every_worker_gets_a_few_blocks_of_about_the_same_size(length, seconds):
    chosen = sizes_of(_cuts.Cut(None, length, length * 8), seconds)
    assert sum(chosen) == length
    assert len(chosen) >= min(length, 4 * blocks.BLOCKS_PER_WORKER)


def test_blocks_of_large_elements_are_small():
    cut, _ = _cuts.cut([np.ones(1 << 20)] * 1000, 0)
    assert max(sizes_of(cut, 1e-3)) == 1
