"""The live view of the pools that run: what `forklift top` shows.

A pool keeps a scoreboard in a memory file that has no name: each worker notes there what it is at and since when, and
the pool's driver its figures. A process that has a pool has a thread named `forklift-driver`, and the file among its
descriptors, where others of the same user can open it to read. So nothing has to be switched on, and nobody notices.
Whatever is looked at may end meanwhile: then it is not there.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from forklift import _native
from forklift import _units as units
from forklift._plain import plain

__all__ = ["Line", "Look", "Pool", "Worker", "as_object", "look", "look_twice", "view", "watch"]

DRIVER = "forklift-driver"
SCOREBOARD = f"/memfd:{_native.SCOREBOARD_NAME} "

INTERVAL_MIN, INTERVAL_MAX = 0.1, 3600.0
WIDTH_MIN = 40
WIDE = 100  # columns from which the table has all its columns

Tone = Literal["", "title", "quiet", "alert"]
CLICK_STYLES: dict[Tone, dict[str, Any]] = {
    "": {},
    "title": {"bold": True},
    "quiet": {"dim": True},
    "alert": {"fg": "yellow"},
}
RICH_STYLES: dict[Tone, str] = {"": "", "title": "bold", "quiet": "dim", "alert": "yellow"}

DOES = {"idle": "waits", "decoding": "decodes", "calling": "calls", "encoding": "encodes"}


@dataclass(frozen=True)
class Process:
    """What the kernel tells of a process."""

    resident: int  # bytes in memory, shared ones included
    own: int  # bytes of them that no file and no shared memory holds
    cpu: float  # seconds of processor time so far


@dataclass(frozen=True)
class Worker:
    """What one worker is doing."""

    slot: int
    pid: int
    phase: str
    call: int
    item: int
    since: float  # moment of the monotonic clock
    begun: int  # calls of the function that it has begun
    held: int  # bytes of large arrays in its blocks
    process: Process


@dataclass(frozen=True)
class Pool:
    """One pool."""

    pid: int
    begun: float  # moment of the monotonic clock
    command: str
    figures: dict[str, int]
    workers: list[Worker]
    process: Process


@dataclass(frozen=True)
class Look:
    """What there was at one moment."""

    at: float
    pools: list[Pool] = field(default_factory=list)
    hidden: int = 0  # processes with pools that may not be read
    troubles: list[str] = field(default_factory=list)
    load: float = 0.0
    cores: int = 1
    memory_total: int = 0
    memory_available: int = 0
    pressure: dict[str, float] = field(default_factory=dict)


class Line(NamedTuple):
    """One line of the view, and how it is to look."""

    text: str
    tone: Tone = ""


def look() -> Look:
    """Look at all pools of this user."""
    pools: list[Pool] = []
    troubles: list[str] = []
    hidden = 0
    for pid in _pids():
        try:
            if not _drives(pid):
                continue
            if _user(pid) != os.getuid():
                hidden += 1
                continue
            found, reasons = _pools_of(pid)
        except PermissionError:
            hidden += 1
        except (OSError, ValueError):
            continue  # it has ended
        else:
            pools += found
            troubles += [f"the pool of process {pid} cannot be shown: {reason}" for reason in reasons]
    return Look(
        at=time.monotonic(),
        pools=sorted(pools, key=lambda pool: pool.begun),
        hidden=hidden,
        troubles=troubles,
        load=os.getloadavg()[0],
        cores=os.cpu_count() or 1,
        memory_total=_native.memory_total(),
        memory_available=_native.memory_available(),
        pressure=_pressure(),
    )


def look_twice(interval: float) -> tuple[Look, Look | None]:
    """Look twice, `interval` seconds apart, so that there are rates: the later look, and the earlier.

    Without pools once is enough.
    """
    first = look()
    if not first.pools:
        return first, None
    time.sleep(interval)
    return look(), first


def _pids() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def _drives(pid: int) -> bool:
    """Whether the process has a pool."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    if len(threads) < 2:
        return False
    for thread in threads:
        try:
            if Path(f"/proc/{pid}/task/{thread}/comm").read_text(errors="replace").strip() == DRIVER:
                return True
        except (OSError, ValueError):
            pass  # the thread has ended
    return False


def _user(pid: int) -> int:
    return int(_status(pid, "Uid").split()[0])


def _inner_pid(pid: int) -> int:
    """The process's number in its own PID namespace."""
    return int((_status(pid, "NSpid") or str(pid)).split()[-1])


def _status(pid: int, name: str) -> str:
    text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    match = re.search(rf"^{name}:\s*(.*)$", text, re.MULTILINE)
    return match[1] if match else ""


def _scoreboards(pid: int) -> dict[int, str]:
    """The scoreboards that a process has open: the file's number, and a path to it."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        try:
            if os.readlink(path).startswith(SCOREBOARD):
                found[os.stat(path).st_ino] = path
        except FileNotFoundError:
            pass  # closed meanwhile
    return found


def _pools_of(pid: int) -> tuple[list[Pool], list[str]]:
    """The pools of a process, and why others cannot be shown."""
    pools, reasons = [], []
    inner = _inner_pid(pid)
    scoreboards = _scoreboards(pid)
    if not scoreboards:
        reasons.append("it has no scoreboard (another version of forklift, or it is about to start or end)")
    for file, path in scoreboards.items():
        try:
            seen = _native.look_at_pool(path)
        except ValueError as error:
            reasons.append(plain(str(error)))
            continue
        except FileNotFoundError:
            continue  # closed meanwhile
        if seen["pid"] != inner:
            continue  # inherited by a fork: another process's pool
        outer = {inner: pid} if inner == pid else _outer_pids(pid)
        workers = []
        for slot in seen["slots"]:
            slot["pid"] = slot["pid"] if inner == pid else outer.get(slot["pid"], 0)
            if worker := _worker(slot, file, pid):
                workers.append(worker)
        pools.append(Pool(pid, seen["begun"], _command(pid), seen["figures"], workers, _process(pid)))
    return pools, reasons


def _worker(slot: dict[str, Any], file: int, parent: int) -> Worker | None:
    """The worker of a slot, if it lives: its number may be another process's by now, but that has not this file.

    A worker on another machine has the parent write for it, whose memory and time are not the worker's.
    """
    if slot["pid"] == parent:
        return Worker(**slot, process=Process(0, 0, 0.0))
    try:
        if file not in _scoreboards(slot["pid"]):
            return None
        return Worker(**slot, process=_process(slot["pid"]))
    except OSError:
        return None


def _outer_pids(pid: int) -> dict[int, int]:
    """The numbers here of processes in the PID namespace of another (a container, say), by their numbers there."""
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    found = {}
    for other in _pids():
        try:
            if os.readlink(f"/proc/{other}/ns/pid") == namespace:
                found[_inner_pid(other)] = other
        except (OSError, ValueError):
            pass
    return found


def _process(pid: int) -> Process:
    resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    # The name in brackets may hold anything, brackets too.
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    cpu = (int(fields[11]) + int(fields[12])) / tick
    return Process(resident * page, max(resident - shared, 0) * page, cpu)


def _command(pid: int) -> str:
    """The command line, fit for a terminal: what is not printable could be an escape sequence."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    text = " ".join([os.path.basename(words[0]), *words[1:]]).strip()
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def _pressure() -> dict[str, float]:
    """Per cent of the last ten seconds in which somebody waited for it."""
    found = {}
    for name in ("cpu", "memory", "io"):
        try:
            text = Path(f"/proc/pressure/{name}").read_text()
        except OSError:
            continue  # not told by this kernel
        if match := re.search(r"^some avg10=([\d.]+)", text, re.MULTILINE):
            found[name] = float(match[1])
    return found


class _Rates(NamedTuple):
    """What happened in a second, on the mean of the time between two looks."""

    items: float
    sent: float
    received: float
    cpu: dict[int, float]
    worker_items: dict[int, float]


def _sent(figures: dict[str, int]) -> int:
    return figures["copied_bytes"] + figures["message_bytes"] + figures["lent_bytes"]


def _rates(pool: Pool, now: Look, before: Look | None) -> _Rates | None:
    seconds = now.at - before.at if before else 0.0
    former = [old for old in before.pools if (old.pid, old.begun) == (pool.pid, pool.begun)] if before else []
    if not former or seconds <= 0:
        return None
    old, known = former[0], {worker.pid: worker for worker in former[0].workers}
    both = [(worker, known[worker.pid]) for worker in pool.workers if worker.pid in known]
    return _Rates(
        items=(pool.figures["done"] - old.figures["done"]) / seconds,
        sent=(_sent(pool.figures) - _sent(old.figures)) / seconds,
        received=(pool.figures["result_bytes"] - old.figures["result_bytes"]) / seconds,
        cpu={
            pool.pid: (pool.process.cpu - old.process.cpu) / seconds,
            **{
                new.pid: (new.process.cpu - then.process.cpu) / seconds
                for new, then in both
                if new.pid != pool.pid
            },
        },
        worker_items={new.pid: (new.begun - then.begun) / seconds for new, then in both},
    )


def as_object(now: Look, before: Look | None) -> dict[str, Any]:
    """A look as plain values, for JSON: bytes, seconds, items a second. Rates are null without an earlier look."""
    found = asdict(now)
    del found["at"]
    for pool, told in zip(now.pools, found["pools"], strict=True):
        rates = _rates(pool, now, before)
        told["seconds"] = now.at - told.pop("begun")
        told["rates"] = rates and {"items": rates.items, "sent": rates.sent, "received": rates.received}
        for worker in told["workers"]:
            worker["seconds"] = max(now.at - worker.pop("since"), 0.0)
    return {"version": 1, **found}


def view(now: Look, before: Look | None, width: int, height: int | None = None) -> list[Line]:
    """Say it in lines of at most `width` columns (40 at least), and at most `height` of them."""
    width = max(width, WIDTH_MIN)
    lines = _machine(now, width)
    for trouble in now.troubles:
        lines += [Line(text, "alert") for text in _flow(trouble.split(" "), width, " ")]
    if now.hidden:
        others = "1 process" if now.hidden == 1 else f"{now.hidden} processes"
        text = f"{others} with pools may not be read (another user's, or protected)"
        lines += [Line(text, "quiet") for text in _flow(text.split(" "), width, " ")]
    if not now.pools:
        lines += [Line(""), Line("no pool of yours is running")]
    for pool in now.pools:
        lines += [Line(""), *_pool(pool, now, _rates(pool, now, before), width)]
    if height is not None and len(lines) > height:
        lines[height - 1 :] = [
            Line(f"… {len(lines) - height + 1} more lines: a taller window shows them"[:width], "quiet")
        ]
    return lines


def _machine(now: Look, width: int) -> list[Line]:
    workers = sum(len(pool.workers) for pool in now.pools)
    pieces = [
        f"{units.counted(len(now.pools), 'pool')}, {units.counted(workers, 'worker')}",
        f"load {now.load:.1f} on {units.counted(now.cores, 'core')}",
        f"memory {units.size(now.memory_available)} free of {units.size(now.memory_total)}",
    ]
    if now.pressure:
        shares = ", ".join(f"{name} {share:.0f} %" for name, share in now.pressure.items())
        pieces.append(f"pressure {shares}")
    return [Line(text, "title") for text in _flow(pieces, width)]


def _pool(pool: Pool, now: Look, rates: _Rates | None, width: int) -> list[Line]:
    figures = pool.figures
    lines = [Line(_cut(f"{pool.pid}  {pool.command}", width), "title")]
    done = [f"{units.counted(figures['done'], 'item')} done"]
    if rates:
        done.append(f"{_rate(rates.items)} items/s")
    if figures["failed"]:
        done.append(f"{units.count(figures['failed'])} failed")
    if figures["retried"]:
        done.append(f"{units.count(figures['retried'])} tried again")
    done += [
        f"{units.counted(figures['calls'], 'call')}, {units.counted(figures['chunks'], 'chunk')} under way"
    ]
    done += [f"running for {units.seconds(now.at - pool.begun)}"]
    moved = [f"sent {units.size(_sent(figures))}", f"received {units.size(figures['result_bytes'])}"]
    if rates:
        moved[0] += f", {units.size(rates.sent)}/s"
        moved[1] += f", {units.size(rates.received)}/s"
    held = [
        f"in flight {units.size(figures['payload_bytes'])}",
        f"results {units.size(figures['results_bytes'])}",
    ]
    if figures["spilled_bytes"]:
        held.append(f"spilled {units.size(figures['spilled_bytes'])}")
    own = sum(worker.process.own for worker in pool.workers)
    held.append(f"memory {units.size(pool.process.own)} here, {units.size(own)} in workers")
    staff = [
        f"{len(pool.workers)} of {units.counted(figures['processes'], 'worker')}",
        f"{figures['births']} born",
    ]
    staff += [
        f"{figures[name]} {word}"
        for name, word in (("deaths", "died"), ("recycled", "recycled"))
        if figures[name]
    ]
    for pieces in (done, moved, held, staff):
        lines += [Line(f"  {text}") for text in _flow(pieces, width - 2)]
    if figures["admitted_percent"] < 100:
        share = f"{figures['admitted_percent']} %" if figures["admitted_percent"] else "one chunk at a time"
        lines.append(Line(_cut(f"  memory is short: it admits {share}", width), "alert"))
    return [*lines, *_table(pool, now, rates, width)]


def _table(pool: Pool, now: Look, rates: _Rates | None, width: int) -> list[Line]:
    """A row for the parent, and one for each worker, in columns."""
    wide = width >= WIDE
    heads = ["pid", "does", "item", "for", "CPU", "memory"]
    if wide:
        heads += ["resident", "large arrays", "call", "begun", "items/s"]

    def cpu(pid: int) -> str:
        return units.percent(rates.cpu[pid]) if rates and pid in rates.cpu else "–"

    parent = [str(pool.pid), "parent", "", "", cpu(pool.pid), units.size(pool.process.own)]
    if wide:
        parent += [units.size(pool.process.resident), "", "", "", ""]
    rows: list[tuple[list[str], Tone]] = [(heads, "quiet"), (parent, "")]
    for worker in pool.workers:
        idle = worker.phase == "idle"
        row = [
            "cluster" if worker.pid == pool.pid else str(worker.pid),
            DOES.get(worker.phase, worker.phase),
            "–" if idle else str(worker.item),
            units.seconds(max(now.at - worker.since, 0.0)),
            cpu(worker.pid),
            units.size(worker.process.own),
        ]
        if wide:
            begun = rates.worker_items.get(worker.pid) if rates else None
            row += [
                units.size(worker.process.resident),
                units.size(worker.held),
                "–" if idle else str(worker.call),
                units.count(worker.begun),
                "–" if begun is None else _rate(begun),
            ]
        rows.append((row, "quiet" if idle else ""))
    widths = [max(len(row[column]) for row, _ in rows) for column in range(len(heads))]
    lines = []
    for row, tone in rows:
        cells = [
            text.ljust(size) if name == "does" else text.rjust(size)
            for name, text, size in zip(heads, row, widths, strict=True)
        ]
        lines.append(Line(_cut("  " + "  ".join(cells).rstrip(), width), tone))
    return lines


def _rate(value: float) -> str:
    return f"{max(value, 0.0):,.0f}" if value >= 100 else f"{max(value, 0.0):.1f}"


def _flow(pieces: list[str], width: int, between: str = " · ") -> list[str]:
    """Pieces beside each other, on as many lines as they need."""
    lines = [""]
    for piece in pieces:
        longer = f"{lines[-1]}{between}{piece}" if lines[-1] else piece
        if len(longer) > width and lines[-1]:
            lines.append(piece)
        else:
            lines[-1] = longer
    return [_cut(line, width) for line in lines]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def watch(interval: float) -> None:
    """Show it on a screen of its own, anew every `interval` seconds, until q or Ctrl-C is pressed.

    Raises `ImportError` without rich, and `OSError` where standard output is no terminal.
    """
    if find_spec("rich") is None:
        raise ImportError("a view that refreshes needs rich: pip install forklift[cli], or use --once")
    if not sys.stdout.isatty():
        raise OSError("standard output is no terminal, where a view could refresh: use --once")
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    try:
        with _clean_end(), _keys(), Live(console=console, screen=True, auto_refresh=False) as screen:
            before = None
            while True:
                now = look()
                width, height = console.size
                text = Text(no_wrap=True, overflow="crop")
                for line in view(now, before, width, height):
                    text.append(line.text + "\n", RICH_STYLES[line.tone])
                text.right_crop(1)
                screen.update(text, refresh=True)
                if _is_left(interval):
                    return
                before = now
    except KeyboardInterrupt:
        return


@contextmanager
def _clean_end() -> Iterator[None]:
    """A SIGTERM leaves the terminal as it was, too."""

    def leave(number: int, frame: object) -> NoReturn:
        sys.exit(128 + number)

    former = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def _keys() -> Iterator[None]:
    """Keys come as they are pressed, and are not shown."""
    if not sys.stdin.isatty():
        yield
        return
    former = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, former)


def _is_left(seconds: float) -> bool:
    """Wait, and say whether q was pressed meanwhile. Without a terminal to press it on, it was not."""
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return False
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], rest)[0]:
            pressed = os.read(sys.stdin.fileno(), 64)
            if not pressed or b"q" in pressed.lower():
                return True
    return False
