"""`forklift bench`: the table, the page, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forklift", "bench", *arguments],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_case_is_measured_beside_another_pool(tmp_path):
    chosen = [
        "--case",
        "small",
        "--rival",
        "for loop",
        "--rival",
        "multiprocessing.Pool",
        "--rival",
        "forklift",
    ]
    done = command("--quick", *chosen, "--rounds", "1", "--page", "figures.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    head, _, row, *_ = done.stdout.splitlines()
    assert [cell.strip() for cell in head.split("|")[1:5]] == [
        "warm median, ms",
        "for loop",
        "multiprocessing.Pool",
        "forklift",
    ]
    assert "2000 small integers" in row
    assert all(float(cell) > 0 for cell in row.split("|")[2:5])
    page = (tmp_path / "figures.md").read_text()
    assert "forklift bench --quick --case small" in page
    assert "A quick look" in page


def test_unknown_cases_are_refused_with_those_that_there_are(tmp_path):
    done = command("--case", "sorting", cwd=tmp_path)
    assert done.returncode == 2
    assert "arrays-in" in done.stderr
