"""Executors under test, and calls that wait for the test."""

from __future__ import annotations

import concurrent.futures
import multiprocessing

import pytest

import forklift
from tests.patience import wait_for_file

from . import work


def make(kind="forklift", workers=2, **options):
    """An executor of ours, or the standard library's."""
    if kind == "forklift":
        return forklift.Executor(workers, **options)
    return concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), **options)


def occupy(executor, gate, directory, count):
    """Give `count` workers a call each that waits for the gate; return their futures once all are at work."""
    begun = [directory / f"begun{index}" for index in range(count)]
    futures = [executor.submit(work.announce_and_wait, (str(path), str(gate))) for path in begun]
    for path in begun:
        wait_for_file(path)
    return futures


@pytest.fixture
def executor():
    with make() as executor:
        yield executor


@pytest.fixture(params=["standard", "forklift"])
def either(request):
    """Ours, and the standard library's for comparison."""
    if request.param == "standard":
        request.applymarker(pytest.mark.untidy("the standard library's"))
    with make(request.param) as executor:
        yield executor


@pytest.fixture
def gate(tmp_path):
    """A file that calls wait for. It is there in the end, whatever becomes of the test."""
    go = tmp_path / "go"
    yield go
    go.touch()
