"""A pool of two workers, with everything given back afterwards."""

from __future__ import annotations

import pytest


@pytest.fixture
def pool():
    import forklift

    with forklift.Pool(2) as pool:
        yield pool
    pool.join()
