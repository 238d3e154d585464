"""What a worker has bound of what it was sent: globals, attributes of classes and functions, defaults.

Everything bound has the version under which upstream sent it (`_changes`). A name is bound anew only if upstream's
version is another one, so that what the worker itself made of it (a counter, a cache, a model loaded by the
initializer) stays until upstream changes it.

Jobs overlap, and each sees what the names were when it was opened. So a **cell** holds the value of a name under one
version, a **record** the cells of one job, and a worker that turns to another job binds its cells, if any is not bound.

| a cell is | its value is found | it ends |
|---|---|---|
| bound | where the name is looked up | when another cell of the name is bound: held or lost |
| held: the latest of its name, or in a record | in the cell | with the record, or when there is a later one |
| lost | nowhere: what told it has to be read again | |

Only upstream, the process that a worker was born for, changes what is bound. Whatever comes from elsewhere, results
above all, adds missing names and changes none.
"""

from __future__ import annotations

from types import FunctionType

from forklift import _identities
from forklift._changes import take_stamps
from forklift._identities import KEPT_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from forklift._changes import Versions

    Cells = dict[tuple[str, str], "_Cell"]

__all__ = ["adopt", "become_worker", "begin", "believe", "end", "enter", "follow", "has", "leave"]

_MISSING = object()
_LOST = object()
_DEFAULTS = ("__defaults__", "__kwdefaults__")


class _Cell:
    """The value of a name under one version, while something else is bound to the name."""

    __slots__ = ("value", "version")

    def __init__(self, version: int, value: Any) -> None:
        self.version = version
        self.value = value


class _Table:
    """The cells of an owner's names: those that are bound, and those of the latest versions."""

    __slots__ = ("bound", "latest")

    def __init__(self) -> None:
        self.bound: dict[str, _Cell] = {}
        self.latest: dict[str, _Cell] = {}


class _Edition:
    """What one pickled form of a definition has told: its cells, and `_switches` when all of them were bound."""

    __slots__ = ("cells", "switches")

    def __init__(self, cells: Cells, switches: int) -> None:
        self.cells = cells
        self.switches = switches

    def is_bound(self) -> bool:
        """Whether all of its cells are bound, asked again only if any cell has given way to another."""
        if self.switches != _switches:
            for (owner, name), cell in self.cells.items():
                if _table(owner).bound.get(name) is not cell:
                    return False
            self.switches = _switches
        return True


class _Record:
    """What one job has been sent: the cells of its names, and the editions of definitions that told them."""

    __slots__ = ("_cells", "editions", "switches", "unread")

    def __init__(self) -> None:
        self._cells: Cells = {}
        self.editions: set[str] = set()
        #: Editions that were known here, and bound, so that their cells need no look for now.
        self.unread: list[_Edition] = []
        self.switches = 0

    def cells(self) -> Cells:
        for edition in self.unread:
            for key, cell in edition.cells.items():
                self._cells.setdefault(key, cell)
        self.unread.clear()
        return self._cells


_tables: dict[str, _Table] = {}
_records: dict[int, _Record] = {}
_record: _Record | None = None
_collected: Cells | None = None
# In a forked worker: what the process that it was forked from had sent.
_stamps: dict[str, dict[str, Any]] = {}
# How often a cell gave way to another. A job that was left when it was as many has all its cells bound.
_switches = 0


def become_worker(inherited: bool) -> None:
    """Forget what this process was before; see `_byvalue.become_worker`."""
    global _record, _collected
    _tables.clear()
    _records.clear()
    _record = _collected = None
    _stamps.clear()
    sent = take_stamps()
    if inherited:
        _stamps.update(sent)
        believe(looking=False)


def believe(looking: bool = True) -> None:
    """Take for bound what a forked worker has inherited, where it is what upstream has sent under a version.

    The others are bound when they are sent. So whatever may change them in place before, an initializer that was
    inherited as well, has them looked at first.
    """
    for owner, stamps in _stamps.items():
        target, table = _identities.owned(owner), _table(owner)
        for name, stamp in stamps.items():
            if target is None or name in table.latest:
                continue
            value = _get(target, name)
            if value is not _MISSING and stamp.is_proven(value, looking):
                table.bound[name] = table.latest[name] = _Cell(stamp.version, None)
    if looking:
        _stamps.clear()


def enter(job: int) -> None:
    """Turn to a job: bind what its names were when it was opened, as far as this worker has been told."""
    global _record
    record = _records.get(job)
    if record is None:
        record = _records[job] = _Record()
    elif record.switches != _switches:
        for (owner, name), cell in record.cells().items():
            target = _identities.owned(owner)
            if target is not None:
                _bind(owner, name, cell, target)
    record.switches = _switches
    _record = record


def leave(job: int) -> None:
    """Forget a job."""
    global _record
    if _records.pop(job, None) is _record:
        _record = None


# Editions --------------------------------------------------------------------------------------------------------


def has(edition: str) -> bool:
    """Say whether the job that is at work has been told of this edition of a definition."""
    return _record is not None and edition in _record.editions


def begin() -> Cells | None:
    """Collect the cells of what is read from here on; to be given to `end`."""
    global _collected
    former, _collected = _collected, {}
    return former


def end(known_as: str, former: Cells | None) -> _Edition:
    """Return what an edition has told."""
    global _collected
    cells, _collected = _collected or {}, former
    if _record is not None:
        _record.editions.add(known_as)
    return _Edition(cells, _switches - 1)


def adopt(known_as: str, edition: _Edition) -> bool:
    """The job that is at work is sent an edition that has been read before. False if it has to be read again."""
    if edition.is_bound():
        if _record is not None:
            _record.editions.add(known_as)
            _record.unread.append(edition)
        return True
    if any(cell.value is _LOST for cell in edition.cells.values()):
        return False
    if _record is not None:
        _record.editions.add(known_as)
    for (owner, name), cell in edition.cells.items():
        target = _identities.owned(owner)
        if target is not None:
            _take(owner, name, cell, target)
    return True


# Names -----------------------------------------------------------------------------------------------------------


def follow(owner: str, origin: int, offered: Versions, target: Any, fresh: bool = False) -> None:
    """Bind what was sent for the names of an owner: what is another version if it comes from upstream, else only what
    is missing. `fresh`: the target has just been made, and has nothing of its own.
    """
    if not _identities.is_upstream(origin):
        for name, entry in offered.items():
            if len(entry) > 1 and (fresh or _get(target, name) is _MISSING):
                _put(target, name, entry[1])
        return
    former = _tables.pop(owner, None) if fresh else None
    for name, entry in offered.items():
        cell = _cell(owner, name, entry, target)
        if former is not None and name in former.bound:
            _succeed(owner, name, former.bound[name], cell)
        _take(owner, name, cell, target)


def _succeed(owner: str, name: str, gone: _Cell, cell: _Cell) -> None:
    """Take the place of a cell in all jobs: its value was bound in an object that has died, and has died with it.

    So it is with a function that is part of items, and that nobody holds between two of them.
    """
    for record in _records.values():
        cells = record.cells()
        if cells.get((owner, name)) is gone:
            if cell.version == gone.version:
                cells[owner, name] = cell
            else:
                del cells[owner, name]


def _table(owner: str) -> _Table:
    table = _tables.get(owner)
    if table is None:
        if len(_tables) > 8 * KEPT_MAX:
            for gone in [owner for owner in _tables if _identities.owned(owner) is None]:
                del _tables[gone]
        table = _tables[owner] = _Table()
    return table


def _cell(owner: str, name: str, entry: tuple[int, Any] | tuple[int], target: Any) -> _Cell:
    """Return the cell for what was sent: one that is known by its version, or a new one."""
    table = _table(owner)
    latest = table.latest.get(name)
    version, value = entry[0], entry[1] if len(entry) > 1 else _MISSING
    if latest is None:
        latest = table.latest[name] = _Cell(version, value)
        own = _get(target, name) if isinstance(target, dict) else _MISSING
        if own is not _MISSING and not _identities.was_inherited(name, own):
            table.bound[name] = (
                latest  # The worker itself bound it first, and keeps it until upstream rebinds it.
            )
    elif version > latest.version:
        latest = table.latest[name] = _Cell(version, value)
    elif version < latest.version:
        return _Cell(version, value)
    return latest


def _take(owner: str, name: str, cell: _Cell, target: Any) -> None:
    """Bind a cell for the job that is at work, unless that has one already; for no job, if it is the latest."""
    table = _table(owner)
    if _record is None:
        if table.latest.get(name) is not cell:
            return
    else:
        cell = _record.cells().setdefault((owner, name), cell)
    if _collected is not None:
        _collected[owner, name] = cell
    _bind(owner, name, cell, target)


def _bind(owner: str, name: str, cell: _Cell, target: Any) -> None:
    global _switches
    table = _table(owner)
    bound = table.bound.get(name)
    if bound is cell:
        return
    if bound is not None:
        held = bound is table.latest.get(name) or any(
            record.cells().get((owner, name)) is bound for record in _records.values()
        )
        bound.value = _get(target, name) if held else _LOST
        _switches += 1
    table.bound[name] = cell
    value, cell.value = cell.value, None
    _put(target, name, value)


def _get(target: Any, name: str) -> Any:
    if isinstance(target, dict):
        return target.get(name, _MISSING)
    if name in _DEFAULTS and isinstance(target, FunctionType):
        return getattr(target, name)
    return target.__dict__.get(name, _MISSING)


def _put(target: Any, name: str, value: Any) -> None:
    if isinstance(target, dict):
        if value is _MISSING:
            target.pop(name, None)
        else:
            target[name] = value
    elif value is not _MISSING:
        setattr(target, name, value)
        if name in _DEFAULTS and isinstance(target, FunctionType):
            _identities.reshape(target)
    elif name in target.__dict__:
        delattr(target, name)
