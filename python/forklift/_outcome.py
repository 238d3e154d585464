"""Failures as values: what stands in an item's place until somebody can raise it.

A worker answers a chunk with a list of results. Where an item failed, a `Failure` stands in its place; where an item
could not be sent, one stands in the list of items and the worker hands it back. So one item's failure never disturbs
its neighbours. The parent revives each as the exception that the user gets.

The native code calls these functions; each imports what it needs only once something failed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forklift._failure import Packed
    from forklift.errors import EncodeError, ForkliftError


class Failure:
    """An exception, packed for the way between processes."""

    __slots__ = ("packed",)

    def __init__(self, packed: Packed) -> None:
        self.packed = packed

    def __reduce__(self) -> tuple[type[Failure], tuple[Packed]]:
        return Failure, (self.packed,)


# In the worker ---------------------------------------------------------------------------------------------------


def caught(error: BaseException) -> Failure:
    """Pack what the user's function raised. Its traceback is let go of, and with it what the frames held."""
    from forklift._failure import pack_exception

    failure = Failure(pack_exception(error))
    error.__traceback__ = None
    return failure


def unsendable_result(result: object, error: BaseException) -> Failure:
    """Say that a result could not be pickled."""
    from forklift._failure import pack_result_failure

    return Failure(pack_result_failure(result, error))


def undecodable(what: str, error: BaseException) -> Failure:
    """Say that the function, or an item, could not be unpickled in the worker."""
    from forklift._failure import pack_exception
    from forklift.errors import DecodeError

    wrapped = DecodeError(
        f"{what} could not be rebuilt in the worker: {type(error).__name__}: {error}", "worker"
    )
    wrapped.__cause__ = error
    return Failure(pack_exception(wrapped))


# In the parent ---------------------------------------------------------------------------------------------------


def unsendable_item(item: object, index: int, error: BaseException) -> Failure:
    """Say which part of an item cannot be pickled. The item stays; only its failure crosses, and comes back."""
    from forklift._failure import encode_error, pack_exception

    del error  # The search for the culprit finds it again, at the smallest part.
    failure: EncodeError = encode_error(item, f"items[{index}]", index)
    return Failure(pack_exception(failure))


def unsendable_function(function: object) -> EncodeError:
    """Say which part of a function (or of what it closes over) cannot be pickled."""
    from forklift._failure import encode_error

    return encode_error(function, getattr(function, "__name__", "function"))


def undecodable_result(error: BaseException) -> ForkliftError:
    """Say that results could not be unpickled in the parent."""
    from forklift.errors import DecodeError

    wrapped = DecodeError(f"a result could not be rebuilt: {type(error).__name__}: {error}", "parent")
    wrapped.__cause__ = error
    return wrapped


def revive(failure: Failure, index: int | None) -> BaseException:
    """Turn a failure into the exception that the user gets."""
    from forklift._failure import unpack_exception

    return unpack_exception(failure.packed, index)


def worker_died(index: int, pid: int | None, exitcode: int | None) -> ForkliftError:
    """Make the exception for an item whose worker died."""
    from forklift.errors import WorkerDied

    return WorkerDied(index, pid, exitcode)


def initializer_failed(pickled: bytes) -> BaseException:
    """Turn the failure of an initializer, as the worker pickled it, into the exception that every call raises."""
    import _pickle

    error = revive(_pickle.loads(pickled), None)
    error.add_note("forklift: raised by the pool's initializer; no worker can start")
    return error


def births_failed(reason: str) -> ForkliftError:
    """Say why no worker can be started."""
    from forklift.errors import ForkliftError

    return ForkliftError(f"the pool cannot start workers: {reason}")


def terminated() -> ForkliftError:
    """Say that the pool ended before the call did."""
    from forklift.errors import ForkliftError

    return ForkliftError("the pool was terminated before this call was done")


def cancelled() -> ForkliftError:
    """Say that the call was cancelled."""
    from forklift.errors import ForkliftError

    return ForkliftError("this call was cancelled")
