"""Every kind of large object, both ways: equal to plain `map`, writable where its type is, copied once a side."""

from __future__ import annotations

import array
import importlib.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from . import work
from .test_random import STEADY

N = 100_000
SLACK = 24_000  # what is not bulk: the stream, the message

pytestmark = pytest.mark.untidy("one pool for the module")


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    """With its first query Polars opens descriptors that stay: before the house is looked at."""
    if importlib.util.find_spec("polars") is not None:
        KINDS["polars categories"]()


@pytest.fixture
def pool(engine: None, module_pool: Any) -> Any:
    """Workers that have imported all these packages: that takes longer than what is tested."""
    return module_pool


def package(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed")


def arrow_table() -> Any:
    pa = package("pyarrow")
    return pa.table({"a": np.arange(N), "b": np.arange(N) * 0.5, "s": [f"text {i}" for i in range(N)]})


def nested_arrow() -> Any:
    return package("pyarrow").array([[i, i + 1] for i in range(N)])


def frame() -> Any:
    pl = package("polars")
    return pl.DataFrame(
        {"n": np.arange(N), "s": [f"text {i}" for i in range(N)], "c": ["x", None] * (N // 2)}
    )


def masked(**options: Any) -> Any:
    return np.ma.masked_array(np.arange(N), mask=np.arange(N) % 3 == 0, **options)


def image() -> Any:
    package("pyarrow")
    rng = np.random.default_rng(1)
    return package("PIL.Image").fromarray(rng.integers(0, 255, (300, 400, 3), np.uint8), "RGB")


def tensor() -> Any:
    return package("torch").arange(N, dtype=package("torch").float64)


def strings() -> Any:
    return package("pandas").DataFrame({"s": [f"text {i}" for i in range(N)], "t": ["x"] * N})


def sparse() -> Any:
    return package("scipy.sparse").random(1000, 1000, 0.2, format="csr", rng=np.random.default_rng(2))


KINDS: dict[str, Callable[[], Any]] = {
    "memoryview": lambda: memoryview(bytes(range(250)) * 1000),
    "writable memoryview": lambda: memoryview(bytearray(range(250)) * 1000),
    "memoryview of doubles": lambda: memoryview(array.array("d", range(N))),
    "memoryview of two dimensions": lambda: memoryview(bytes(N * 8)).cast("d", (N // 10, 10)),
    "strided memoryview": lambda: memoryview(array.array("i", range(3 * N)))[::3],
    "sub-view": lambda: memoryview(bytearray(range(250)) * 1000)[1000:-1000],
    "array.array": lambda: array.array("d", range(N)),
    "array.array of bytes": lambda: array.array("B", range(250)) * 1000,
    "bytes": lambda: bytes(range(250)) * 1000,
    "bytearray": lambda: bytearray(range(250)) * 1000,
    "str": lambda: "text " * N,
    "masked": masked,
    "masked, hard": lambda: masked(hard_mask=True, fill_value=-7),
    "masked, without a mask": lambda: np.ma.masked_array(np.arange(N * 1.0)),
    "polars frame": frame,
    "polars slice": lambda: frame()[100:5000],
    "polars text": lambda: frame()["s"],
    "polars categories": lambda: frame().with_columns(
        package("polars").col("c").cast(package("polars").Categorical)
    ),
    "polars sorted": lambda: frame()["n"].sort(),
    "Arrow table": arrow_table,
    "Arrow slice": lambda: arrow_table().slice(1003, 20_000),
    "Arrow column slice": lambda: arrow_table()["a"].slice(1003, 20_000),
    "Arrow batch slice": lambda: arrow_table().to_batches()[0].slice(7, 20_000),
    "Arrow nested": nested_arrow,
    "Arrow nested slice": lambda: nested_arrow().slice(77, 20_000),
    "Arrow dictionary slice": lambda: (
        package("pyarrow").array(["a", None, "b"] * N).dictionary_encode()[5:20_000]
    ),
    "text frame": strings,
    "sparse": sparse,
    "image": image,
    "tensor": tensor,
}
EMPTY: dict[str, Callable[[], Any]] = {
    "memoryview": lambda: memoryview(b""),
    "memoryview of no dimension": lambda: memoryview(bytes(8)).cast("d", ()),
    "array.array": lambda: array.array("d"),
    "bytearray": bytearray,
    "str": str,
    "masked": lambda: np.ma.masked_array([], mask=[]),
    "masked, no dimension": lambda: np.ma.masked_array(3.0, mask=True),
    "polars frame": lambda: package("polars").DataFrame(),
    "Arrow array": lambda: package("pyarrow").array([1, 2, 3]).slice(3),
    "Arrow slice of nothing": lambda: arrow_table().slice(N),
    "tensor": lambda: package("torch").tensor(3.0),
    "image": lambda: package("PIL.Image").new("L", (1, 1)),
}


def same(a: Any, b: Any) -> bool:
    """Equality of two objects of one kind, with what the kind has besides its values."""
    if type(a) is not type(b):
        return False
    if isinstance(a, memoryview):
        return (a.format, a.shape, a.readonly, a.tobytes()) == (b.format, b.shape, b.readonly, b.tobytes())
    if isinstance(a, np.ma.MaskedArray):
        masks = np.array_equal(np.ma.getmaskarray(a), np.ma.getmaskarray(b))
        if a.nbytes >= 64 << 10:  # Smaller ones are left to NumPy's pickling, which forgets both.
            masks &= (a._mask is np.ma.nomask, a.hardmask) == (b._mask is np.ma.nomask, b.hardmask)
        return (
            masks
            and repr(a.fill_value) == repr(b.fill_value)
            and np.array_equal(a.data, b.data)
            and a.dtype == b.dtype
        )
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    module = type(a).__module__.partition(".")[0]
    if module == "scipy":
        return a.shape == b.shape and (a != b).nnz == 0
    if module == "PIL":
        return (a.mode, a.size, a.info, a.tobytes()) == (b.mode, b.size, b.info, b.tobytes())
    if module == "polars":
        schema = (lambda x: x.schema) if hasattr(a, "schema") else (lambda x: (x.name, x.dtype))
        return schema(a) == schema(b) and a.equals(b) and flags(a) == flags(b)
    if module in ("torch", "pandas", "pyarrow"):
        equal = a.equal(b) if module == "torch" else a.equals(b)
        return bool(equal) and (
            module != "pyarrow" or str(getattr(a, "type", "")) == str(getattr(b, "type", ""))
        )
    return bool(a == b)


def flags(x: Any) -> Any:
    return x.flags


def bulk(x: Any) -> int:
    """How many bytes the values of an object take."""
    if type(x).__module__.startswith("scipy"):
        return x.data.nbytes + x.indices.nbytes + x.indptr.nbytes
    if type(x).__module__.startswith("polars"):
        # Not `estimated_size`, which leaves out the views that text consists of.
        frame = x if hasattr(x, "columns") else x.to_frame()
        return frame.to_arrow(compat_level=package("polars").CompatLevel.newest()).nbytes
    if type(x).__module__.startswith("pandas"):
        return int(x.memory_usage(deep=False).sum())
    if type(x).__module__.startswith("PIL"):
        return 4 * x.size[0] * x.size[1]
    if isinstance(x, np.ma.MaskedArray):
        return x.data.nbytes + np.ma.getmask(x).nbytes
    if isinstance(x, array.array):
        return len(x) * x.itemsize
    return getattr(x, "nbytes", None) or len(x)


KINDS_OF = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@KINDS_OF
def test_both_ways_equal_and_copied_once(pool, make):
    """The counters see what goes out of band or in the stream: the bulk once each way, and nothing much beside."""
    value = make()
    pool.map(work.identity, [0])
    before = pool._counters()
    (back,) = pool.map(work.identity, [value])
    after = pool._counters()
    assert same(back, value)
    sent = sum(after[name] - before[name] for name in ("bytes_copied_in", "bytes_in_messages"))
    size = bulk(value)
    assert sent <= 1.3 * size + SLACK  # 1.3: offsets of Arrow's text, views that polars counts otherwise
    assert after["result_bytes"] - before["result_bytes"] <= 1.3 * size + SLACK


@pytest.mark.parametrize("make", EMPTY.values(), ids=EMPTY)
def test_small_and_empty(pool, make):
    value = make()
    (back,) = pool.map(work.identity, [value])
    assert type(back) is type(value)
    if isinstance(value, np.ma.MaskedArray) and not value.ndim:
        assert back.mask == value.mask
    else:
        assert same(back, value)


@KINDS_OF
def test_in_containers_and_by_every_way(pool, make):
    value = make()
    nested = {"one": [value, (value, 1)], "two": {"deep": value}}
    assert same(pool.apply(work.identity, (nested,)), nested)
    ((first, second),) = pool.imap(work.identity, [(value, value)])
    assert first is second and same(first, value)


def overwrite(x: Any) -> Any:
    if isinstance(x, tuple):
        for part in x:
            overwrite(part)
    elif type(x).__module__.startswith("PIL"):
        x.putpixel((0, 0), (1, 2, 3))
    else:
        x[0] = x[1]
    return x


WRITABLE = ["writable memoryview", "sub-view", "array.array", "bytearray", "masked", "image", "tensor"]


@pytest.mark.parametrize("name", WRITABLE)
def test_what_can_be_written_arrives_writable(pool, name):
    """In the worker and in the caller; the caller's own stays what it was."""
    value, expected = KINDS[name](), KINDS[name]()
    (back,) = pool.map(overwrite, [value])
    assert same(back, overwrite(KINDS[name]()))
    assert same(value, expected)
    overwrite(back)


# What C's pickler never asks about --------------------------------------------------------------------------------


def counted(pool: Any, item: Any) -> tuple[Any, int]:
    before = pool._counters()["bytes_copied_in"]
    (back,) = pool.map(work.identity, [item])
    return back, pool._counters()["bytes_copied_in"] - before


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Holder) and self.held == other.held


def test_one_bytearray_stays_one_object(pool):
    data = bytearray(b"x") * N
    for item in ((data, data), [data, [data]], {"a": data, "b": (1, [data])}):
        back, copied = counted(pool, item)
        assert back == item and copied < N + SLACK
        parts = [back[0], back[1]] if not isinstance(back, dict) else [back["a"], back["b"][1][0]]
        parts = [part[0] if isinstance(part, list) else part for part in parts]
        assert parts[0] is parts[1]
        parts[0].append(7)


def test_an_object_that_refers_to_it_keeps_doing_so(pool):
    data = bytearray(b"x") * N
    back, _ = counted(pool, (data, Holder(data)))
    assert back[0] is back[1].held and back[0] == data


def test_cycles_stay_cycles(pool):
    item: list[Any] = [bytearray(N), "y" * N]
    item.append(item)
    back, _ = counted(pool, item)
    assert back[2] is back and back[:2] == item[:2]
    held: dict[str, Any] = {"text": "z" * N}
    held["inner"] = [held]
    back, _ = counted(pool, held)
    assert back["inner"][0] is back and back["text"] == held["text"]


@pytest.mark.parametrize(
    "text", ["é" * N, "\ud800" * N, "\0" * N, "a" * N + "€"], ids=["latin", "surrogate", "nul", "mixed"]
)
def test_every_text(pool, text):
    assert pool.map(work.identity, [text, (text, [text])]) == [text, (text, [text])]


def test_a_subclass_is_not_taken_for_its_base(pool):
    class Own(bytearray):
        pass

    (back,) = pool.map(lambda x: (type(x).__name__, len(x)), [Own(N)])
    assert back == ("Own", N)


def test_a_bytearray_can_be_resized_once_it_is_sent(pool):
    data = bytearray(N)
    pool.map(work.identity, [data, (data, 1)])
    data.extend(b"more")


# Random ones ------------------------------------------------------------------------------------------------------

lengths = st.sampled_from([0, 1, 3, 9_000, 70_000])
flat = st.one_of(
    st.builds(lambda n, c: bytearray([c]) * n, lengths, st.integers(0, 255)),
    st.builds(lambda n, c: c * n, lengths, st.sampled_from(["a", "é", "€", "😀"])),
    st.builds(
        lambda n, c: array.array(c, range(n % 127)) * (1 + n // 127), lengths, st.sampled_from("bBhHiIlLqQfd")
    ),
    st.builds(lambda n, step: memoryview(bytearray(n))[::step], lengths, st.sampled_from([1, 2, -1])),
    st.builds(
        lambda n, step: memoryview(array.array("d", bytes(8 * n)))[::step], lengths, st.sampled_from([1, 3])
    ),
    st.builds(
        lambda n, k: np.ma.masked_array(np.arange(n), mask=np.arange(n) % k == 0), lengths, st.integers(1, 4)
    ),
    st.builds(lambda n: np.ma.masked_array(np.arange(n)), lengths),
    st.integers(),
    st.none(),
)
nested_kinds = st.recursive(
    flat,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        inner.map(lambda x: (x, [x])),
    ),
    max_leaves=6,
)


@STEADY
@given(items=st.lists(nested_kinds, max_size=4), chunksize=st.sampled_from([None, 1, 3]))
def test_random_nested_kinds_equal_the_builtin(module_pool, items, chunksize):
    assert same(module_pool.map(work.identity, items, chunksize), items)


arrow_columns = st.lists(st.one_of(st.none(), st.integers(-9, 9)), max_size=50)


@STEADY
@given(
    values=arrow_columns, times=st.sampled_from([1, 3000]), cut=st.tuples(st.floats(0, 1), st.floats(0, 1))
)
@pytest.mark.parametrize("kind", ["int16", "bool", "string", "list", "struct", "timestamp", "decimal"])
def test_random_arrow_slices(module_pool, kind, values, times, cut):
    pa = package("pyarrow")
    values = values * times
    arrays = {
        "int16": lambda: pa.array(values, pa.int16()),
        "bool": lambda: pa.array([None if v is None else v > 0 for v in values], pa.bool_()),
        "string": lambda: pa.array([None if v is None else "x" * abs(v) for v in values], pa.string()),
        "list": lambda: pa.array([None if v is None else [v] * abs(v) for v in values], pa.list_(pa.int8())),
        "struct": lambda: pa.array(
            [None if v is None else {"v": v} for v in values], pa.struct({"v": pa.int64()})
        ),
        "timestamp": lambda: pa.array(values, pa.int64()).cast(pa.timestamp("us")),
        "decimal": lambda: pa.array(values, pa.int64()).cast(pa.decimal128(30, 2)),
    }
    whole = arrays[kind]()
    piece = whole.slice(math.floor(cut[0] * len(whole)), math.ceil(cut[1] * len(whole)))
    (back,) = module_pool.map(work.identity, [piece])
    assert back.equals(piece) and back.type == piece.type and back.null_count == piece.null_count
    back.validate(full=True)
