"""What a worker sees of its world: directory, environment, search path, names; and what is seen of its output."""

from __future__ import annotations

import os
import re
import sys

import pytest

from . import work

NAMES = ["FORKLIFT_PROBE", "PATH"]


def test_working_directory(Pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Pool(1) as pool:
        assert pool.apply(work.surroundings, (NAMES,))["cwd"] == str(tmp_path)
    pool.join()


def test_environment(Pool, monkeypatch):
    for value in ("first", "second"):  # two pools: neither may see what an earlier one was given
        monkeypatch.setenv("FORKLIFT_PROBE", value)
        with Pool(1) as pool:
            seen = pool.apply(work.surroundings, (NAMES,))["environ"]
        pool.join()
        assert seen == {"FORKLIFT_PROBE": value, "PATH": os.environ["PATH"]}


def test_search_path(Pool, tmp_path, monkeypatch):
    """A module found through an entry added while running: its functions are found in workers."""
    (tmp_path / "forklift_probe_module.py").write_text("def probe(x):\n    return x + 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import forklift_probe_module

    try:
        with Pool(1) as pool:
            assert pool.map(forklift_probe_module.probe, [1, 2]) == [2, 3]
            assert str(tmp_path) in pool.apply(work.surroundings, (NAMES,))["path"]
        pool.join()
    finally:
        del sys.modules["forklift_probe_module"]


def test_process_objects(pool):
    seen = pool.apply(work.surroundings, (NAMES,))
    assert re.fullmatch(
        r"\w*Worker-\d+", seen["name"]
    )  # "ForkPoolWorker-1" there; the number is what is used
    assert seen["pid"][0] == seen["pid"][1]
    assert seen["parent"] == os.getpid()
    assert seen["main_thread"] is True


def test_names_differ(Pool, tmp_path):
    with Pool(2) as pool:
        names = pool.map(work.meet_and_tell_name, [str(tmp_path)] * 2, chunksize=1)
    pool.join()
    assert len(set(names)) == 2


def test_standard_input_is_empty(pool):
    assert pool.apply(work.surroundings, (NAMES,))["stdin"] == ""


SCRIPT = """
import threading
def make_pool(*args, **kwargs):
    if {implementation!r} == "multiprocessing":
        import multiprocessing
        return multiprocessing.get_context("fork").Pool(*args, **kwargs)
    import forklift
    return forklift.Pool(*args, **kwargs)
"""


@pytest.fixture
def program(implementation):
    return SCRIPT.format(implementation=implementation)


def test_printed_by_workers(scripts, program):
    """Written to a pipe, so buffered: it must be flushed before the worker ends."""
    source = program + (
        "def shout(x):\n"
        "    print(f'worker says {x}')\n"
        "    sys.stderr.write(f'and complains {x}\\n')\n"
        "if __name__ == '__main__':\n"
        "    pool = make_pool(2)\n"
        "    pool.map(shout, range(10))\n"
        "    pool.close()\n"
        "    pool.join()\n"
        "    print('end')\n"
    )
    ended = scripts.run(source)
    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    assert sorted(lines) == sorted([f"worker says {i}" for i in range(10)] + ["end"])
    assert sorted(ended.stderr.splitlines()) == sorted(f"and complains {i}" for i in range(10))


def test_what_was_buffered_before_is_printed_once(scripts, program):
    source = program + (
        "if __name__ == '__main__':\n"
        "    print('once', end='')\n"
        "    pool = make_pool(2)\n"
        "    pool.map(abs, range(10))\n"
        "    pool.close()\n"
        "    pool.join()\n"
    )
    assert scripts.run(source).check() == "once"


MAIN = {
    "global set by the initializer": (
        "value = None\ndef setup(x):\n    global value\n    value = x\ndef read(_):\n    return value\n",
        "pool = make_pool(2, setup, ([1, 2],))\nprint(pool.map(read, range(5), 1), value)",
        "[[1, 2], [1, 2], [1, 2], [1, 2], [1, 2]] None",
    ),
    "global counted up by the function": (
        "count = 0\ndef up(_):\n    global count\n    count += 1\n    return count\n",
        "pool = make_pool(1)\nprint(pool.map(up, range(5), 1), pool.apply(up, (0,)), count)",
        "[1, 2, 3, 4, 5] 6 0",
    ),
    "class both ways": (
        "class Thing:\n    def __init__(self, x):\n        self.x = x\n"
        "def grow(thing):\n    assert type(thing) is Thing\n    return Thing(thing.x + 1)\n",
        "pool = make_pool(2)\nback = pool.map(grow, [Thing(1), Thing(2)])\n"
        "print([type(b) is Thing for b in back], [b.x for b in back])",
        "[True, True] [2, 3]",
    ),
    "exception caught by type": (
        "class Oops(Exception):\n    pass\ndef fail(x):\n    raise Oops(x)\n",
        "pool = make_pool(2)\ntry:\n    pool.map(fail, [5])\nexcept Oops as e:\n    print(type(e) is Oops, e.args)",
        "True (5,)",
    ),
    "module imported by the script": (
        "import math\ndef root(x):\n    return math.sqrt(x)\n",
        "pool = make_pool(2)\nprint(pool.map(root, [4, 9]))",
        "[2.0, 3.0]",
    ),
    "functions that call each other": (
        "def even(n):\n    return True if n == 0 else odd(n - 1)\n"
        "def odd(n):\n    return False if n == 0 else even(n - 1)\n",
        "pool = make_pool(2)\nprint(pool.map(even, [4, 5]))",
        "[True, False]",
    ),
    "several calls share the initializer's class": (
        "class Box:\n    held = None\n"
        "def setup(x):\n    Box.held = x\n"
        "def first(_):\n    return Box.held\n"
        "def second(_):\n    return Box.held + 1\n",
        "pool = make_pool(1, setup, (5,))\nprint(pool.map(first, [0]), pool.map(second, [0]), Box.held)",
        "[5] [6] None",
    ),
}


@pytest.mark.parametrize("via", ["file", "stdin", "-c"])
@pytest.mark.parametrize(("definitions", "body", "expected"), MAIN.values(), ids=MAIN)
def test_things_of_the_main_module(scripts, program, via, definitions, body, expected):
    indented = "".join(f"    {line}\n" for line in f"{body}\npool.close()\npool.join()".splitlines())
    source = program + definitions + "if __name__ == '__main__':\n" + indented
    assert scripts.run(source, via=via).check().strip() == expected
