"""The ways in which a call can be made, each as a function: `route(func, items)` returns the results in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import forklift
from forklift import _kept
from tests.patience import until

Route = Callable[[Callable[..., Any], list[Any]], list[Any]]


def over_pool(call: Callable[[forklift.Pool, Callable[..., Any], list[Any]], Any], **options: Any) -> Route:
    def route(func: Callable[..., Any], items: list[Any]) -> list[Any]:
        with forklift.Pool(2, **options) as pool:
            results = list(call(pool, func, items))
        pool.join()
        return results

    return route


def over_executor(func: Callable[..., Any], items: list[Any]) -> list[Any]:
    with forklift.Executor(2) as executor:
        return list(executor.map(func, items, chunksize=4))


def submitted(func: Callable[..., Any], items: list[Any]) -> list[Any]:
    with forklift.Executor(2) as executor:
        return [future.result() for future in [executor.submit(func, item) for item in items]]


def one_liner(func: Callable[..., Any], items: list[Any]) -> list[Any]:
    try:
        return forklift.map(func, items, processes=2)
    finally:
        _kept._shelf.let_go()
        until(lambda: not _kept._shelf.kept and _kept._shelf.keeper is None, "nothing kept")


def unordered(pool: forklift.Pool, func: Callable[..., Any], items: list[Any]) -> list[Any]:
    """For functions whose results are all alike, since results come as they like."""
    return list(pool.imap_unordered(func, items))


ROUTES: dict[str, Route] = {
    "map": over_pool(lambda pool, func, items: pool.map(func, items)),
    "map, one by one": over_pool(lambda pool, func, items: pool.map(func, items, chunksize=1)),
    "map, one chunk": over_pool(lambda pool, func, items: pool.map(func, items, chunksize=len(items))),
    "map of an iterator": over_pool(lambda pool, func, items: pool.map(func, iter(items), chunksize=3)),
    "map with retries": over_pool(lambda pool, func, items: pool.map(func, items, retries=1)),
    "map_async": over_pool(lambda pool, func, items: pool.map_async(func, items).get(60)),
    "imap": over_pool(lambda pool, func, items: pool.imap(func, items)),
    "imap of a generator": over_pool(
        lambda pool, func, items: pool.imap(func, (item for item in items), chunksize=4)
    ),
    "imap_unordered": over_pool(unordered),
    "apply": over_pool(lambda pool, func, items: [pool.apply(func, (item,)) for item in items]),
    "apply_async": over_pool(
        lambda pool, func, items: [
            result.get(60) for result in [pool.apply_async(func, (item,)) for item in items]
        ]
    ),
    "fork": over_pool(lambda pool, func, items: pool.map(func, items), context="fork"),
    "Executor.map": over_executor,
    "submit": submitted,
    "one-liner": one_liner,
}
