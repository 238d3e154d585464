"""A soak in small: after rounds of all kinds of calls everything is where it was after the first."""

from __future__ import annotations

import itertools

import pytest

from tests.soak.run import WARM_ROUNDS, rounds, verdict

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]


def test_nothing_accumulates(monkeypatch):
    from forklift import _kept

    monkeypatch.setenv("FORKLIFT_TRIM_SECONDS", "0.1")
    looks = [look for _, look in itertools.islice(rounds(7, 1), WARM_ROUNDS + 12)]
    _kept._shelf.let_go()
    assert verdict(looks[WARM_ROUNDS:]) == []
