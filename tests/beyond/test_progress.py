"""Progress: the user's function, and tqdm's bar, for every kind of call."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import termios
import time

import numpy as np
import pytest

from forklift import Pool, _progress

BAR = """
import sys, time
from forklift import Pool

def nap(seconds):
    time.sleep(seconds)
    return seconds

with Pool(2, progress={progress!r}) as pool:
    {call}
print("done", file=sys.stderr)
"""


class Heard:
    """A progress function that remembers."""

    def __init__(self):
        self.calls = []

    def __call__(self, done, total):
        self.calls.append((done, total))

    def check(self, items, total):
        """From 0 to all, each time more, and always the same total."""
        counts = [done for done, _ in self.calls]
        assert counts[0] == 0 and counts[-1] == items
        assert counts == sorted(counts)
        if total is not None:
            assert len(set(counts)) == len(counts)
            assert {heard for _, heard in self.calls} == {total}
        else:
            assert {heard for _, heard in self.calls[:-1]} == {None}
            assert self.calls[-1] == (items, items)


def die_once(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return 1
    os.abort()


def fail_if_odd(number):
    if number % 2:
        raise ValueError(number)
    return number


def nap(seconds):
    time.sleep(seconds)
    return seconds


@pytest.fixture
def pool():
    with Pool(2) as pool:
        yield pool


@pytest.fixture
def heard():
    return Heard()


def test_map_tells_of_every_answer(pool, heard):
    assert pool.map(abs, range(20), 5, progress=heard) == list(range(20))
    heard.check(20, 20)
    assert len(heard.calls) == 5


def test_starmap_and_the_pools_own(heard):
    with Pool(2, progress=heard) as pool:
        pool.starmap(pow, [(2, 3)] * 10)
        heard.check(10, 10)
        heard.calls.clear()
        pool.map(abs, range(4), progress=False)
        assert not heard.calls


def test_map_async_tells_from_its_thread(pool, heard):
    assert pool.map_async(abs, range(20), 5, progress=heard).get(120) == list(range(20))
    heard.check(20, 20)


def test_imap_tells_what_was_taken(pool, heard):
    results = pool.imap(abs, range(10), progress=heard)
    assert heard.calls == [(0, 10)]
    for number, _ in enumerate(results, 1):
        assert heard.calls[-1] == (number, 10)
    heard.check(10, 10)


def test_imap_unordered_of_unknown_length(pool, heard):
    assert sum(pool.imap_unordered(abs, iter(range(10)), progress=heard)) == 45
    heard.check(10, None)


def test_the_length_of_an_iterator_can_be_given(pool, heard):
    pool.map(abs, iter(range(10)), progress=heard, length=10)
    heard.check(10, 10)
    heard.calls.clear()
    pool.map(abs, iter(range(10)), progress=heard)
    heard.check(10, None)


def test_no_items(pool, heard):
    assert pool.map(abs, [], progress=heard) == []
    assert heard.calls == [(0, 0)]


def test_failures_are_done_too(pool, heard):
    pool.map(fail_if_odd, range(10), on_error="return", progress=heard)
    heard.check(10, 10)
    heard.calls.clear()
    with pytest.raises(ValueError, match="1"):
        pool.map(fail_if_odd, range(10), progress=heard)
    heard.check(10, 10)
    heard.calls.clear()
    results = pool.imap(fail_if_odd, range(3), progress=heard)
    assert next(results) == 0
    with pytest.raises(ValueError, match="1"):
        next(results)
    assert next(results) == 2 and list(results) == []
    heard.check(3, 3)


def test_items_that_are_tried_again_count_once(pool, heard, tmp_path):
    paths = [str(tmp_path / str(number)) for number in range(3)]
    assert pool.map(die_once, paths, 1, retries=1, progress=heard) == [1, 1, 1]
    heard.check(3, 3)


def test_an_exception_of_the_users_function_ends_the_call(pool):
    def refuse(done, total):
        if done:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        pool.map(abs, range(100), 1, progress=refuse)
    with pytest.raises(LookupError, match="enough"):
        pool.map(abs, range(100), 1, progress=lambda done, total: refuse(1, total))
    with pytest.raises(LookupError, match="enough"):
        pool.map_async(abs, range(100), 1, progress=refuse).get(120)
    assert pool.map(abs, [-1]) == [1]


@pytest.mark.parametrize("wrong", [1, None, 2.0, b"text", []])
def test_other_values_are_refused_before_anything_is_started(wrong):
    with pytest.raises(TypeError, match="progress must be True, False, a description or a callable"):
        Pool(2, progress=wrong)


def test_without_tqdm_a_bar_is_refused_and_a_callable_works(monkeypatch, heard):
    monkeypatch.setattr(_progress, "find_spec", lambda name: None)
    for progress in (True, "words"):
        with pytest.raises(ImportError, match=r"pip install forklift\[progress\]"):
            Pool(2, progress=progress)
    with Pool(2, progress=heard) as pool:
        pool.map(abs, range(3))
    heard.check(3, 3)


def test_nothing_is_printed_where_nobody_looks(pool, capfd):
    pool.map(abs, range(10), progress=True)
    list(pool.imap(abs, range(10), progress="words"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_no_standard_error_at_all(pool, monkeypatch, stream):
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    assert pool.map(abs, [-1], progress=True) == [1]


def on_terminal(scripts, progress, call, columns=100):
    """What a program writes to a terminal of so many columns; the bar's states, one each."""
    program = scripts.directory / "bar.py"
    program.write_text(BAR.format(progress=progress, call=call))
    pid, terminal = pty.fork()
    if pid == 0:
        if columns:
            termios.tcsetwinsize(2, (24, columns))
        os.execv(sys.executable, [sys.executable, str(program)])
    written = b""
    try:
        while block := os.read(terminal, 65536):
            written += block
    except OSError:
        pass  # how Linux says that the other end has gone
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    text = written.decode()
    assert status == 0 and "done" in text, text
    return [state for state in re.split(r"[\r\n]+", text) if state.strip()]


def test_a_bar_on_a_terminal(scripts):
    states = on_terminal(scripts, "napping", "pool.map(nap, [0.1] * 20, 1)")
    last = states[-2]
    assert re.search(
        r"napping: 100%\|█+\| 20/20 \[\d\d:\d\d<00:00, +\d+\.\d+ items/s, [\d.]+ K?B in, [\d.]+ K?B out\]",
        last,
    )
    assert any(re.search(r"napping: +\d\d?%.*<\d\d:\d\d", state) for state in states[:-2]), states


def test_a_bar_of_unknown_length_counts(scripts):
    states = on_terminal(scripts, True, "list(pool.imap(nap, iter([0.01] * 20)))")
    assert re.search(r"20 items \[\d\d:\d\d, +\d+\.\d+ items/s", states[-2])


def test_the_clock_goes_on_while_an_item_takes_long(scripts):
    states = on_terminal(scripts, True, "pool.map(nap, [2.5])")
    assert any("0/1 [00:01" in state or "0/1 [00:02" in state for state in states), states


def test_an_iterator_that_is_dropped_leaves_its_bar_as_it_was(scripts):
    states = on_terminal(scripts, True, "results = pool.imap(nap, [0.01] * 20); next(results); del results")
    assert "1/20" in states[-2]


def test_a_narrow_terminal(scripts):
    states = on_terminal(scripts, "a long description of it", "pool.map(nap, [0.05] * 20, 1)", columns=40)
    assert all(len(state) <= 40 for state in states), states
    assert any(re.search(r"a long description of it", state) for state in states)


@pytest.mark.parametrize(("columns", "end"), [(60, r"items/s\]"), (80, r"items/s, [\d.]+ K?B\]")])
def test_figures_are_left_out_rather_than_cut_off(scripts, columns, end):
    last = on_terminal(scripts, "napping", "pool.map(nap, [0.01] * 700)", columns)[-2]
    assert len(last) <= columns and re.search(r"\|█+\| 700/700 .*" + end + "$", last.rstrip()), last


def test_a_terminal_that_does_not_tell_its_width(scripts):
    assert "100%" in on_terminal(scripts, True, "pool.map(nap, [0.01] * 20)", columns=0)[-2]


def test_bytes_are_shown(pool, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", shown)
    pool.map(np.copy, [np.ones(1 << 17) for _ in range(4)], progress=True)
    assert "4.19 MB in, 4.19 MB out" in shown.getvalue()
