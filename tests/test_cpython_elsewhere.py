"""CPython's tests of executors under another interpreter of this machine, where the running one came without them.

pyenv, for one, leaves them out of Python 3.11 and 3.12 and not of 3.13. The extension is built for the stable
interface, so the package is used as it lies.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_release import environment_of, interpreters

ROOT = Path(__file__).resolve().parent.parent
SUITE = "test.test_concurrent_futures"
PRESENT = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({SUITE!r}) is None)"
NEEDS = ("click", "cloudpickle", "psutil", "pytest", "pytest-timeout", "pytest-xdist")


def others() -> list[str]:
    """The interpreters that have the tests, the newest last."""
    found = [python for python in interpreters() if python != sys.executable]
    return [python for python in found if not subprocess.run([python, "-c", PRESENT], timeout=120).returncode]


@pytest.mark.timeout(900)
@pytest.mark.skipif(
    importlib.util.find_spec(SUITE) is not None, reason="they run here: test_cpython_executors"
)
def test_executor_suites_pass_elsewhere(tmp_path):
    having = others()
    if not having:
        pytest.skip(f"no interpreter of this machine has {SUITE}")
    python = environment_of(having[-1], tmp_path / "environment", *NEEDS)
    # Programs of these tests run in isolation, where PYTHONPATH does not count.
    (packages,) = (tmp_path / "environment" / "lib").glob("python3.*/site-packages")
    (packages / "here.pth").write_text(f"{ROOT / 'python'}\n")
    # Hundreds of interpreters are started, and each would compile the package for itself.
    subprocess.run(
        [python, "-m", "compileall", "-q", ROOT / "python", ROOT / "tests"], check=True, timeout=120
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    done = subprocess.run(
        [
            python,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "-p",
            "no:cacheprovider",
            "tests/test_cpython_executors.py",
        ],
        cwd=ROOT,
        env=kept | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
