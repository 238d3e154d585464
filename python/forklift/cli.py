"""The command line: `forklift`, or `python -m forklift`."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click

import forklift
from forklift import top as live
from forklift._plain import plain
from forklift.bench.page import render, summary
from forklift.bench.run import Choice, complaints
from forklift.bench.run import run as run_cases
from forklift.doctor import Finding, examine
from forklift.report import Report
from forklift.tuning import tune as run_experiments

__all__ = ["main"]

MARKS = {"good": ("✓", "green"), "note": ("·", "yellow"), "bad": ("✗", "red")}
WIDTH_MAX = 100


@contextmanager
def _fit_for_a_terminal() -> Iterator[None]:
    """Have errors of this block show what others named (files, options, modules, exceptions) without its escapes."""
    try:
        yield
    except click.ClickException as error:
        # The kinds of errors show their message in ways of their own.
        vars(error)["message"] = plain(error.message, lines=True)
        raise


class _Commands(click.Group):
    """The commands, with errors that are fit for a terminal."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _fit_for_a_terminal():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _fit_for_a_terminal():
            return super().invoke(ctx)


def _say(text: str, error: bool = False) -> None:
    """Print what may hold anything."""
    click.echo(plain(text, lines=True), err=error)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH_MAX}
)
@click.version_option(forklift.__version__, prog_name="forklift")
def main() -> None:
    """A process pool for large objects: what it finds on this machine, and how it does here.

    \b
    Completion of words, for bash (zsh and fish likewise):
      eval "$(_FORKLIFT_COMPLETE=bash_source forklift)"
    """


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def doctor(as_json: bool) -> None:
    """What this machine gives a pool, and what to mend.

    Ends with 0 if all is well, and with 1 if something has to be mended. Lines with a dot are worth knowing.

    \b
    Examples:
      forklift doctor
      forklift doctor --json | jq '.findings[] | select(.grade != "good")'
    """
    findings = list(examine())
    bad = any(finding.grade == "bad" for finding in findings)
    if as_json:
        report = {"version": 1, "well": not bad, "findings": [finding._asdict() for finding in findings]}
        _say(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        width = min(shutil.get_terminal_size().columns, WIDTH_MAX)
        topics = max(len(finding.topic) for finding in findings)
        for finding in findings:
            click.echo(_lines(finding, topics, width))
    sys.exit(1 if bad else 0)


def _lines(finding: Finding, topics: int, width: int) -> str:
    mark, colour = MARKS[finding.grade]
    finding = finding._replace(
        found=plain(finding.found), means=plain(finding.means), mend=plain(finding.mend)
    )
    indent = " " * (topics + 4)
    room = max(width - len(indent), 30)
    found, *more = textwrap.wrap(finding.found, room) or [""]
    lines = [f"{click.style(mark, fg=colour)} {finding.topic.ljust(topics)}  {found}"]
    lines += [indent + line for line in more]
    lines += [indent + click.style(line, dim=True) for line in textwrap.wrap(finding.means, room)]
    if finding.mend:
        lines += [indent + click.style(line, fg=colour) for line in textwrap.wrap(f"→ {finding.mend}", room)]
    return "\n".join(lines)


class _Named(click.ParamType[Any]):
    """Something in a module: `MODULE:NAME`, where the name may have dots."""

    name = "module:name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        module, colon, path = str(value).partition(":")
        if not (module and colon and path):
            self.fail(f"{value!r} is not MODULE:NAME, such as mypackage.work:transform", param, ctx)
        if (here := os.getcwd()) not in sys.path:
            sys.path.insert(0, here)
        try:
            found: Any = importlib.import_module(module)
        except ImportError as error:
            self.fail(f"{module} cannot be imported: {error}", param, ctx)
        for part in path.split("."):
            if not hasattr(found, part):
                names = ", ".join(name for name in vars(found) if not name.startswith("_")) or "nothing"
                self.fail(f"{module} has no {path!r}; it has {names[:300]}", param, ctx)
            found = getattr(found, part)
        return found


class _Numbers(click.ParamType[Any]):
    """Numbers with commas between."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        try:
            return [int(part) for part in str(value).split(",") if part]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers, such as 1,2,4", param, ctx)


class _Ways(click.ParamType[Any]):
    """Values of `inherit` with commas between, in the words of Python."""

    name = "ways"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[bool | Literal["auto"]]:
        known: dict[str, bool | Literal["auto"]] = {"true": True, "false": False, "auto": "auto"}
        try:
            return [known[part.strip().lower()] for part in str(value).split(",") if part]
        except KeyError:
            self.fail(f"{value!r} is not a list of true, false and auto", param, ctx)


class _Target(click.Path):
    """A file to be written: whether there is a place for it is asked before the minutes of work, not after."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        place = Path(value).absolute().parent
        if not place.is_dir():
            self.fail(f"there is no directory {str(place)!r} to write it to", param, ctx)
        if not os.access(place, os.W_OK) and not Path(value).exists():
            self.fail(f"{str(place)!r} may not be written to", param, ctx)
        return super().convert(value, param, ctx)


@main.command()
@click.argument("func", type=_Named(), metavar="MODULE:FUNC")
@click.argument("items", type=_Named(), metavar="MODULE:ITEMS")
@click.option("--seconds", default=30.0, show_default=True, help="How long it may take, about.")
@click.option("--processes", type=_Numbers(), help="Numbers of workers to try.")
@click.option("--chunksize", type=_Numbers(), help="Chunk sizes to try.")
@click.option("--inherit", type=_Ways(), help="Whether workers inherit the items, to try: true, false.")
@click.option("--maxtasksperchild", type=_Numbers(), help="Calls before a worker is replaced to try.")
@click.option("--threads", type=_Numbers(), help="Threads of BLAS in each worker to try.")
@click.option("--page", type=_Target(), help="Write a page with plots.")
def tune(
    func: Callable[[Any], Any],
    items: Any,
    seconds: float,
    processes: list[int] | None,
    chunksize: list[int] | None,
    inherit: list[bool | Literal["auto"]] | None,
    maxtasksperchild: list[int] | None,
    threads: list[int] | None,
    page: str | None,
) -> None:
    """Find by experiment how to map FUNC over ITEMS: a table, a verdict, and the line to paste.

    ITEMS is a list or another iterable, or a function that makes one. FUNC is called many times for the same items.
    What is to be tried is given with commas between; the automatic value is tried in any case, and nothing else where
    an option is given as ''. Without an option, some values are tried that may be good here.

    \b
    Examples:
      forklift tune work:transform work:images
      forklift tune work:transform work:images --processes 2,4 --chunksize '' --inherit true --maxtasksperchild 50
      forklift tune work:transform work:load_images --seconds 120 --page tuning.html
    """
    made = items() if callable(items) else items
    try:
        tuning = run_experiments(
            func,
            made,
            seconds=seconds,
            processes=processes,
            chunksize=chunksize,
            inherit=inherit,
            maxtasksperchild=maxtasksperchild,
            threads=threads,
            say=lambda words: _say(words, error=True),
        )
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from error
    _say(str(tuning))
    if page is not None:
        tuning.save(page)
        _say(f"\nThe page: {page}")


_KNOWN = Choice()


@main.command()
@click.option("--quick", is_flag=True, help="A tenth of the items and two rounds: about two minutes.")
@click.option(
    "--case", "cases", multiple=True, type=click.Choice(_KNOWN.cases), help="Only this; may be repeated."
)
@click.option(
    "--rival", "rivals", multiple=True, type=click.Choice(_KNOWN.rivals), help="Only this; may be repeated."
)
@click.option("--workers", type=click.IntRange(1), default=_KNOWN.workers, show_default=True)
@click.option("--rounds", type=click.IntRange(1), help="Warm rounds: 3, or 2 with --quick.")
@click.option(
    "--cap", type=click.FloatRange(0), default=10.0, show_default=True, help="Seconds for a rival in a case."
)
@click.option("--page", type=_Target(), help="Write all figures as Markdown.")
def bench(
    quick: bool,
    cases: tuple[str, ...],
    rivals: tuple[str, ...],
    workers: int,
    rounds: int | None,
    cap: float,
    page: str | None,
) -> None:
    """Measure forklift beside the other pools that are installed: the README's table, here and now.

    Every result is compared with the for loop's. Ends with 1 if forklift failed, or anybody's result was wrong.

    \b
    Examples:
      forklift bench --quick
      forklift bench --case arrays-in --case arrays-out --rounds 5
      forklift bench --rival forklift --rival joblib --page figures.md
    """
    choice = Choice(
        cases or _KNOWN.cases, rivals or _KNOWN.rivals, workers, rounds or (2 if quick else 3), cap, quick
    )
    findings = run_cases(choice, shlex.join(["forklift", *sys.argv[1:]]))
    if findings.cases:
        _say(summary(findings))
    if page is not None:
        Path(page).write_text(plain(render(findings), lines=True), encoding="utf-8")
        _say(f"\nThe page: {page}")
    words, grave = complaints(findings)
    for line in words:
        _say(line, error=True)
    sys.exit(int(grave))


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--save", "target", type=_Target(), help="Write it as .html, .json or .trace.json.")
def report(file: str, target: str | None) -> None:
    """Show a report that was saved with `report.save("….json")`, or turn it into a page or a trace.

    \b
    Examples:
      forklift report run.json
      forklift report run.json --save run.html
      forklift report run.json --save run.trace.json
    """
    try:
        found = Report.load(file)
        if target is None:
            _say(str(found))
        else:
            found.save(target)
            _say(f"written: {Path(target)}")
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from error


@main.command()
@click.option("--once", is_flag=True, help="Print it once, without a screen of its own.")
@click.option("--json", "as_json", is_flag=True, help="With --once: one JSON object, for scripts.")
@click.option(
    "--interval",
    type=click.FloatRange(live.INTERVAL_MIN, live.INTERVAL_MAX),
    default=1.0,
    show_default=True,
    help="Seconds between two looks; rates are of that time.",
)
def top(once: bool, as_json: bool, interval: float) -> None:
    """Watch your running pools: what each worker does and since when, rates, bytes, memory, pressure.

    It only reads, and the programs that it watches need nothing switched on. Press q or Ctrl-C to leave.

    \b
    Examples:
      forklift top
      forklift top --once
      forklift top --once --json | jq '.pools[].workers[] | select(.seconds > 60)'
    """
    if as_json and not once:
        raise click.UsageError("--json goes with --once")
    if not once:
        try:
            live.watch(interval)
        except (ImportError, OSError) as error:
            raise click.ClickException(str(error)) from error
        return
    now, before = live.look_twice(interval)
    if as_json:
        _say(json.dumps(live.as_object(now, before), indent=2, ensure_ascii=False))
        return
    for line in live.view(now, before, shutil.get_terminal_size().columns):
        click.echo(click.style(plain(line.text), **live.CLICK_STYLES[line.tone]))
