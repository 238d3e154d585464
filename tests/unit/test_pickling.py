"""Arrays, the ways of pickling, the search for what cannot be sent, and exceptions on their way."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from forklift import _failure, _pickling
from forklift.errors import DecodeError, EncodeError, RemoteTraceback
from tests.unit.stage import ROOT, dumps, run


def crossed(obj: Any, kind: Any = _pickling.Pickler) -> tuple[Any, list[Any], int]:
    """The object after a crossing with out-of-band buffers, those buffers, and the size of the stream."""
    buffers: list[pickle.PickleBuffer] = []

    class Sink(_pickling._Sink):
        pass

    sink = Sink()
    kind(sink, 5, buffer_callback=buffers.append).dump(obj)
    stream = sink.bytes()
    copies = [
        bytearray(buffer) if not memoryview(buffer).readonly else bytes(buffer)
        for buffer in map(raw, buffers)
    ]
    return pickle.loads(stream, buffers=copies), buffers, len(stream)


def raw(buffer: pickle.PickleBuffer) -> memoryview:
    return buffer.raw()


BASE = numpy.arange(2 * 3 * 4, dtype="f8").reshape(2, 3, 4)


def read_only(array: Any) -> Any:
    array = array.copy(order="K")
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("kind", [_pickling.Pickler, _pickling.cloud_pickler_class()])
@pytest.mark.parametrize(
    ("array", "copies"),
    [
        pytest.param(BASE, 0, id="plain"),
        pytest.param(read_only(BASE), 0, id="read-only"),
        pytest.param(read_only(numpy.asfortranarray(BASE)), 0, id="read-only-fortran"),
        pytest.param(BASE.transpose(1, 0, 2), 0, id="permuted"),
        pytest.param(read_only(BASE).transpose(2, 0, 1), 0, id="read-only-permuted"),
        pytest.param(BASE[:, ::2], 1, id="gaps"),
        pytest.param(BASE[::-1], 1, id="backwards"),
        pytest.param(numpy.broadcast_to(numpy.float64(3), (4, 5)), 1, id="broadcast"),
        pytest.param(numpy.array(["2020-01-01", "NaT"], "M8[s]"), 0, id="dates"),
        pytest.param(read_only(numpy.array([1, 2], "m8[D]")), 0, id="durations"),
        pytest.param(read_only(numpy.array([(1, 2.0)], [("a", "i4"), ("b", ">f8")])), 0, id="record"),
        pytest.param(read_only(numpy.array(["ä", "bc"])), 0, id="text"),
        pytest.param(read_only(numpy.array(5.0)), 0, id="scalar"),
    ],
)
def test_arrays_go_out_of_band_and_arrive_writable(array: Any, copies: int, kind: Any) -> None:
    writable = array.flags.writeable
    back, buffers, size = crossed(array, kind)
    assert len(buffers) == 1 and size < 400
    numpy.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype and back.shape == array.shape and back.flags.writeable
    assert array.flags.writeable == writable
    start = numpy.frombuffer(buffers[0], "u1").__array_interface__["data"][0]
    in_place = start == array.__array_interface__["data"][0]
    assert in_place == (not copies)


@pytest.mark.parametrize(
    "array",
    [
        read_only(numpy.array([{"a": 1}, None], object)),
        numpy.zeros((3, 0)),
        read_only(numpy.zeros(0)),
        numpy.zeros(3, "V0"),
        numpy.ma.masked_array([1, 2], [True, False]),
        numpy.rec.array([(1, 2.0)]),
    ],
    ids=["objects", "empty", "empty-read-only", "no-size", "masked", "record"],
)
def test_other_arrays_are_left_to_numpy(array: Any) -> None:
    back, _, _ = crossed(array)
    assert type(back) is type(array) and back.shape == array.shape and repr(back) == repr(array)


def test_the_memory_of_a_read_only_array_lives_as_long_as_the_buffer() -> None:
    array = read_only(numpy.full(100_000, 7.0))
    _, (arguments) = _pickling.array(array)
    del array
    again = numpy.frombuffer(arguments[0], "f8")
    numpy.full(100_000, 1.0)
    assert (again == 7.0).all()


def local_function() -> Callable[[], int]:
    return lambda: 1


def test_override_leaves_to_pickle_what_pickle_can() -> None:
    for obj in (local_function, Path, len, int, Path("/"), pickle.Pickler, functools.lru_cache(crossed)):
        if not isinstance(obj, functools._lru_cache_wrapper):
            assert _pickling.override(obj) is NotImplemented, obj
    n = 5

    def closure() -> int:
        return n

    with pytest.raises(_pickling.ByValue):
        _pickling.override(closure)
    assert pickle.loads(dumps(_pickling.cloud_pickler_class(), closure))() == 5
    assert pickle.loads(dumps(_pickling.Pickler, local_function()))() == 1


# What cannot be sent ---------------------------------------------------------------------------------------------


class Connection:
    def __init__(self) -> None:
        self.name = "x" * 1000
        self.lock = threading.Lock()


class Holder:
    def __init__(self, conn: object) -> None:
        self.conn = conn


class Slots:
    __slots__ = ("inner",)

    def __init__(self, inner: object) -> None:
        self.inner = inner


class Refuses:
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class Chain:
    next: object


def closing_over(handler: object) -> Callable[[], object]:
    return lambda: handler


def cycle() -> list[object]:
    items: list[object] = [1]
    items.append(items)
    items.append({"self": items, "bad": threading.Lock()})
    return items


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        ([1, 2, 3, Holder(Connection())], "items[3].conn.lock"),
        ([{"a": [1, 2, threading.Lock()]}], "items[0]['a'][2]"),
        (threading.Lock(), "items"),
        (closing_over(threading.Lock()), "items.<closure handler>"),
        (functools.partial(print, 1, sep=threading.Lock()), "items.keywords['sep']"),
        (functools.partial(print, threading.Lock()), "items.args[0]"),
        (Holder(Slots(threading.Lock())), "items.conn.inner"),
        (cycle(), "items[2]['bad']"),
        ([*range(100_000), Connection()], "items[100000].lock"),
        ({1: 2, "k": Refuses()}, "items['k']"),
        (Holder(Connection()).conn.__init__, "items.__self__.lock"),  # type: ignore[misc]
        (ValueError("x", threading.Lock()), "items.args[1]"),
        ((x for x in ()), "items"),
        (sys._getframe(), "items"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_culprit_is_found(obj: object, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    found, error = _failure.find_culprit(obj, "items")
    assert found == path
    assert isinstance(error, Exception)
    assert capfd.readouterr() == ("", "")


def test_the_search_ends_with_deep_and_strange_objects() -> None:
    chain: Any = threading.Lock()
    for _ in range(400):
        chain = [chain]
    path, _ = _failure.find_culprit(chain, "items")
    assert path.startswith("items[0][0]")

    class Moody:
        tries = 0

        def __reduce__(self) -> Any:
            Moody.tries += 1
            if Moody.tries % 2:
                raise OSError("now I cannot")
            return Moody, ()

    path, error = _failure.find_culprit([Moody()], "items")
    assert path.startswith("items") and isinstance(error, Exception)
    path, error = _failure.find_culprit([1], "items")
    assert path == "items" and "now it can" in str(error)


def test_an_encode_error_says_it_all() -> None:
    error = _failure.encode_error([Connection()], "items", 4)
    assert isinstance(error, pickle.PicklingError)
    assert isinstance(error, TypeError) and type(error).__name__ == "EncodeError"
    assert error.path == "items[0].lock" and error.index == 4 and "lock" in error.value
    assert "items[0].lock" in str(error) and "cannot pickle" in str(error)


# Exceptions ------------------------------------------------------------------------------------------------------


class Fine(Exception):
    pass


class NeedsTwo(Exception):
    """Pickles, and cannot be unpickled: it hangs `multiprocessing.Pool`."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class HoldsLock(Exception):
    pass


class ExitsWhenRead(Exception):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        if args == ("read",):
            raise SystemExit(3)

    def __reduce__(self) -> Any:
        return ExitsWhenRead, ("read",)


class BadText(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def raised(error: BaseException) -> BaseException:
    try:
        try:
            raise KeyError("the first")
        except KeyError as first:
            raise error from first
    except BaseException as caught:
        return caught


def packed_and_back(error: BaseException, index: int | None = 3) -> BaseException:
    packed = pickle.loads(pickle.dumps(_failure.pack_exception(raised(error), 64 << 10)))
    return _failure.unpack_exception(packed, index)


@pytest.mark.parametrize("error", [Fine("x", 1), SystemExit(2), KeyboardInterrupt(), OSError(2, "gone", "f")])
def test_exceptions_arrive_as_themselves(error: BaseException) -> None:
    error.add_note("of the user")
    back = packed_and_back(error)
    assert type(back) is type(error) and back.args == error.args
    assert back.__notes__ == ["of the user", "forklift: raised for item 3"]
    assert isinstance(back.__cause__, RemoteTraceback)
    text = "".join(traceback.format_exception(back))
    assert "the first" in text and "in raised" in text and 'raise KeyError("the first")' in text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NeedsTwo(1, 2), "NeedsTwo('1 and 2')"),
        (HoldsLock(threading.Lock()), "HoldsLock(<unlocked"),
        (ExitsWhenRead(), "ExitsWhenRead()"),
        (BadText("a"), "BadText('a')"),
    ],
)
def test_exceptions_that_cannot_cross_are_described(error: BaseException, words: str) -> None:
    back = packed_and_back(error)
    if type(error) is BadText:
        assert type(back) is BadText
    else:
        assert isinstance(back, DecodeError)
        assert words in str(back) and back.index == 3 and back.side == "worker"
    assert "in raised" in str(back.__cause__)


def test_an_exception_that_the_parent_cannot_read_is_described() -> None:
    packed = _failure.pack_exception(raised(Fine("x")), 1000)
    back = _failure.unpack_exception((b"cno_such_module\nX\n.", *packed[1:]), 7)
    assert isinstance(back, DecodeError) and back.side == "parent" and "no_such_module" in str(back)
    assert "Fine('x')" in str(back)


def test_texts_of_exceptions_are_bounded() -> None:
    packed = _failure.pack_exception(raised(ValueError("y" * 10_000_000)), 10_000)
    assert len(packed[2]) < 300 and len(packed[3]) <= 10_000
    assert packed[3].startswith("KeyError") or packed[3].startswith("Traceback")
    assert "characters left out" in packed[3]


def test_results_that_cannot_be_sent(tmp_path: Path) -> None:
    import multiprocessing.pool

    result = Holder(threading.Lock())
    packed = _failure.pack_result_failure(result, TypeError("cannot"))
    back = _failure.unpack_exception(pickle.loads(pickle.dumps(packed)), 5)
    assert isinstance(back, EncodeError)
    assert isinstance(back, multiprocessing.pool.MaybeEncodingError)
    assert back.path == "result.conn" and back.index == 5
    assert "result.conn" in str(back) and "lock" in back.value and "cannot pickle" in back.exc
    again = pickle.loads(pickle.dumps(back))
    assert type(again) is type(back) and str(again) == str(back) and again.index == 5
    run(
        tmp_path,
        """
        import threading
        class Result:
            def __init__(self):
                self.fine = 1
                self.lock = threading.Lock()
        def work():
            return Result()
        with Worker() as worker:
            try:
                worker.call(work)
            except Exception as error:
                assert type(error).__name__ == "ResultEncodeError", error
                assert error.path == "result.lock"
            else:
                raise AssertionError
            assert worker.call(int, "5") == 5
        """,
    )


@pytest.mark.parametrize(
    "module", ["forklift._pickling", "forklift._zygote", "forklift._worker", "forklift.errors"]
)
def test_imports_stay_few(module: str) -> None:
    heavy = (
        "typing dataclasses inspect re logging multiprocessing subprocess socket threading enum pickle numpy"
    )
    code = f"import sys, {module}; print([m for m in {heavy.split()!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'python')!r}); " + code],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
