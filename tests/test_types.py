"""Functions carry their types through the pool's methods: mypy and pyright agree with `typed.py` on every line.

And the stub of the native part has a word for everything.
"""

from __future__ import annotations

import ast
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


def test_every_name_of_the_stub_is_explained() -> None:
    stub = ast.parse((ROOT / "python/forklift/_native.pyi").read_text())
    named = [node for node in ast.walk(stub) if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    assert [node.name for node in named if node.name[:2] != "__" and not ast.get_docstring(node)] == []


@pytest.mark.parametrize("checker", [("mypy", "--strict"), ("pyright",)], ids=lambda checker: checker[0])
@pytest.mark.timeout(400)
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
