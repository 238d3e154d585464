"""The examples run: each in a process of its own, without a word on the error channel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
LINES_MAX = 40  # an example that needs more shows two things
SECONDS_MAX = 30
LONG = {"demo.py"}  # has its own target in the Makefile

SHORT = [path for path in sorted(EXAMPLES.glob("*.py")) if path.name not in LONG]


@pytest.mark.parametrize("example", SHORT, ids=lambda path: path.stem)
def test_runs_without_a_complaint(example: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout, "an example shows something"


@pytest.mark.parametrize("example", SHORT, ids=lambda path: path.stem)
def test_is_short(example: Path) -> None:
    assert len(example.read_text().splitlines()) < LINES_MAX


def test_there_are_examples() -> None:
    assert SHORT
