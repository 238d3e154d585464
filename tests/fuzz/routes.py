"""The ways on which a call can be made. Each begins the call, and returns what waits for its outcomes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import forklift
from tests.fuzz.calls import Call
from tests.fuzz.oracle import Outcome

__all__ = ["ROUTES", "Route"]

Finish = Callable[[], list[Outcome]]

#: Items that a worker's death takes with it are tried again this often, where they are.
RETRIES = 20


@dataclass(frozen=True)
class Route:
    """One method."""

    form: str
    begin: Callable[..., Finish]
    ordered: bool = True
    alone: bool = False
    held: bool = False
    #: Whether exceptions of items come each in its item's place.
    trouble: bool = True
    #: Whether workers can be killed meanwhile, and the rest goes on.
    mortal: bool = True
    needs: str = ""


def outcomes(results: Iterable[Any]) -> list[Outcome]:
    """Results of a call with `on_error="return"`."""
    return [
        Outcome(error=result) if isinstance(result, BaseException) else Outcome(result) for result in results
    ]


def attempt(get: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(get())
    except Exception as error:
        return Outcome(error=error)


def mapped(method: str) -> Callable[..., Finish]:
    def begin(pool: Any, call: Call, dice: random.Random, terms: dict[str, Any]) -> Finish:
        chunksize = dice.choice([None, None, 1, 1, 2, 7])
        if method.endswith("_async"):
            pending = getattr(pool, method)(call.func, call.begin(), chunksize, on_error="return", **terms)
            return lambda: outcomes(pending.get())
        if "imap" in method:
            terms = {**terms, "buffersize": dice.choice([None, None, 1, 4])}
            stream = getattr(pool, method)(call.func, call.begin(), chunksize, on_error="return", **terms)
            return lambda: outcomes(stream)
        # What blocks is called when it is waited for, and meanwhile others begin.
        return lambda: outcomes(
            getattr(pool, method)(call.func, call.begin(), chunksize, on_error="return", **terms)
        )

    return begin


def applied(pool: Any, call: Call, dice: random.Random, terms: dict[str, Any]) -> Finish:
    return lambda: [attempt(lambda item=item: pool.apply(call.func, *item)) for item in call.begin()]


def applied_async(pool: Any, call: Call, dice: random.Random, terms: dict[str, Any]) -> Finish:
    list(call.begin())
    pending = [pool.apply_async(call.func, *item) for item in call.items]
    return lambda: [attempt(each.get) for each in pending]


def dropped(pool: Any, call: Call, dice: random.Random, terms: dict[str, Any]) -> Finish:
    """An iterator that is dropped half-way, which has workers killed that run what nobody wants."""
    call.partly = True
    method = pool.imap if call.ordered else pool.imap_unordered
    stream = method(call.func, call.begin(), dice.choice([None, 1, 3]), on_error="return", **terms)
    taken = [result for result, _ in zip(stream, range(dice.randrange(4)), strict=False)]
    del stream
    return lambda: outcomes(taken)


def cancelled(pool: Any, call: Call, dice: random.Random, terms: dict[str, Any]) -> Finish:
    """A map that is cancelled."""
    call.partly = True
    pending = pool.map_async(call.func, call.begin(), dice.choice([None, 1]), on_error="return", **terms)

    def finish() -> list[Outcome]:
        if not pending.cancel():
            return outcomes(pending.get())
        error = attempt(pending.get).error
        if not isinstance(error, forklift.CancelledError):
            raise AssertionError(f"a cancelled map gave {error!r}")
        return []

    return finish


def submitted(executor: Any, call: Call, dice: random.Random, terms: dict[str, Any]) -> Finish:
    list(call.begin())
    futures = [executor.submit(call.func, *args, **kwargs) for args, kwargs in call.items]
    return lambda: [attempt(future.result) for future in futures]


def executor_map(executor: Any, call: Call, dice: random.Random, terms: dict[str, Any]) -> Finish:
    items = call.begin()
    columns = zip(*items, strict=False) if call.form == "star" else [items]
    chunksize, buffersize = dice.choice([None, 1, 3]), dice.choice([None, None, 2])
    if call.form == "star" and len({len(item) for item in call.items}) != 1:
        return lambda: [
            attempt(lambda item=item: executor.submit(call.func, *item).result()) for item in items
        ]
    stream = executor.map(call.func, *columns, chunksize=chunksize, buffersize=buffersize)
    return lambda: outcomes(stream)


def one_liner(pool: Any, call: Call, dice: random.Random, terms: dict[str, Any]) -> Finish:
    method = forklift.starmap if call.form == "star" else forklift.map
    processes = dice.choice([1, 2])
    return lambda: outcomes(method(call.func, call.begin(), processes, on_error="return", **terms))


def joblib_parallel(pool: Any, call: Call, dice: random.Random, terms: dict[str, Any]) -> Finish:
    import joblib

    size = dice.choice(["auto", 1, 3])
    parallel = joblib.Parallel(2, backend="forklift", batch_size=size, return_as="list")
    return lambda: outcomes(parallel([(call.func, args, kwargs) for args, kwargs in call.begin()]))


ROUTES = {
    "map": Route("one", mapped("map")),
    "starmap": Route("star", mapped("starmap")),
    "map_async": Route("one", mapped("map_async")),
    "starmap_async": Route("star", mapped("starmap_async")),
    "imap": Route("one", mapped("imap")),
    "imap_unordered": Route("one", mapped("imap_unordered"), ordered=False),
    "apply": Route("apply", applied, alone=True, held=True),
    "apply_async": Route("apply", applied_async, alone=True, held=True),
    "imap, dropped": Route("one", dropped, needs="cancel"),
    "imap_unordered, dropped": Route("one", dropped, ordered=False, needs="cancel"),
    "map_async, cancelled": Route("one", cancelled, needs="cancel"),
    "forklift.map": Route("one", one_liner, mortal=False, needs="one-liners"),
    "forklift.starmap": Route("star", one_liner, mortal=False, needs="one-liners"),
    "joblib": Route(
        "apply", joblib_parallel, alone=True, held=True, trouble=False, mortal=False, needs="joblib"
    ),
}

#: Those of an `Executor`.
EXECUTOR_ROUTES = {
    "submit": Route("apply", submitted, alone=True, held=True),
    "Executor.map": Route("one", executor_map, held=True, trouble=False, mortal=False),
    "Executor.map, starred": Route("star", executor_map, held=True, trouble=False, mortal=False),
}
