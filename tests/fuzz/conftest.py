"""What the fuzzer's cases keep for later calls is given back after each test; rests are short."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def tidied(monkeypatch):
    import forklift
    from forklift import _kept
    from forklift.integrations.joblib import end_pools

    monkeypatch.setenv("FORKLIFT_TRIM_SECONDS", "0.1")
    forklift.register_joblib()
    yield
    _kept._shelf.let_go()
    end_pools()
