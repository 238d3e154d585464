"""Programs under test in processes of their own: started from a file, with -c or through standard input.

A program tells the test what it is doing by leaving files in a directory, `marks`, whose path is its first
argument. `PRELUDE` gives every program the few names for that.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests import house
from tests.patience import until

#: A hang guard, not a promise: a program that has not ended by then is killed and the test fails.
LIMIT_SECONDS = 150.0
GONE_SECONDS = 60.0
MARK = "FORKLIFT_TESTS_SCRIPT"

PRELUDE = """\
import os, sys, time
MARKS = sys.argv[1]
def mark(name=None):
    open(os.path.join(MARKS, str(os.getpid() if name is None else name)), "w").close()
def await_mark(name, seconds=120.0):
    end = time.monotonic() + seconds
    while not os.path.exists(os.path.join(MARKS, str(name))):
        if time.monotonic() > end:
            raise SystemExit(f"no mark {name} within {seconds} s")
        time.sleep(0.01)
def mark_and_sleep(seconds):
    mark()
    time.sleep(seconds)
    return seconds
"""


def environment(key: str) -> dict[str, str]:
    """The session's environment, marked; output is buffered as it is by default."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**kept, MARK: key, "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    returncode: int
    stdout: str
    stderr: str

    def check(self) -> str:
        """Standard output of a program that must have ended well and silently."""
        assert self.returncode == 0, f"exit {self.returncode}\n{self.stdout}\n{self.stderr}"
        assert self.stderr == "", self.stderr
        return self.stdout


class Script:
    """One program that runs."""

    def __init__(self, directory: Path, source: str, via: str, options: tuple[str, ...]) -> None:
        self.key = uuid.uuid4().hex
        self.directory = directory / self.key
        self.marks = self.directory / "marks"
        self.marks.mkdir(parents=True)
        text = PRELUDE + textwrap.dedent(source)
        path = self.directory / "program.py"
        path.write_text(text)
        program = {"file": [str(path)], "stdin": ["-"], "-c": ["-c", text]}[via]
        self.process = subprocess.Popen(
            [sys.executable, *options, *program, str(self.marks)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            start_new_session=True,  # so that Ctrl-C can be sent to its whole process group
            env=environment(self.key),
        )
        self.input = text if via == "stdin" else ""

    def run(self, seconds: float = LIMIT_SECONDS) -> Ended:
        """Wait for the end, at most `seconds`, and until nothing that it started lives."""
        try:
            stdout, stderr = self.process.communicate(self.input, timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            stdout, stderr = self.process.communicate()
            raise AssertionError(f"hangs after {seconds} s\n{stdout}\n{stderr}") from None
        self.gone()
        return Ended(self.process.returncode, stdout, stderr)

    def begun(self, count: int) -> list[int]:
        """Wait until `count` workers have left a mark; return the pids."""
        return until(lambda: self._pids(count), f"{count} workers at work, see {self.marks}")

    def _pids(self, count: int) -> list[int]:
        if self.process.poll() is not None:
            raise AssertionError(f"ended early: {self.process.returncode}\n{self.process.communicate()}")
        pids = sorted(int(entry.name) for entry in self.marks.iterdir() if entry.name.isdigit())
        return pids if len(pids) >= count else []

    def interrupt(self, group: bool) -> None:
        """Ctrl-C, as a terminal sends it (to the group) or as `kill -INT` does (to the parent only)."""
        (os.killpg if group else os.kill)(self.process.pid, signal.SIGINT)

    def living(self) -> list[int]:
        """Processes of this program, orphans included, that still run."""
        return [pid for pid in house.marked(MARK, self.key) if house.alive(pid)]

    def gone(self, pids: list[int] | None = None) -> None:
        """Wait until nothing of this program lives; `pids` are looked at besides."""

        def left() -> bool:
            return not self.living() and not any(house.alive(pid) for pid in pids or ())

        try:
            until(left, "nothing left", GONE_SECONDS)
        except AssertionError:
            rest = {*self.living(), *(pid for pid in pids or () if house.alive(pid))}
            raise AssertionError("still there: " + "; ".join(map(house.describe, sorted(rest)))) from None

    def kill(self) -> None:
        for pid in [self.process.pid, *self.living()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


class Scripts:
    """The programs of one test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[Script] = []

    def start(self, source: str, *, via: str = "file", options: tuple[str, ...] = ()) -> Script:
        script = Script(self.directory, source, via, options)
        self.started.append(script)
        return script

    def run(self, source: str, *, via: str = "file", options: tuple[str, ...] = ()) -> Ended:
        return self.start(source, via=via, options=options).run()

    def end(self) -> None:
        """Kill what a failed test left, close the pipes."""
        for script in self.started:
            script.kill()
            if script.process.returncode is None:
                script.process.wait()
            for stream in (script.process.stdin, script.process.stdout, script.process.stderr):
                if stream is not None:
                    stream.close()
