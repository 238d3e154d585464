"""`python -m benchmarks.run` measures all that is installed, and writes docs/performance.md and the README's table."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

from forklift.bench.page import render, summary
from forklift.bench.run import Choice, complaints, run

ROOT = Path(__file__).resolve().parent.parent
README_TABLE = re.compile(r"(<!-- table: make bench -->\n).*?(\n<!-- end of table -->)", re.DOTALL)


def fill(page: Path, figures: str) -> None:
    """Put the summary into the README, without its last column, which is prose."""
    lines = [line.rsplit("|", 2)[0].rstrip() + " |" for line in figures.splitlines()]
    page.write_text(README_TABLE.sub(lambda found: found[1] + "\n".join(lines) + found[2], page.read_text()))


def main() -> int:
    known = Choice()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--rounds", type=int, help="warm rounds (5; 2 with --quick)")
    parser.add_argument("--workers", type=int, default=known.workers)
    parser.add_argument("--cases", nargs="+", choices=known.cases, default=known.cases, metavar="CASE")
    parser.add_argument("--rivals", nargs="+", choices=known.rivals, default=known.rivals, metavar="RIVAL")
    parser.add_argument("--cap", type=float, default=known.cap, help="seconds for one rival in one case")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the items and few rounds; writes nothing"
    )
    given = parser.parse_args()
    rounds = given.rounds or (2 if given.quick else known.rounds)
    if rounds < 1 or given.workers < 1:
        parser.error("--rounds and --workers must be at least 1")
    choice = Choice(tuple(given.cases), tuple(given.rivals), given.workers, rounds, given.cap, given.quick)
    findings = run(choice, shlex.join(["python", "-m", "benchmarks.run", *sys.argv[1:]]))
    if given.quick:
        print(render(findings))
    else:
        (ROOT / "docs" / "performance.md").write_text(render(findings))
        fill(ROOT / "README.md", summary(findings))
        print(summary(findings))
    words, grave = complaints(findings)
    print("\n".join(words), file=sys.stderr)
    return int(grave)


if __name__ == "__main__":
    sys.exit(main())
