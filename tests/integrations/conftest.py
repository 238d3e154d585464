"""A pool of two workers, and joblib with the back end's kept workers given back afterwards."""

from __future__ import annotations

import pytest


@pytest.fixture
def pool():
    import forklift

    with forklift.Pool(2) as pool:
        yield pool
    pool.join()


@pytest.fixture
def backend():
    """The name of the registered back end."""
    import forklift
    from forklift.integrations.joblib import end_pools

    forklift.register_joblib()
    yield "forklift"
    end_pools()
