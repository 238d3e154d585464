"""`forklift top`: what it sees of pools in other programs, and how it shows it."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from forklift import _native, cli, top
from tests.commands.test_doctor import run
from tests.patience import until
from tests.script import Script, Scripts

SLEEPS_AT_ITEM_3 = """
import forklift

def work(number):
    if number == 3:
        mark()
        await_mark("go")
    return number

if __name__ == "__main__":
    with forklift.Pool(2) as pool:
        assert pool.map(work, range(4), chunksize=1) == list(range(4))
"""


@pytest.fixture
def script(scripts: Scripts) -> Iterator[Script]:
    script = scripts.start(SLEEPS_AT_ITEM_3)
    script.begun(1)
    yield script
    (script.marks / "go").touch()


def pool_in(seen: dict[str, Any], pid: int) -> dict[str, Any]:
    (found,) = [pool for pool in seen["pools"] if pool["pid"] == pid]
    return found


def as_json(*more: str) -> dict[str, Any]:
    done = run("top", "--once", "--json", "--interval", "0.1", *more)
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    assert seen["version"] == 1
    return seen


def test_a_worker_is_shown_with_its_item(script: Script) -> None:
    (sleeper,) = script.begun(1)

    def others_are_done() -> dict[str, Any] | None:
        pool = pool_in(as_json(), script.process.pid)
        return pool if pool["figures"]["done"] == 3 else None

    pool = until(others_are_done, "the other three items")
    at_work = [worker for worker in pool["workers"] if worker["phase"] != "idle"]
    assert [(worker["pid"], worker["phase"], worker["item"]) for worker in at_work] == [
        (sleeper, "calling", 3)
    ]
    assert len(pool["workers"]) == 2
    figures = pool["figures"]
    assert (figures["submitted"], figures["chunks"], figures["calls"]) == (4, 1, 1)
    assert (figures["processes"], figures["births"], figures["deaths"]) == (2, 2, 0)
    assert pool["rates"]["items"] == 0
    assert "program.py" in pool["command"]
    assert all(worker["process"]["resident"] > 0 for worker in pool["workers"])
    (script.marks / "go").touch()
    script.run().check()
    assert not [pool for pool in as_json()["pools"] if pool["pid"] == script.process.pid]


def test_failures_and_bytes_are_counted(scripts: Scripts) -> None:
    script = scripts.start(
        """
        import forklift

        def work(data):
            if data is None:
                os._exit(3)
            if not data:
                raise ValueError
            return data

        if __name__ == "__main__":
            with forklift.Pool(1, on_error="return") as pool:
                pool.map(work, [b"x" * 1_000_000, b"", None, b"y"], chunksize=1)
                mark("done")
                await_mark("go")
        """
    )
    until((script.marks / "done").exists, "the map")
    figures = pool_in(as_json(), script.process.pid)["figures"]
    assert (figures["done"], figures["failed"], figures["deaths"]) == (4, 2, 1)
    assert figures["copied_bytes"] >= 1_000_000
    assert figures["result_bytes"] >= 1_000_000
    assert figures["calls"] == figures["chunks"] == 0
    (script.marks / "go").touch()
    script.run().check()


@pytest.mark.parametrize("columns", [60, 120])
def test_lines_fit_the_terminal(script: Script, columns: int) -> None:
    (sleeper,) = script.begun(1)
    done = run("top", "--once", "--interval", "0.1", columns=columns)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert [line for line in lines if line.startswith(f"{script.process.pid}  ")]
    (row,) = [line for line in lines if line.split()[:1] == [str(sleeper)]]
    assert row.split()[1:3] == ["calls", "3"]


def test_without_pools_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "_pids", list)
    done = CliRunner().invoke(cli.main, ["top", "--once"])
    assert done.exit_code == 0
    assert "no pool of yours is running" in done.output
    done = CliRunner().invoke(cli.main, ["top", "--once", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output)["pools"] == []


def test_a_pool_that_ends_between_two_looks(script: Script) -> None:
    pid = script.process.pid
    before = top.look()
    script.kill()
    script.process.wait()
    now = top.look()
    assert [pool.pid for pool in before.pools if pool.pid == pid] == [pid]
    assert not [pool for pool in now.pools if pool.pid == pid]
    assert not [line for line in top.view(now, before, 80) if line.text.startswith(str(pid))]
    again = top.view(before, now, 80)
    assert [line for line in again if line.text.startswith(str(pid))], "one that is new has no rates"


def test_a_pool_that_ends_during_a_look(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    pid, inner_pid = script.process.pid, top._inner_pid

    def end_first(asked: int) -> int:
        found = inner_pid(asked)
        if asked == pid:
            script.kill()
            script.process.wait()
        return found

    monkeypatch.setattr(top, "_inner_pid", end_first)
    now = top.look()
    assert script.process.returncode == -signal.SIGKILL
    assert not [pool for pool in now.pools if pool.pid == pid]
    assert not [text for text in now.troubles if str(pid) in text]


def test_what_may_not_be_read_is_counted(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    pid, scoreboards = script.process.pid, top._scoreboards
    free = top.look().hidden

    def refuse(asked: int) -> dict[int, str]:
        if asked == pid:
            raise PermissionError
        return scoreboards(asked)

    with monkeypatch.context() as patch:
        patch.setattr(top, "_scoreboards", refuse)
        now = top.look()
    assert (now.hidden > free) and not [pool for pool in now.pools if pool.pid == pid]
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    now = top.look()
    assert now.hidden >= 1 and not now.pools
    assert any("may not be read" in line.text for line in top.view(now, None, 60))


def write_words(file: int, *words: int) -> None:
    os.pwrite(file, struct.pack(f"={len(words)}Q", *words), 0)


def test_garbage_is_refused_with_words() -> None:
    magic = int.from_bytes(b"FORKLIFT", "little")
    file = os.memfd_create(_native.SCOREBOARD_NAME)
    ends = threading.Event()
    thread = threading.Thread(target=ends.wait)
    thread.start()
    try:
        Path(f"/proc/self/task/{thread.native_id}/comm").write_text(top.DRIVER)

        def trouble() -> str:
            (found,) = [text for text in top.look().troubles if f"process {os.getpid()} " in text]
            return found

        assert "too short" in trouble()
        os.ftruncate(file, 1 << 16)
        assert "no scoreboard" in trouble()
        write_words(file, magic, 10**6)
        assert "layout is number 1000000" in trouble()
        assert "the version that the program uses" in trouble()
        with pytest.raises(ValueError, match="no scoreboard"):
            _native.look_at_pool("/proc/self/exe")
        with pytest.raises(FileNotFoundError):
            _native.look_at_pool("/proc/self/fd/987654")
    finally:
        ends.set()
        thread.join()
        os.close(file)


def read_until(terminal: int, words: bytes, process: subprocess.Popen[bytes]) -> bytes:
    """What the program writes to its terminal, until these words have come."""
    seen, end = b"", time.monotonic() + 120
    while words not in seen:
        assert time.monotonic() < end, seen[-2000:]
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 1 << 16)
            except OSError:  # the other end is closed
                break
        elif process.poll() is not None:
            break
    assert words in seen, seen[-2000:]
    return seen


@pytest.mark.parametrize("way", ["q", "SIGINT", "SIGTERM"])
def test_the_screen_is_left_as_it_was(script: Script, way: str) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "forklift", "top", "--interval", "0.2"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "200"},
    )
    os.close(theirs)
    try:
        for _ in range(2):  # it is drawn more than once
            read_until(ours, str(script.process.pid).encode(), process)
        if way == "q":
            os.write(ours, b"q")
        else:
            process.send_signal(getattr(signal, way))
        left = read_until(ours, b"\x1b[?1049l", process)
        assert b"Traceback" not in left
        assert process.wait(120) == (143 if way == "SIGTERM" else 0)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_without_rich_or_a_terminal_it_names_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("top")
    assert done.returncode == 1
    assert "--once" in done.stderr and "Traceback" not in done.stderr
    assert run("top", "--json").returncode == 2
    monkeypatch.setattr(top, "find_spec", lambda name: None)
    done = CliRunner().invoke(cli.main, ["top"])
    assert done.exit_code == 1
    assert "pip install forklift[cli]" in done.output


def test_many_workers_and_odd_commands() -> None:
    process = top.Process(resident=10**9, own=10**8, cpu=1.0)
    workers = [top.Worker(slot, 1000 + slot, "calling", 1, slot, 50.0, 7, 0, process) for slot in range(200)]
    names = (
        "done",
        "failed",
        "retried",
        "calls",
        "chunks",
        "payload_bytes",
        "results_bytes",
        "spilled_bytes",
    )
    names += ("copied_bytes", "message_bytes", "lent_bytes", "result_bytes", "births", "deaths", "recycled")
    figures = dict.fromkeys(names, 10**12) | {"processes": 200, "admitted_percent": 25}
    pool = top.Pool(999, 1.0, "python " + "long " * 100, figures, workers, process)
    now = top.Look(at=100.0, pools=[pool], hidden=2, troubles=["word " * 60])
    for width in (10, 40, 60, 120, 300):
        lines = [line.text for line in top.view(now, now, width)]
        assert max(map(len, lines)) <= max(width, top.WIDTH_MIN)
        assert any("memory is short: it admits 25 %" in line for line in lines)
        assert any("50.0 s" in line for line in lines)
    cut = top.view(now, None, 80, 24)
    assert len(cut) == 24
    assert "more lines" in cut[-1].text
    earlier = dataclasses.replace(
        now, at=90.0, pools=[dataclasses.replace(pool, figures=figures | {"done": 10**12 - 50})]
    )
    assert any("5.0 items/s" in line.text for line in top.view(now, earlier, 80))


def test_commands_cannot_speak_to_the_terminal() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()", "\x1b[2Jboo"], stdin=subprocess.PIPE)
    try:
        assert child.stdin is not None
        until(lambda: top._command(child.pid).endswith("[2Jboo"), "the command line")
        assert "\x1b" not in top._command(child.pid)
    finally:
        child.kill()
        child.communicate()
