"""A minute of `make fuzz`: the same cases every time. Those that failed once have names, below."""

from __future__ import annotations

import pytest

from tests.fuzz.episodes import Episode

pytestmark = [
    pytest.mark.filterwarnings("ignore:inherit=True forks"),
]

#: Cases of a test: so many take about four seconds.
CASES = 8

#: Cases that failed: seed and number.
NAMED = {
    "a function with defaults that dies between two tasks": (41, 45),
}


@pytest.mark.parametrize("seed", range(15))
def test_random_calls_come_to_what_the_oracle_says(seed):
    for number in range(CASES):
        Episode(seed, number).play()


@pytest.mark.parametrize("name", NAMED)
def test_what_failed_once(name):
    Episode(*NAMED[name]).play()
