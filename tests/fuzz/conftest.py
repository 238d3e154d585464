"""What the fuzzer's cases keep for later calls is given back after each test; rests are short."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True)
def tidied(monkeypatch):
    import forklift
    from forklift import _changes, _identities, _kept, _native, _pickling
    from forklift.integrations.joblib import end_pools

    monkeypatch.setenv("FORKLIFT_TRIM_SECONDS", "0.1")
    forklift.register_joblib()
    yield
    _kept._shelf.let_go()
    end_pools()
    # Some definitions that were sent are kept, since a worker may name them. What a name was bound to is known until
    # the next call. Here they have the globals of made-up modules.
    _identities._kept.clear()
    _pickling._blobs.clear()
    _changes.take_stamps()
    gc.collect()
    _native.trim_shared()
