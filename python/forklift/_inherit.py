"""Maps by inheritance: workers forked from the user's process for one call, which see the items as they are.

Only the items' numbers travel, so nothing of function or items is pickled. A `Crew` is a native pool of its own for one
job. It is closed as soon as the job is open, and so ends by itself with the job, whichever way that ends.
"""

from __future__ import annotations

import itertools
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from forklift import _births, _identities, _native
from forklift._inherited import Stand

if TYPE_CHECKING:
    from forklift.pool import Pool

Inherit = bool | Literal["auto"]

# How an item becomes arguments, as `pool` and the native worker count it.
_ONE, _STAR = 0, 1

# How long the end of a pool waits for the workers of its maps, which were sent SIGKILL.
END_SECONDS = 10.0

# So many items have their types known by name to what is forked; those of the main module are in any case.
TYPES_MAX = 64

# What workers find when they ask by number: function, shape, items, the initializer with its arguments, and what stands
# for shared values.
_held: dict[int, tuple[Callable[..., Any], int, Any, tuple[Any, ...] | None, tuple[Any, ...]]] = {}
_numbers = itertools.count(1)


class Call:
    """The function of a crew's job: applies the user's, in a forked worker, to the item of a number."""

    __slots__ = ("_function", "_stand", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._function: Callable[..., Any] | None = None
        self._stand: Stand | None = None

    def __call__(self, index: int) -> Any:
        function, shape, items, _, shares = _held[self.number]
        item = items[index]
        if shares:
            if self._stand is None or self._function is None:
                self._stand = Stand(shares)
                self._function = self._stand.function(function)
            function, item = self._function, self._stand.argument(item)
        return function(*item) if shape == _STAR else function(item)

    def __reduce__(self) -> tuple[type[Call], tuple[int]]:
        return Call, (self.number,)


def initialize(number: int) -> None:
    """Run the initializer of the user's pool in a worker of a crew."""
    start = _held[number][3]
    if start is not None:
        start[0](*start[1])


class Crew:
    """The workers of one call, and what they inherit. No process is started before `open`."""

    def __init__(self, pool: Pool, function: Callable[..., Any], shape: int, items: Any) -> None:
        self._pool: Pool | None = pool
        self._what = (function, shape, items, pool._initializer, tuple(pool._shares))
        self._native: _native.Pool | None = None

    def open(self, _function: object, _shape: int, *, sample: object, **options: Any) -> _native.Job:
        """Start the workers and begin the job, in the manner of `Pool._open`; it is fed with numbers of items.

        Whoever cancels the job ends the workers: nothing else needs them, and the native pool is closed.
        """
        pool, self._pool = self._pool, None
        assert pool is not None
        number = next(_numbers)
        plan: dict[str, Any] = dict(pool._plan)
        plan["processes"] = max(1, min(plan["processes"], options["items"]))
        _held[number] = self._what
        _births.import_before_forks()
        _identities.introduce(map(type, itertools.islice(self._what[2], TYPES_MAX)))
        try:
            native = self._native = _native.Pool(
                origin="fork",
                command=[],
                environment=[],
                preparation=b"",
                initializer=None if self._what[3] is None else (initialize, (number,)),
                **plan,
            )
            crews = pool._crews
            crews.add(self)
            thread = threading.Thread(
                target=_serve, args=(self, native, number, crews), name="forklift-births", daemon=True
            )
            pool._threads.add(thread)
            thread.start()
        except BaseException:
            del _held[number]
            pool._crews.discard(self)
            if self._native is not None:
                self._native.terminate()
            raise
        finally:
            del self._what
        try:
            job = native.open((Call(number), _ONE), held=True, numbered=True, **options)
            native.close()  # It ends with its only job.
            pool._check_running()  # Another thread may have ended the pool in the meantime.
        except BaseException:
            native.terminate()
            raise
        return job

    def terminate(self) -> None:
        """Kill the workers; the call raises `ForkliftError`."""
        if self._native is not None and self._native.is_ours():
            self._native.terminate()

    def unbound(self) -> None:
        """No longer wait for the consumer of a streamed job."""
        if self._native is not None and self._native.is_ours():
            self._native.unbound()


def _serve(crew: Crew, native: _native.Pool, number: int, crews: set[Crew]) -> None:
    try:
        _births._serve_forks(native)
    finally:
        _held.pop(number, None)
        crews.discard(crew)


def end(crews: Iterable[Crew]) -> None:
    """Kill the workers of all crews, and wait for their end."""
    ending = list(crews)
    for crew in ending:
        crew.terminate()
    for crew in ending:
        if crew._native is not None and crew._native.is_ours():
            crew._native.join(END_SECONDS)


# Which way a call goes -------------------------------------------------------------------------------------------


class Way(NamedTuple):
    """How a call goes. It is the call's alone: other threads may be calling the same pool meanwhile."""

    begin: Callable[..., _native.Job]
    """What opens the job, in the manner of `Pool._open`."""
    feed: Any
    """What is fed to it: the items, or their numbers."""
    choice: str
    """Whether workers inherit the items, and why (not), for a report."""
    inherited_bytes: int = 0
    """What they see of items without a copy, estimated."""


def check(inherit: object, method: str) -> None:
    """Check the option, for a pool or a call. `method` is the pool's: "zygote", "fork", "spawn" or "relays"."""
    if not (isinstance(inherit, bool) or inherit == "auto"):
        raise ValueError(f"inherit must be True, False or 'auto', not {inherit!r}")
    if inherit is True and method == "spawn":
        raise ValueError("inherit=True forks workers from this process, which context='spawn' forbids")
    if inherit is True and method == "relays":
        raise ValueError(
            "inherit=True forks workers from this process, and those of backend are on other machines"
        )


def way(
    pool: Pool,
    inherit: Inherit,
    function: Callable[..., Any],
    shape: int,
    iterable: Iterable[Any],
    *,
    blocking: bool = False,
    streamed: bool = False,
) -> Way:
    """Decide which way a call goes: the pool's own with the iterable, or a crew and numbers."""
    check(inherit, pool._method)
    pool._check_running()
    choice = "inherit: inherit=True"
    if inherit is False:
        return Way(pool._open, iterable, "copy: inherit=False")
    if inherit == "auto":
        chosen, choice = _auto(pool, iterable, blocking)
        if not chosen:
            return Way(pool._open, iterable, choice)
    else:
        if streamed and not hasattr(iterable, "__len__"):
            raise TypeError(
                "inherit=True needs items that exist when workers are forked: "
                f"give imap a list, not {type(iterable).__name__}, or inherit=False"
            )
        _warn(pool)
    # A list may be changed before the last worker is forked; a range, text or tuple cannot be.
    items = iterable if type(iterable) in (tuple, range, str, bytes) else tuple(iterable)
    from forklift import _estimate

    begin = Crew(pool, function, shape, items).open
    return Way(begin, range(len(items)), choice, _estimate.held(items))  # type: ignore[arg-type]


def _warn(pool: Pool) -> None:
    """Tell, once per pool, which threads make the forks that were asked for unsafe."""
    if pool._inherit_warned:
        return
    from forklift import _threads

    names = _threads.foreign()
    if names:
        pool._inherit_warned = True
        warnings.warn(
            f"inherit=True forks this process while it has other threads ({', '.join(names)}): a worker waits for "
            "ever for a lock that one of them holds in that moment",
            RuntimeWarning,
            stacklevel=5,
        )


def _auto(pool: Pool, iterable: object, blocking: bool) -> tuple[bool, str]:
    """Decide for `inherit="auto"`, cheapest questions first. Returns the choice and its reason in words."""
    if not blocking:
        return False, "copy: only map and starmap inherit by themselves, since items could change meanwhile"
    kind = type(iterable)
    if kind is not list and kind is not tuple:
        return False, f"copy: the items are in no list or tuple but in {kind.__name__}"
    items: list[Any] | tuple[Any, ...] = iterable  # type: ignore[assignment]
    from forklift import _estimate

    if len(items) < 2 or not _estimate.may_be_costly(items):
        return False, "copy: the items are few, or cheap to encode"
    if pool._cluster is not None:
        return False, "copy: the workers are on other machines"
    if not pool._inherit_free:
        return False, "copy: the pool has a context, an initializer or maxtasksperchild"
    if pool._shares:
        return False, "copy: the pool shares values, which a forked function may see as `Shared`"
    import multiprocessing

    from forklift import _threads

    if sys.version_info >= (3, 14) or multiprocessing.get_start_method(allow_none=True) not in (None, "fork"):
        return False, "copy: multiprocessing would not fork this process"
    copying, touching, why_not = _estimate.copying(items, pool._processes)
    if why_not:
        return False, f"copy: {why_not}"
    forking = _estimate.forking(min(pool._processes, len(items)))
    figures = (
        f"encoding and decoding is estimated at {copying * 1e3:.0f} ms, forking at {forking * 1e3:.0f} ms "
        f"and {touching * 1e3:.0f} ms for the pages that workers touch"
    )
    if copying < _estimate.COPYING_SECONDS_MIN or copying - touching < _estimate.MARGIN * forking:
        return False, f"copy: {figures}"
    if _estimate.forks_may_fail():
        return False, "copy: this system refuses to promise memory twice"
    names = _threads.foreign()
    if names:
        return False, f"copy: forking is not known to be safe with these threads: {', '.join(names)}"
    if not _native.unshared(items):
        return False, "copy: items share an object that a function could change, or hold what is not plain"
    return True, f"inherit: {figures}"
