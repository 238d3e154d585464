"""All cases with all rivals, each case in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from forklift.bench import startup
from forklift.bench.cases import CASES, Case, calibrate
from forklift.bench.page import Findings
from forklift.bench.rivals import RIVALS, Forklift, is_installed, missing

EXTRA_CASES = ("startup", "memory")
STEP_SECONDS_MAX = 1200.0  # for one case with all its rivals, before it is given up
STARTUP_PROCESSES = 5
STARTUP_POOLS = 5


@dataclass(frozen=True)
class Choice:
    """What to measure, and how often."""

    cases: tuple[str, ...] = (*(case.name for case in CASES), *EXTRA_CASES)
    rivals: tuple[str, ...] = tuple(rival.name for rival in RIVALS)
    workers: int = 2
    rounds: int = 5
    """Warm rounds."""
    cap: float = 30.0
    """Seconds for one rival in one case."""
    quick: bool = False
    """A tenth of the items."""


class StepError(Exception):
    """A measuring process did not bring its figures."""


def step(module: str, *arguments: str) -> Any:
    """Run one measuring module in a session of its own, and leave none of its processes behind."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=STEP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise StepError(f"no figures within {STEP_SECONDS_MAX:.0f} s") from None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    if process.returncode != 0:
        raise StepError(f"exit code {process.returncode}")
    return json.loads(output.strip().splitlines()[-1])


def measure_case(case: Case, names: list[str], choice: Choice) -> list[dict[str, Any]]:
    arguments = [case.name, f"--workers={choice.workers}", f"--rounds={choice.rounds}", f"--cap={choice.cap}"]
    if choice.quick:
        arguments.append("--quick")
    try:
        lanes: list[dict[str, Any]] = step("forklift.bench.measure", *arguments, "--rivals", *names)
    except StepError as error:
        return [{"rival": name, "seconds": [], "failure": str(error)} for name in names]
    return lanes


def measure_startup(names: list[str], workers: int) -> dict[str, dict[str, list[float]]]:
    figures: dict[str, dict[str, list[float]]] = {}
    kinds = [kind for kind in startup.KINDS if kind != Forklift.name or Forklift.name in names]
    for _ in range(STARTUP_PROCESSES):
        for kind in kinds:
            lane = figures.setdefault(kind, {"first": [], "later": []})
            try:
                first, *later = step("forklift.bench.startup", kind, str(workers), str(STARTUP_POOLS))
            except StepError as error:
                print(f"    {kind}: {error}", file=sys.stderr)
                continue
            lane["first"].append(first)
            lane["later"] += later
    return figures


def measure_memory(names: list[str], workers: int) -> dict[str, dict[str, int] | str]:
    figures: dict[str, dict[str, int] | str] = {}
    for name in names:
        try:
            figures[name] = step("forklift.bench.memory", name, str(workers))
        except StepError as error:
            figures[name] = f"failed: {error}"
        print(f"    {name}: {figures[name]}", file=sys.stderr)
    return figures


def run(choice: Choice, command: str) -> Findings:
    """Measure what was chosen; say on the error channel how it goes. `command` is named in the page."""
    wanted = [rival for rival in RIVALS if rival.name in choice.rivals]
    names = [rival.name for rival in wanted if is_installed(rival)]
    absent = [rival.name for rival in wanted if not is_installed(rival)]
    calibrate()
    findings = Findings(command, choice.workers, choice.rounds, choice.cap, choice.quick, absent)
    if absent:
        print(f"not installed, skipped: {', '.join(absent)}", file=sys.stderr)
    for case in (case for case in CASES if case.name in choice.cases):
        print(case.title, file=sys.stderr)
        if lacking := missing(case.needs):
            print(f"    skipped: {', '.join(lacking)} not installed", file=sys.stderr)
            continue
        taking_part = [name for name in names if name not in case.without]
        findings.cases.append((case.title, measure_case(case, taking_part, choice)))
    if "startup" in choice.cases:
        print("start-up", file=sys.stderr)
        findings.startup = measure_startup(names, choice.workers)
    if "memory" in choice.cases and not missing(("numpy",)):
        print("memory", file=sys.stderr)
        findings.memory = measure_memory(names, choice.workers)
    return findings


def complaints(findings: Findings) -> tuple[list[str], bool]:
    """What failed, in words, and whether it is grave: forklift, or a wrong result of anybody."""
    failed = [lane for _, lanes in findings.cases for lane in lanes if lane["failure"]]
    grave = [lane["rival"] == Forklift.name or lane["failure"] == "wrong result" for lane in failed]
    return [f"{lane['rival']}: {lane['failure']}" for lane in failed], any(grave)
