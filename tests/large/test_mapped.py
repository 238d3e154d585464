"""Arrays in files cross as a place in the file: no byte is copied, and nobody's writes reach it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import work

N = 400_000

pytestmark = pytest.mark.untidy("one pool for the module")


@pytest.fixture
def pool(module_pool):
    """Workers that have imported NumPy: that takes longer than what is tested."""
    return module_pool


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "numbers äß"
    (np.arange(N, dtype=np.float64)).tofile(path)
    return path


def mapped(path: Path, mode: Any = "r", **options: Any) -> np.memmap:
    return np.memmap(path, np.float64, mode, **options)


VIEWS = {
    "whole": lambda m: m,
    "slice": lambda m: m[1001:-1001],
    "strided": lambda m: m[5::3],
    "backwards": lambda m: m[::-1],
    "transposed": lambda m: m.reshape(100, -1).T,
    "column": lambda m: m.reshape(100, -1)[:, 7:3000],
    "broadcast": lambda m: np.broadcast_to(m[:1000], (200, 1000)),
    "plain": lambda m: np.asarray(m),
    "plain view of a view": lambda m: np.asarray(m[10:])[7:].reshape(-1, 1)[::2],
    "other type": lambda m: m.view(np.uint16)[1:],
    "structured": lambda m: m.view([("a", "<f8"), ("b", "<i8")])["b"],
}


def moved(pool: Any, item: Any) -> tuple[Any, int]:
    before = pool._counters()
    (seen,) = pool.map(work.describe, [item])
    after = pool._counters()
    names = ("bytes_copied_in", "bytes_in_messages")
    return seen, sum(after[name] - before[name] for name in names)


@pytest.mark.parametrize("cut", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_no_byte_moves_and_none_is_written(pool, path, cut, mode):
    before = path.read_bytes()
    view = cut(mapped(path, mode))
    seen, bytes_moved = moved(pool, view)
    assert bytes_moved < 4000
    assert seen["crc"] == work.checksum(np.asarray(view)) and seen["writeable"]
    assert (seen["type"], seen["dtype"], seen["shape"]) == (type(view).__name__, view.dtype, view.shape)
    assert path.read_bytes() == before


def test_a_place_in_the_middle_of_the_file(pool, path):
    view = mapped(path, offset=8 * 1003, shape=(300, 1000))
    seen, bytes_moved = moved(pool, view)
    assert bytes_moved < 4000 and seen["crc"] == work.checksum(np.asarray(view))


def test_what_the_caller_wrote_is_seen(pool, path):
    view = mapped(path, "r+")
    view[7] = 5.5
    assert pool.map(work.total, [view]) == [float(view.sum())]


def test_private_changes_are_sent(pool, path):
    """Mode "c": what was written is not in the file, so the array itself has to go."""
    view = mapped(path, "c")
    view[:] = 1
    seen, bytes_moved = moved(pool, view)
    assert bytes_moved >= view.nbytes and seen["crc"] == work.checksum(np.asarray(view))


@pytest.mark.parametrize("fate", ["removed", "replaced"])
def test_a_file_without_its_name_is_copied(pool, path, fate):
    view = mapped(path)
    assert pool.map(work.total, [view]) == [float(view.sum())]  # The mapping is known from here on.
    if fate == "removed":
        path.unlink()
    else:
        other = path.with_name("other")
        np.zeros(N).tofile(other)
        other.rename(path)
    seen, bytes_moved = moved(pool, view)
    assert bytes_moved >= view.nbytes and seen["crc"] == work.checksum(np.asarray(view))


def spoil(job: tuple[str, str]) -> int:
    """In the worker, before the next item is decoded there: take the file away."""
    name, fate = job
    if fate == "removed":
        os.unlink(name)
    elif fate == "replaced":
        os.rename(name, name + ".old")
        np.zeros(N).tofile(name)
    else:
        os.truncate(name, 5000)
    return 0


class Late:
    """Spoils the file when it is unpickled, just before what stands behind it."""

    def __init__(self, name: str, fate: str) -> None:
        self.job = name, fate

    def __reduce__(self) -> Any:
        return spoil, (self.job,)


@pytest.mark.parametrize(
    ("fate", "words"),
    [("removed", "cannot be opened"), ("replaced", "replaced"), ("truncated", "shrunk to 5000")],
)
def test_a_file_that_went_away_on_the_way(pool, path, fate, words):
    """An error of that item, no signal; its neighbours and the workers go on."""
    items = [1, (Late(os.fspath(path), fate), mapped(path)), 3]
    first, error, third = pool.map(work.identity, items, 1, on_error="return")
    assert (first, third) == (1, 3)
    assert isinstance(error, Exception)
    told = [str(error), *getattr(error, "__notes__", []), str(error.__cause__)]
    assert any(words in text for text in told), told
    assert pool.map(work.identity, [1]) == [1]


def test_a_file_that_shrank_before_it_was_sent(pool, path):
    """Nobody touches what is not there any more, which would end the process."""
    view = mapped(path)
    os.truncate(path, 5000)
    first, error = pool.map(work.identity, [1, view], 1, on_error="return")
    told = [str(error), *getattr(error, "__notes__", []), str(error.__cause__)]
    assert first == 1 and any("shrunk to 5000" in text for text in told)


def open_mapped(job: tuple[str, str]) -> np.ndarray:
    name, mode = job
    array = np.memmap(name, np.float64, mode)
    if mode != "r":
        array[0] = 77
    return array


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_results_in_files(pool, path, mode):
    """Handed to the caller as a place in the file, unless what the worker wrote is only its own."""
    pool.map(work.identity, [0])
    before = pool._counters()["result_bytes"]
    (back,) = pool.map(open_mapped, [(os.fspath(path), mode)])
    moved = pool._counters()["result_bytes"] - before
    assert (moved >= back.nbytes) if mode == "c" else (moved < 4000)
    assert back[0] == (0 if mode == "r" else 77) and back[1] == 1
    contents = path.read_bytes()
    back[:] = 3
    assert path.read_bytes() == contents


def test_an_argument_that_the_worker_changed_comes_back_changed(pool, path):
    (back,) = pool.map(work.double_in_place, [mapped(path)])
    np.testing.assert_array_equal(back, np.arange(N) * 2.0)
    np.testing.assert_array_equal(mapped(path), np.arange(N))
