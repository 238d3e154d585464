"""The benchmark: `python -m benchmarks.run` measures what is installed and writes docs/performance.md."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import startup
from benchmarks.cases import CASES, Case
from benchmarks.page import Findings, render, summary
from benchmarks.rivals import RIVALS, Forklift, is_installed, missing

ROOT = Path(__file__).resolve().parent.parent
EXTRA_CASES = ("startup", "memory")
STEP_SECONDS_MAX = 1200.0  # for one case with all its rivals, before it is given up
STARTUP_PROCESSES = 5
STARTUP_POOLS = 5


class StepError(Exception):
    """A measuring process did not bring its figures."""


def step(module: str, *arguments: str) -> Any:
    """Run one measuring module in a session of its own, and leave none of its processes behind."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        cwd=ROOT,
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


README_TABLE = re.compile(r"(<!-- table: make bench -->\n).*?(\n<!-- end of table -->)", re.DOTALL)


def fill(page: Path, figures: str) -> None:
    """Put the summary into the README, without its last column, which is prose."""
    lines = [line.rsplit("|", 2)[0].rstrip() + " |" for line in figures.splitlines()]
    page.write_text(README_TABLE.sub(lambda found: found[1] + "\n".join(lines) + found[2], page.read_text()))


def measure_case(case: Case, names: list[str], chosen: argparse.Namespace) -> list[dict[str, Any]]:
    arguments = [case.name, f"--workers={chosen.workers}", f"--rounds={chosen.rounds}", f"--cap={chosen.cap}"]
    if chosen.quick:
        arguments.append("--quick")
    try:
        lanes: list[dict[str, Any]] = step("measure", *arguments, "--rivals", *names)
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
                first, *later = step("startup", kind, str(workers), str(STARTUP_POOLS))
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
            figures[name] = step("memory", name, str(workers))
        except StepError as error:
            figures[name] = f"failed: {error}"
        print(f"    {name}: {figures[name]}", file=sys.stderr)
    return figures


def parse() -> argparse.Namespace:
    case_names = [case.name for case in CASES] + list(EXTRA_CASES)
    rival_names = [rival.name for rival in RIVALS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--rounds", type=int, help="warm rounds (5; 2 with --quick)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cases", nargs="+", choices=case_names, default=case_names, metavar="CASE")
    parser.add_argument("--rivals", nargs="+", choices=rival_names, default=rival_names, metavar="RIVAL")
    parser.add_argument("--cap", type=float, default=30.0, help="seconds for one rival in one case")
    parser.add_argument("--output", type=Path, help="the page to write; none by default with --quick")
    parser.add_argument("--quick", action="store_true", help="a tenth of the items and few rounds")
    chosen = parser.parse_args()
    if chosen.rounds is None:
        chosen.rounds = 2 if chosen.quick else 5
    if chosen.rounds < 1 or chosen.workers < 1:
        parser.error("--rounds and --workers must be at least 1")
    if chosen.output is None and not chosen.quick:
        chosen.output = ROOT / "docs" / "performance.md"
    return chosen


def main() -> int:
    chosen = parse()
    wanted = [rival for rival in RIVALS if rival.name in chosen.rivals]
    names = [rival.name for rival in wanted if is_installed(rival)]
    absent = [rival.name for rival in wanted if not is_installed(rival)]
    command = shlex.join(["python", "-m", "benchmarks.run", *sys.argv[1:]])
    findings = Findings(command, chosen.workers, chosen.rounds, chosen.cap, chosen.quick, absent)
    if absent:
        print(f"not installed, skipped: {', '.join(absent)}", file=sys.stderr)
    for case in (case for case in CASES if case.name in chosen.cases):
        print(case.title, file=sys.stderr)
        if lacking := missing(case.needs):
            print(f"    skipped: {', '.join(lacking)} not installed", file=sys.stderr)
            continue
        findings.cases.append((case.title, measure_case(case, names, chosen)))
    if "startup" in chosen.cases:
        print("start-up", file=sys.stderr)
        findings.startup = measure_startup(names, chosen.workers)
    if "memory" in chosen.cases and not missing(("numpy",)):
        print("memory", file=sys.stderr)
        findings.memory = measure_memory(names, chosen.workers)
    text = render(findings)
    if chosen.output is not None:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(text)
        if chosen.output == ROOT / "docs" / "performance.md":
            fill(ROOT / "README.md", summary(findings))
    print(text if chosen.output is None else summary(findings))
    failures = [lane for _, lanes in findings.cases for lane in lanes if lane["failure"]]
    for lane in failures:
        print(f"{lane['rival']}: {lane['failure']}", file=sys.stderr)
    grave = [lane["rival"] == Forklift.name or lane["failure"] == "wrong result" for lane in failures]
    return int(any(grave))


if __name__ == "__main__":
    sys.exit(main())
