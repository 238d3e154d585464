"""A pool in a Jupyter kernel and in IPython: functions and classes of cells are mapped, also when defined again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

CELLS = [
    "import forklift\npool = forklift.Pool(2)",
    "factor = 3\ndef scale(number):\n    return number * factor",
    "pool.map(scale, range(4))",
    "factor = 10",
    "pool.map(scale, range(4))",
    "def scale(number):\n    return -number",
    "pool.map(scale, range(4))",
    "class Box:\n    def __init__(self, number):\n        self.number = number\n"
    "    def __repr__(self):\n        return f'Box({self.number})'",
    "found = pool.map(Box, range(3)); found, all(type(box) is Box for box in found)",
    "def open_box(box):\n    return box.number + 1\npool.map(open_box, found)",
    "class Box:\n    def __init__(self, number):\n        self.number = number * 100",
    "pool.map(open_box, pool.map(Box, range(3)))",
    "pool.terminate(); pool.join()",
]
RESULTS = [
    "[0, 3, 6, 9]",
    "[0, 10, 20, 30]",
    "[0, -1, -2, -3]",
    "([Box(0), Box(1), Box(2)], True)",
    "[1, 2, 3]",
    "[1, 101, 201]",
]


def executed(cells: list[str]) -> nbformat.NotebookNode:
    """A notebook of these cells after a kernel has run them, with the state of its widgets."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3", store_widget_state=True).execute()
    return notebook


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.untidy("nbclient's event loop keeps descriptors")
def test_cells_define_map_and_redefine():
    notebook = executed(CELLS)
    results = [
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.outputs
        if output["output_type"] == "execute_result"
    ]
    assert results == RESULTS


TYPED = """\
factor = 3
def scale(number): return number * factor

import forklift
pool = forklift.Pool(2)
pool.map(scale, range(3))
factor = 10
pool.map(scale, range(3))
class Box: pass

type(forklift.map(lambda _: Box(), [1])[0]) is Box
pool.terminate()
"""


def test_lines_typed_into_ipython_are_mapped(tmp_path):
    options = ("--quick", "--simple-prompt", "--no-banner", "--no-confirm-exit", "--colors=NoColor")
    done = subprocess.run(
        [sys.executable, "-m", "IPython", *options],
        input=TYPED,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"IPYTHONDIR": str(tmp_path)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"Out\[\d+\]: (.*)", done.stdout) == ["[0, 3, 6]", "[0, 10, 20]", "True"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.untidy("nbclient's event loop keeps descriptors")
def test_the_example_runs():
    example = Path(__file__).parents[2] / "examples" / "large_arrays.ipynb"
    notebook = nbformat.read(example, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [
        output["data"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output["output_type"] == "execute_result"
    ]
    texts = [data["text/plain"] for data in shown]
    assert (texts[0], texts[1], texts[3], texts[4]) == ("92.16", "1.0", "(0, True)", "True")
    assert "class=" in shown[2]["text/html"]


BARS = [
    "import forklift\npool = forklift.Pool(2)",
    "len(pool.map(abs, range(30), progress='all of them'))",
    "len(list(pool.imap(lambda n: bytes(1000), iter(range(20)), progress=True)))",
    "len(pool.map(lambda n: 1 // n, range(3), progress='one fails', on_error='return'))",
    "pool.terminate(); pool.join()",
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.untidy("nbclient's event loop keeps descriptors")
def test_progress_is_a_widget_of_the_notebook():
    """With ipywidgets a bar is a widget, and nothing goes to the cell as text."""
    notebook = executed(BARS)
    kinds = [[output["output_type"] for output in cell.outputs] for cell in notebook.cells]
    assert kinds == [[], *[["display_data", "execute_result"]] * 3, []]
    stored = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    states = [(model["model_name"], model["state"]) for model in stored.values()]
    bars = [
        (state["value"], state["max"], state["bar_style"])
        for name, state in states
        if name == "FloatProgressModel"
    ]
    texts = [state["value"].replace("\u2007", " ") for name, state in states if name == "HTMLModel"]
    assert bars == [(30.0, 30.0, "success"), (1.0, 1.0, "success"), (3.0, 3.0, "success")]
    assert [text for text in texts if text.endswith("%")] == ["all of them: 100%", "one fails: 100%"]
    counts = [text.split()[0] for text in texts if "items/s" in text]
    assert counts == ["30/30", "20/?", "3/3"]
