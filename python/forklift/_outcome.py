"""Failures as values: what stands in an item's place until somebody can raise it.

A worker answers a chunk with a list of results. Where an item failed, a `Failure` stands in its place; where an item
could not be sent, one stands in the list of items and the worker hands it back. So one item's failure never disturbs
its neighbours. The parent revives each as the exception that the user gets.

The native code calls these functions; each imports what it needs only once something failed.
"""

from __future__ import annotations

from forklift.errors import MemoryLimitExceeded

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
    try:
        from forklift._failure import pack_exception, pack_exit
    except Exception:  # A worker that has used up its descriptors cannot even read a module.
        return Failure(_bare(error))
    ends_programs = isinstance(error, (SystemExit, KeyboardInterrupt, GeneratorExit))
    failure = Failure(pack_exit(error) if ends_programs else pack_exception(error))
    error.__traceback__ = None
    return failure


def _bare(error: BaseException) -> Packed:
    """Pack an exception with nothing but what is there; see `_failure.pack_exception`."""
    from _pickle import dumps

    error.__traceback__ = None
    name = type(error).__qualname__
    try:
        data = dumps(error, 5) if isinstance(error, Exception) else None
    except BaseException:
        data = None
    return data, name, "(...)", f"{name}: its traceback could not be formatted in the worker\n", ()


def unsendable_result(result: object, error: BaseException) -> Failure:
    """Say that a result could not be pickled."""
    try:
        from forklift._failure import pack_result_failure
    except Exception:  # As in `caught`.
        return Failure(_bare(error))
    return Failure(pack_result_failure(result, error))


def undecodable(what: str, error: BaseException) -> Failure:
    """Say that the function, or an item, could not be unpickled in the worker."""
    import os

    try:
        from forklift._failure import pack_exception, words
    except Exception:  # As in `caught`.
        return Failure(_bare(error))
    from forklift.errors import DecodeError

    node = os.environ.get("FORKLIFT_NODE")
    place = "the worker" if node is None else f"a worker on node {node}"
    wrapped = DecodeError(f"{what} could not be rebuilt in {place}: {words(error)}", "worker")
    if node is not None and isinstance(error, ImportError):
        wrapped.add_note(f"forklift: what {what} needs has to be installed on the nodes of the cluster too")
    wrapped.__cause__ = error
    return Failure(pack_exception(wrapped))


# In both -----------------------------------------------------------------------------------------------------------


def too_large(asked: int, available: int) -> MemoryLimitExceeded:
    """Say that the memory of the machine (or cgroup) does not hold what is to be copied into it."""
    held = "what runs on this machine or in its cgroup: no more memory is available for a copy of it"
    return MemoryLimitExceeded(asked, available, held)


# In the parent ---------------------------------------------------------------------------------------------------


def unsendable_item(item: object, index: int, error: BaseException) -> Failure:
    """Say which part of an item cannot be pickled. The item stays; only its failure crosses, and comes back."""
    from forklift._failure import encode_error, pack_exception

    if isinstance(error, MemoryError):
        return Failure(pack_exception(error))
    del error  # The search for the culprit finds it again, at the smallest part.
    failure: EncodeError = encode_error(item, f"items[{index}]", index)
    return Failure(pack_exception(failure))


def refused_item(error: MemoryLimitExceeded, index: int) -> Failure:
    """Say that there is no memory to send an item."""
    from forklift._failure import pack_exception

    return Failure(pack_exception(MemoryLimitExceeded(error.asked, error.limit, error.holder, index)))


def unsendable_function(function: object, error: Exception) -> BaseException:
    """Say which part of a function (or of what it closes over) cannot be pickled, if that is why it was not sent."""
    from forklift._failure import refusal

    return refusal(function, getattr(function, "__name__", "function"), error)


def undecodable_results(
    stream: memoryview, buffers: list[object], first: int, count: int, error: BaseException
) -> tuple[list[object], list[tuple[int, BaseException]]]:
    """Results of `count` items from `first` on could not be unpickled together: find those that can be.

    Returns all values, with None where there is none, and the failures with the indices of their items.
    """
    from forklift._salvage import salvage

    outcomes = salvage(bytes(stream), buffers, count) if count > 1 else None
    if outcomes is None:
        outcomes = [(None, error)] * count
    failures = [
        (first + offset, undecodable_result(failure))
        for offset, (_, failure) in enumerate(outcomes)
        if failure is not None
    ]
    return [value for value, _ in outcomes], failures


def unfetched_results(
    first: int, count: int, error: BaseException
) -> tuple[list[object], list[tuple[int, BaseException]]]:
    """Results of `count` items from `first` on were left on a cluster, and cannot be had any more."""
    from forklift._failure import words
    from forklift.errors import WorkerDied

    reason = f"it was done, but its result was left on the cluster and is lost: {words(error)}"
    failures: list[tuple[int, BaseException]] = [
        (index, WorkerDied(index, None, None, reason)) for index in range(first, first + count)
    ]
    return [None] * count, failures


def undecodable_result(error: BaseException) -> BaseException:
    """Say that a result could not be unpickled in the parent."""
    from forklift._failure import words
    from forklift.errors import TEXT_CHARS_MAX, DecodeError, remote_traceback

    wrapped = DecodeError(f"a result could not be rebuilt: {words(error)}", "parent")
    if len(str(error)) > TEXT_CHARS_MAX:
        wrapped.__cause__ = remote_traceback(words(error))
    else:
        wrapped.__cause__ = error
    return wrapped


def revive(failure: Failure, index: int | None) -> BaseException:
    """Turn a failure into the exception that the user gets."""
    from forklift._failure import unpack_exception

    return unpack_exception(failure.packed, index)


def worker_died(
    index: int, pid: int | None, exitcode: int | None, evidence: tuple[str, str] | None
) -> ForkliftError:
    """Make the exception for an item whose worker died."""
    from forklift.errors import WorkerDied, death_in_words

    return WorkerDied(index, pid, exitcode, death_in_words(exitcode, evidence))


def timed_out(index: int, seconds: float) -> ForkliftError:
    """Make the exception for an item that took too long."""
    from forklift import errors

    return errors.TaskTimeout(index, seconds)


def outgrown(index: int, pid: int, own: int, held: int, limit: int) -> ForkliftError:
    """Make the exception for an item whose worker was stopped for the memory that it held."""
    from forklift.errors import MemoryLimitExceeded

    parts = f"{own - held:,} bytes of private memory and {held:,} of large arrays"
    holder = f"worker {pid}, stopped at 1.5 times its limit with {parts}"
    return MemoryLimitExceeded(own, limit, holder, index)


def no_room(asked: int, limit: int, holder: str, index: int) -> ForkliftError:
    """Make the exception for results that fit neither into memory nor on a disk."""
    return MemoryLimitExceeded(asked, limit, holder, index)


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


def births_died(pid: int | None, exitcode: int | None, evidence: tuple[str, str] | None) -> ForkliftError:
    """Say how workers die before they are ready."""
    from forklift.errors import death_in_words

    if evidence is not None and evidence[0] == "told":
        return births_failed(evidence[1])
    return births_failed(
        "one after the other died before it was ready, in the initializer or at its start; "
        f"the last, with pid {pid}: {death_in_words(exitcode, evidence)}"
    )


def terminated() -> ForkliftError:
    """Say that the pool ended before the call did."""
    from forklift.errors import ForkliftError

    return ForkliftError("the pool was terminated before this call was done")


def cancelled() -> ForkliftError:
    """Say that the call was cancelled."""
    from forklift import errors

    return errors.CancelledError("this call was cancelled")
