"""scikit-learn over the joblib back end: the results of one process, and X sent once for each fit."""

from __future__ import annotations

import os

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_validate

import forklift
from forklift.integrations import joblib as integration

pytestmark = [
    pytest.mark.untidy("workers are kept for the module"),
    pytest.mark.xdist_group("scikit-learn"),  # one process, and so one pair of workers
]


@pytest.fixture(scope="module")
def backend(module_house):
    """Workers that have imported scikit-learn: that takes longer than what they do."""
    forklift.register_joblib()
    yield "forklift"
    integration.end_pools()


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    x = random.standard_normal((50_000, 20))  # 8 MB
    return x, x[:, 0] - 2 * x[:, 3] + random.standard_normal(len(x))


def search(x, y):
    grid = {"alpha": [0.1, 1.0, 10.0, 100.0]}
    return GridSearchCV(Ridge(), grid, cv=3).fit(x, y).cv_results_["mean_test_score"]


def validate(x, y):
    return cross_validate(Ridge(), x, y, cv=6)["test_score"]


def permute(x, y):
    model = Ridge().fit(x[:1000], y[:1000])
    return permutation_importance(model, x, y, n_repeats=1, random_state=0).importances_mean


def grow(x, y):
    forest = RandomForestClassifier(6, max_depth=4, max_samples=0.02, random_state=0)
    return forest.fit(x, y > 0).feature_importances_


@pytest.mark.parametrize("work", [search, validate, permute, grow])
def test_results_are_the_same_and_x_crosses_once(backend, data, work):
    x, y = data
    expected = work(x, y)
    before = sum(kept.pool._counters()["bytes_copied_in"] for kept in integration._pools)
    with parallel_config(backend, n_jobs=2):
        found = work(x, y)
    assert np.allclose(found, expected)
    (kept,) = integration._pools
    counters = kept.pool._counters()
    assert counters["births"] == 2
    # X as it is first seen, then once for all; and what is smaller: y, indices of splits, trees.
    assert counters["bytes_copied_in"] - before < x.nbytes * 2.5


class Fussy(RegressorMixin, BaseEstimator):
    """An estimator of this module that fails on purpose."""

    def __init__(self, fail=False):
        self.fail = fail

    def fit(self, x, y):
        if self.fail:
            raise ArithmeticError("fit refused")
        self.pid_ = os.getpid()
        return self

    def predict(self, x):
        return np.zeros(len(x))


def test_the_users_own_estimators_and_their_failures_arrive(backend):
    x, y = np.ones((30, 2)), np.arange(30.0)
    with parallel_config(backend, n_jobs=2):
        fitted = cross_validate(Fussy(), x, y, cv=3, return_estimator=True)["estimator"]
        with pytest.raises(ArithmeticError, match="fit refused"):
            cross_validate(Fussy(fail=True), x, y, cv=3, error_score="raise")
    assert os.getpid() not in {one.pid_ for one in fitted}
