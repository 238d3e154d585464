"""Coverage in workers: lines that only workers run are found, however the pool ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

MODULE = """\
def work(number):
    if number % 2:
        answer = "odd"
    else:
        answer = "even"
    return answer


def never(number):
    return number
"""

TEST = """\
import forklift
import measured


def test_pool():
    with forklift.Pool(2{options}) as pool:
        assert pool.map(measured.work, range(4)) == ["even", "odd", "even", "odd"]
        {end}
"""

CONFIG = """\
[run]
patch = subprocess
"""


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ("", "pass"),
        ("", "pool.close(); pool.join()"),
        (", maxtasksperchild=1", "pass"),
        (", context='spawn'", "pass"),
        (", context='fork'", "pass"),
    ],
)
def test_lines_that_workers_run_are_covered(tmp_path, options, end):
    (tmp_path / "measured.py").write_text(MODULE)
    (tmp_path / "test_it.py").write_text(TEST.format(options=options, end=end))
    (tmp_path / ".coveragerc").write_text(CONFIG)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST"))}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "pytest_cov",
            "--cov=measured",
            "--cov-report=json",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=kept | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # to load them all takes longer than the test
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "coverage.json").read_text())["files"]["measured.py"]
    assert report["missing_lines"] == [10]
