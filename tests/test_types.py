"""Functions carry their types through the pool's methods: mypy and pyright agree with `typed.py` on every line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TYPED = "tests/typed.py"
WRONG = {
    number
    for number, line in enumerate((ROOT / TYPED).read_text().splitlines(), start=1)
    if "# wrong:" in line
}


@pytest.mark.parametrize("checker", [("mypy", "--strict"), ("pyright",)], ids=lambda checker: checker[0])
@pytest.mark.timeout(240)
def test_mistakes_are_found_and_nothing_else(checker: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *checker, TYPED],
        cwd=ROOT,
        env=os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )
    found = {int(number) for number in re.findall(r"typed\.py:(\d+).*? error:", done.stdout)}
    assert found == WRONG, done.stdout + done.stderr
