"""Libraries that take a pool, or a map: they find what they expect, and the results are those without a pool."""

from __future__ import annotations

import functools
import os

import numpy as np
import pytest

import forklift
from tests.integrations import work


def test_differential_evolution_finds_the_same_minimum(pool):
    from scipy.optimize import differential_evolution

    options = {"bounds": [(0, 2)] * 3, "updating": "deferred", "rng": 1, "maxiter": 8, "polish": False}
    alone = differential_evolution(work.rosenbrock, **options)
    found = differential_evolution(work.rosenbrock, workers=pool.map, **options)
    assert found.nfev == alone.nfev
    assert np.array_equal(found.x, alone.x)
    assert pool._counters()["chunks"] > 0


def test_brute_finds_the_same_minimum(pool):
    from scipy.optimize import brute

    ranges = ((0, 2), (0, 2))
    found = brute(work.rosenbrock, ranges, Ns=8, workers=pool.map, finish=None)
    assert np.array_equal(found, brute(work.rosenbrock, ranges, Ns=8, finish=None))


def test_emcee_draws_the_same_chain(pool):
    import emcee

    def chain(**options):
        sampler = emcee.EnsembleSampler(8, 2, work.log_probability, **options)
        sampler._random.seed(5)
        start = np.random.default_rng(0).standard_normal((8, 2))
        sampler.run_mcmc(start, 20)
        return sampler.get_chain()

    assert np.array_equal(chain(pool=pool), chain())


def test_dask_computes_with_a_pool(pool):
    import dask
    import dask.array
    from dask.local import get_apply_async

    with dask.config.set(scheduler=functools.partial(get_apply_async, pool.apply_async, 2)):
        ones = dask.array.ones((2000, 1000), chunks=(500, 1000))
        assert (ones + 1).sum().compute() == 4_000_000
        assert np.array_equal((ones + 1).compute(), np.full((2000, 1000), 2.0))
        assert dask.delayed(os.getpid)().compute() in {worker.pid for worker in pool.workers()}
        with pytest.raises(ZeroDivisionError):
            dask.delayed(divmod)(1, 0).compute()
    assert pool._counters()["result_bytes_handed"] > 0


@pytest.mark.parametrize("way", ["scheduler", "pool"])
def test_dask_computes_with_an_executor(way):
    import dask
    import dask.array

    with forklift.Executor(2) as executor:
        settings = (
            {"scheduler": executor} if way == "scheduler" else {"scheduler": "processes", "pool": executor}
        )
        check_dask(dask, settings)


def check_dask(dask, settings):
    with dask.config.set(**settings):
        ones = dask.array.ones((2000, 1000), chunks=(500, 1000))
        assert (ones + 1).sum().compute() == 4_000_000
        assert dask.delayed(os.getpid)().compute() != os.getpid()
        with pytest.raises(ZeroDivisionError):
            dask.delayed(divmod)(1, 0).compute()


def test_tqdm_counts_the_results_of_imap(pool):
    from tqdm import tqdm

    bar = tqdm(pool.imap(abs, range(-30, 0)), total=30, file=open(os.devnull, "w"), mininterval=0)  # noqa: SIM115
    assert list(bar) == list(range(30, 0, -1))
    assert bar.n == 30
    bar.fp.close()


@pytest.mark.parametrize(
    "library",
    ["pandas", pytest.param("polars", marks=pytest.mark.untidy("polars starts an event loop of its own"))],
)
def test_groups_of_a_frame_are_items(pool, library):
    data = {"key": [n % 7 for n in range(70_000)], "value": [float(n) for n in range(70_000)]}
    if library == "pandas":
        import pandas

        frame = pandas.DataFrame(data)
        groups = list(frame.groupby("key"))
        expected = frame.groupby("key")["value"].mean().to_dict()
    else:
        import polars

        frame = polars.DataFrame(data)
        groups = [(key[0], group) for key, group in frame.group_by("key")]
        expected = dict(frame.group_by("key").agg(polars.col("value").mean()).iter_rows())
    assert dict(pool.map(work.group_mean, groups)) == expected


def test_samples_are_loaded_ahead_of_the_one_who_trains(pool, tmp_path):
    paths = []
    for number in range(12):
        paths.append(tmp_path / f"{number}.npy")
        np.save(paths[-1], np.full(300_000, float(number)))
    for number, sample in enumerate(pool.imap(work.load, paths, buffersize=4)):
        sample += 1  # writable, and not the worker's any more
        assert sample[0] == sample[-1] == number + 1
    assert pool._counters()["result_bytes_handed"] > 0
