"""The same faults in every pool: `make faults`, which writes docs/failures.md.

Each fault of each pool is a process of its own (`benchmarks.trials`) with a limit of time. What it says on the way is
judged here, and what it leaves behind is counted, then ended by pid.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.trials import BAD, ITEMS, WAYS, Way
from forklift.bench.page import machine, table
from forklift.bench.rivals import missing
from tests.house import marked

MARK = "FORKLIFT_TRIAL"
#: A pool that has not answered by then hangs. Ray takes several seconds to start.
LIMIT_SECONDS = 10.0
SLOW_STARTERS = {"Ray": 15.0, "joblib": 5.0}
#: What may still be on its way out when its parent ends.
GRACE_SECONDS = 2.0
OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "failures.md"

#: What is done, and in what words the table says it.
FAULTS = {
    "kill": "a worker is killed (SIGKILL) at an item",
    "exit": "an item calls `os._exit(3)`",
    "segfault": "an item makes its worker segfault",
    "hang": "an item never ends, and has a limit of 1 s",
    "initializer": "the initializer calls `os._exit(4)`",
    "idle": "an idle worker is killed (SIGKILL)",
    "result": "an item's result cannot be pickled",
    "exception": "an item's exception cannot be unpickled",
    "interrupt": "Ctrl-C during the call",
    "terminated": "the program gets SIGTERM during the call",
    "killed": "the program gets SIGKILL during the call",
}
#: Faults of the whole program: the signal, and whether it goes to all its processes, as a terminal's does.
SIGNALS = {
    "interrupt": (signal.SIGINT, True),
    "terminated": (signal.SIGTERM, False),
    "killed": (signal.SIGKILL, False),
}

WORDS = f"""\
Each pool has two workers and is given {ITEMS} items, of which one (but for the last three rows) goes wrong. It is used
so that a caller gets as much as it can give: one future an item where it has futures, an iterator where it has one,
`on_error="return"` for forklift. Then the same pool is asked for {ITEMS} other items.

- **survived**: the call ended, everything that was not struck itself has its result, the one that was has an error of
  its own, and the same pool answered the next call. In the rows of the initializer and of Ctrl-C, where no item can be
  right: the call ended with an error, and, after Ctrl-C, the same pool answered the next call.
- **n results lost**: so many items beyond the one that was struck have no result, though nothing was wrong with them.
- **not reported**: the item that was struck has no error by which the caller could tell it from others; the call as a
  whole raised.
- **unusable**: the next call on the same pool failed.
- **hangs**: no answer within {LIMIT_SECONDS:.0f} s (more for pools that take long to start), and none to be expected:
  the process was then killed.
- **runs on**: the item that should have been stopped was still running after its call.
- **n tracebacks**: so many were printed on the terminal, beyond the program's own.
- **n processes left**, **n files left**: there {GRACE_SECONDS:.0f} s after the program had ended, as processes, or
  in the temporary directory and /dev/shm.
- **—**: the pool has no such thing (an initializer, a limit of time for an item)."""


@dataclass
class Finding:
    """What a trial said, and what it left."""

    lines: list[dict[str, Any]]
    hung: bool
    processes: int
    files: int
    shared: set[str]
    tracebacks: int
    said: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for line in self.lines:
            self.said.update(line)

    def results(self) -> int:
        return sum("item" in line and "error" not in line for line in self.lines)


def descendants(mark: str) -> list[psutil.Process]:
    found = []
    for pid in marked(MARK, mark):
        try:
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def shared_files() -> set[str]:
    folder = Path("/dev/shm")
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def try_one(way: type[Way], fault: str) -> Finding:
    """Run one trial to its end, or to the end of its time."""
    mark = uuid.uuid4().hex
    folder = Path(tempfile.mkdtemp(prefix="trial-"))
    before = shared_files()
    environment = {**os.environ, MARK: mark, "TMPDIR": str(folder), "RAY_DISABLE_IMPORT_WARNING": "1"}
    how = "sleep" if fault in SIGNALS else fault
    code = "import sys; from benchmarks.trials import main; main(*sys.argv[1:])"
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, way.name, how],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            start_new_session=True,
        )
    limit = LIMIT_SECONDS + SLOW_STARTERS.get(way.name, 0.0)
    try:
        hung = not play(process, fault, folder, limit)
        end = time.monotonic() + GRACE_SECONDS
        left = descendants(mark)
        while left and time.monotonic() < end:
            time.sleep(0.05)
            left = descendants(mark)
        lines = [json.loads(line) for line in (folder / "out").read_text().splitlines() if line[:1] == "{"]
        tracebacks = (folder / "err").read_text(errors="replace").count("Traceback (most recent call last)")
        if hung:  # it will be killed, and cannot be blamed for what that leaves
            return Finding(lines, True, 0, 0, set(), tracebacks)
        shared = shared_files() - before
        return Finding(lines, False, len(left), files_in(folder), shared, tracebacks)
    finally:
        end_all(process, mark)
        shutil.rmtree(folder, ignore_errors=True)


def files_in(folder: Path) -> int:
    """What is there beyond what the trial itself made: a directory of a pool's counts as one."""
    own = ("out", "err", "at-", "hangs-")
    return sum(not entry.name.startswith(own) for entry in folder.iterdir())


def play(process: subprocess.Popen[bytes], fault: str, folder: Path, limit: float) -> bool:
    """Wait for the end of the trial, and strike where it is the program that is struck; whether it came in time."""
    end = time.monotonic() + limit
    if fault in SIGNALS:
        while len(list(folder.glob("at-*"))) < 2 and time.monotonic() < end and process.poll() is None:
            time.sleep(0.02)
        number, group = SIGNALS[fault]
        if process.poll() is None:
            (os.killpg if group else os.kill)(process.pid, number)
        for path in folder.glob("at-*"):
            path.unlink()
    try:
        process.wait(max(0.1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def end_all(process: subprocess.Popen[bytes], mark: str) -> None:
    """Kill the trial and all that it has started, until nobody is left."""
    for _ in range(100):
        left = descendants(mark)
        if process.poll() is None:
            process.kill()
        for other in left:
            try:
                other.kill()
            except psutil.NoSuchProcess:
                continue
        if not left and process.poll() is not None:
            return
        time.sleep(0.05)


def judge(fault: str, finding: Finding) -> str:
    """The finding in the words that the page explains."""
    said = finding.said
    if "lacking" in said:
        return "—"
    left = []
    if finding.processes:
        left.append(f"{finding.processes} {'process' if finding.processes == 1 else 'processes'} left")
    files = finding.files + len(finding.shared & shared_files())
    if files:
        left.append(f"{files} {'file' if files == 1 else 'files'} left")
    if fault in ("terminated", "killed"):
        return ", ".join(left) or "nothing left"
    if fault == "interrupt" and finding.tracebacks:
        left.insert(0, f"{finding.tracebacks} tracebacks")
    return ", ".join([*(troubles(fault, finding) or ["**survived**"]), *left])


def troubles(fault: str, finding: Finding) -> list[str]:
    said, words = finding.said, []
    wanted = 0 if fault in ("initializer", "interrupt") else ITEMS if fault == "idle" else ITEMS - 1
    lost = wanted - finding.results()
    struck = any(line.get("item") == BAD and "error" in line for line in finding.lines)
    answered = "call" in said or "interrupted" in said or (wanted and (struck or lost <= 0))
    if finding.hung and not (fault == "initializer" and any("error" in line for line in finding.lines)):
        words.append("**hangs**")
    if lost > 0:
        words.append(f"{lost} {'result' if lost == 1 else 'results'} lost")
    if not finding.hung and wanted == ITEMS - 1 and not struck and answered:
        words.append("not reported")
    if "running" in said:
        words.append("runs on")
    if not finding.hung and fault != "initializer" and said.get("again") is not True:
        words.append("unusable")
    return words


def versions(ways: list[type[Way]]) -> str:
    names = []
    for way in ways:
        distribution = {"deadpool": "deadpool-executor"}.get(way.package or "", way.package)
        names.append(f"{way.name} {importlib.metadata.version(distribution)}" if distribution else way.name)
    return ", ".join(names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", action="append", choices=[way.name for way in WAYS], help="only this one")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="only this one")
    options = parser.parse_args()
    chosen = [way for way in WAYS if not options.pool or way.name in options.pool]
    absent = [way.name for way in chosen if way.package and missing((way.package,))]
    ways = [way for way in chosen if way.name not in absent]
    findings: dict[str, list[Finding]] = {}
    for fault in options.fault or FAULTS:
        findings[fault] = []
        for way in ways:
            findings[fault].append(try_one(way, fault))
            print(f"{fault:12} {way.name:22} {judge(fault, findings[fault][-1])}", flush=True)
    # Judged once more at the end: what others made in /dev/shm meanwhile has gone by then.
    rows = [["", *(way.name for way in ways)]]
    rows += [[FAULTS[fault], *(judge(fault, one) for one in found)] for fault, found in findings.items()]
    if options.pool or options.fault:
        return 0
    parts = [
        "# What becomes of a fault",
        "Written by `make faults`; one trial each. Ray takes part where it is installed (`pip install ray`).",
        f"Not installed, so not tried: {', '.join(absent)}." if absent else "",
        machine(),
        f"Pools: {versions(ways)}.",
        WORDS,
        table(rows),
    ]
    OUTPUT.write_text("\n\n".join(part for part in parts if part) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
