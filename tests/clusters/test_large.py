"""What large objects cost on clusters: once per node, and an argument is the worker's own."""

from __future__ import annotations

import operator

import numpy as np
import pytest

import forklift
from tests.patience import until

from . import work

LENGTH = 500_000


def test_arguments_can_be_written_and_results_too(pool):
    arrays = [np.arange(LENGTH, dtype=float) + i for i in range(6)]
    results = pool.map(work.double_in_place, arrays)
    for i, (array, result) in enumerate(zip(arrays, results, strict=True)):
        assert array[0] == i and result[0] == 2 * i and result[-1] == 2 * array[-1]
        result[0] = -1
    del results


@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_what_items_share_crosses_once_for_each_node(Pool, chunksize):
    """And each item sees it as it was, whatever the others wrote."""
    shared = np.ones(LENGTH)
    with Pool(2) as pool:
        until(lambda: pool.map(abs, range(4)) and len(pool._cluster.counters()) == 2, "both agents")
        before = [counters["bytes_copied_in"] for counters in pool._cluster.counters()]
        results = pool.map(work.total_of_pair, [(i, shared) for i in range(12)], chunksize)
        after = [counters["bytes_copied_in"] for counters in pool._cluster.counters()]
    pool.join()
    assert results == [LENGTH * (1.0 + i) for i in range(12)]
    grown = [there - here for here, there in zip(before, after, strict=True)]
    assert len(grown) == 2 and all(growth < 1.5 * shared.nbytes for growth in grown), grown


def test_a_shared_value_crosses_once_for_all_calls(Pool):
    table = np.arange(LENGTH, dtype=float)
    with Pool(2) as pool:
        shared = pool.share(table)
        for _ in range(3):
            assert pool.starmap(work.scaled, [(i, shared) for i in range(6)]) == [
                i * (LENGTH - 1.0) for i in range(6)
            ]
        copied = [counters["bytes_copied_in"] for counters in pool._cluster.counters()]
        assert all(each < 1.5 * table.nbytes for each in copied), copied
        shared.close()
        with pytest.raises(ValueError, match="closed"):
            pool.apply(work.scaled, (1, shared))
        assert pool.apply(abs, (-1,)) == 1
    pool.join()


def test_a_function_crosses_once_with_all_it_holds(pool):
    table = np.arange(LENGTH, dtype=float)
    assert pool.map(lambda i: float(table[i]), range(2000)) == [float(i) for i in range(2000)]


def test_an_array_in_a_file_is_copied(pool, tmp_path):
    """The nodes have no such file, as far as anybody knows."""
    path = tmp_path / "data"
    array = np.memmap(path, np.float64, "w+", shape=(LENGTH,))
    array[:] = 3
    path.unlink()
    assert pool.map(np.sum, [array, array[::2]]) == [3.0 * LENGTH, 1.5 * LENGTH]


def test_arrays_in_shared_memory(pool):
    with forklift.shared_arrays():
        arrays = [np.full(LENGTH, float(i)) for i in range(4)]
    assert pool.map(np.sum, arrays) == [float(LENGTH * i) for i in range(4)]
    results = pool.map(work.double_in_place, arrays)
    assert [array[0] for array in arrays] == [0, 1, 2, 3] and [result[0] for result in results] == [
        0,
        2,
        4,
        6,
    ]
    assert pool.map(np.sum, results) == [2.0 * LENGTH * i for i in range(4)]


@pytest.mark.parametrize("out", [None, True, "given"])
def test_blocks(pool, out):
    array = np.arange(600_000, dtype=float).reshape(3000, 200)
    target = np.empty_like(array) if out == "given" else out
    made = pool.map_blocks(work.squares, array, out=target)
    np.testing.assert_array_equal(made, array * array)
    assert out != "given" or made is target
    np.testing.assert_array_equal(pool.map_blocks(work.row_sums, array), array.sum(axis=1))
    assert pool.map_blocks(np.size, array, combine=operator.add) == array.size


def test_a_stream_is_taken_no_further_than_there_is_room(pool):
    """Results wait where they are made; what is in flight is bounded."""
    highest = -1

    def numbers():
        nonlocal highest
        while True:
            highest += 1
            yield highest

    results = pool.imap(work.blob, numbers(), buffersize=5)
    for i in range(40):
        array = next(results)
        assert array[0] == array[-1] == i
        assert highest <= i + 2 * 5 + 1
    results._job.cancel()
    del results


def test_a_report_tells_of_the_way(Pool, implementation):
    with Pool(2) as pool:
        for _ in range(2):  # The first call waits for its workers as well.
            pool.map(work.double_in_place, [np.ones(LENGTH) for _ in range(6)])
        report = pool.report()
    pool.join()
    assert report.engine.lower() == implementation and len(report.nodes) == 2 == len(set(report.nodes))
    assert report.network_bytes >= 2 * 6 * 8 * LENGTH
    assert report.workers["crossing"] > 0
    assert f"carried by {report.engine}" in str(report)
    (advice,) = [advice for advice in report.advice if advice.rule == "one_machine"]
    assert "Leave out backend=" in advice.text
