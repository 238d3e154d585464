"""Memory that workers see as it lies: `shared_arrays()` and `Shared`."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from forklift import _native

T = TypeVar("T")

__all__ = ["Shared", "share", "shared_arrays"]


class Shared(Generic[T]):
    """A value that crosses once to each worker; made by `Pool.share`.

    In a worker it is the value itself. Here `value` is what was shared.

    Workers that are forked for a call (`inherit=True`) have the value already. They find it as an item or argument, and
    within tuples, dicts and lists (of up to 100 elements, four deep), which are copied for that; in what a function
    closes over, its defaults and its module's globals, in the arguments of a `partial`, and in attributes of an object
    that is called or whose method is. Within other objects they find what this process has there: the `Shared`, which
    has the `value`.
    """

    def __init__(self, pool: _native.Pool, key: int, value: T) -> None:
        self.value = value
        self._reference = _native.Reference(key)
        self._close = weakref.finalize(self, _unshare, pool, key)
        self._close.atexit = False

    def close(self) -> None:
        """Have the workers drop the value. Calls that still refer to it fail."""
        self._close()

    def __enter__(self) -> Shared[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        self._check_open()
        return self._reference.__reduce__()

    def _inherited(self) -> T:
        """The value, in a worker that was forked with it."""
        self._check_open()
        return self.value

    def _check_open(self) -> None:
        if not self._close.alive:
            raise ValueError("this shared value was closed")

    def __repr__(self) -> str:
        return f"<forklift.Shared {type(self.value).__name__}{'' if self._close.alive else ' (closed)'}>"


def share(pool: _native.Pool, value: T) -> Shared[T]:
    """See `Pool.share`."""
    try:
        key = pool.share(value)
    except Exception as error:
        from forklift._failure import refusal

        raise refusal(value, "value", error)  # noqa: B904
    return Shared(pool, key, value)


def _unshare(pool: _native.Pool, key: int) -> None:
    if pool.is_ours():
        pool.unshare(key)


@contextlib.contextmanager
def shared_arrays() -> Iterator[None]:
    """Within this context, new large NumPy arrays of this thread lie in shared memory.

    Arrays of 64 KiB and more, and views of them, then cross to workers as they lie: no byte is copied, whatever pool
    they go to. They stay in shared memory for as long as they live, also after the context. A worker sees them
    copy-on-write: what it writes is its own, and is forgotten after the item.

    Until a call is done, the arrays that were passed to it should keep their contents, since a worker reads them when
    it gets to them. (`multiprocessing` copies them, at a moment that is not defined either.) What a generator yields is
    copied if anyone else still references it, so that one buffer may be yielded again and again.

    ```python
    with forklift.shared_arrays():
        images = [load(path) for path in paths]
    results = pool.map(work, images)
    ```
    """
    import numpy  # noqa: F401  The native code finds it among the modules.

    former = _native.enter_shared()
    try:
        yield
    finally:
        _native.leave_shared(former)
