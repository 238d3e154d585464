"""A pool in a Jupyter kernel: functions and classes of cells are mapped, and mapped anew when they are redefined."""

from __future__ import annotations

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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.untidy("nbclient's event loop keeps descriptors")
def test_cells_define_map_and_redefine():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    client = NotebookClient(notebook, timeout=50, kernel_name="python3")
    client.execute()
    results = [
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.outputs
        if output["output_type"] == "execute_result"
    ]
    assert results == RESULTS


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.untidy("nbclient's event loop keeps descriptors")
def test_the_example_runs():
    example = Path(__file__).parents[2] / "examples" / "large_arrays.ipynb"
    notebook = nbformat.read(example, as_version=4)
    NotebookClient(notebook, timeout=50, kernel_name="python3").execute()
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
