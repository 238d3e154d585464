"""The native part. Private: its names may change with any version."""

from collections.abc import Callable
from typing import Any, Literal

DEBUG: bool
VERSION: str
SCOREBOARD_NAME: str

class Buffer:
    """Received memory, lent through the buffer protocol: writable, given back when nothing is built upon it."""

    def __len__(self) -> int: ...
    def populate(self) -> None:
        """Has the kernel find memory for all of it at once, for whoever is about to write to all of it."""
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Parcel:
    """A value that is pickled already, for whoever passes it on: where a value is encoded, it stands for that value."""

    stream: Any
    buffers: list[Any]
    nbytes: int

    def __init__(self, stream: Any, buffers: list[Any]) -> None: ...

class Store:
    """Memory of an engine's object store that this process has mapped, to be lent on without a copy."""

    held_bytes: int
    """Bytes that are held now."""

    def __init__(self, file: int, start: int, limit: int) -> None:
        """Takes over a descriptor of the store's file, which the engine has mapped at the address `start`. No more than
        `limit` bytes are held at a time.
        """
    def lease(self, bytes: int) -> Lease | None:
        """What allows parts of an object of the store's, of so many bytes, to be held; None if too much is."""
    def begin_to_keep(self) -> None:
        """From now on values of this process may be built upon the store. Whoever says so sees to it that `detach` is
        called before the engine lets go of the store. Does nothing where that could not be done.
        """
    def detach(self) -> None:
        """The engine is about to let go of the store, and others may write there: what values here are built upon
        becomes memory of this process's own.
        """

class Room:
    """How much of this process's own memory may be results that lie where an engine has read them."""

    held_bytes: int
    """Bytes that are held now."""

    def __init__(self, limit: int) -> None: ...
    def lease(self, bytes: int) -> Lease | None:
        """What allows so many bytes, which nobody else has, to stay where they lie; None if too many do."""

class Lease:
    """What may be held of an object that an engine gave out."""

def let_go(timeout: float) -> None:
    """Waits up to `timeout` seconds until something of a store was let go of, by a thread that could not tell the
    engine, and has the engine told.
    """

def place_of(parcel: Parcel, bytes_min: int, /) -> int:
    """Where the largest buffer of a parcel lies; 0 if it has no buffer of so many bytes."""

class Relay:
    """The worker's end of a channel, for a thread that stands in for a worker elsewhere."""

    def __init__(self, channel: int) -> None: ...
    def next(self) -> tuple[Any, ...] | None:
        """Waits for the next order, without the interpreter's lock; None when rung at, or for no reason. Raises
        EOFError when nothing more is wanted. Orders are tuples that begin with their name.
        """
    def ring(self) -> None:
        """Has `next` return."""
    def ready(self) -> None:
        """The worker is there, and its initializer has run."""
    def refuse(self, failure: Parcel) -> None:
        """The initializer raised: the pickled failure."""
    def answer(
        self,
        chunk: int,
        items: int,
        failed: int,
        last: bool,
        results: Any,
        spent: tuple[float, float, float],
        begun: int,
        waited: float,
        crossing: float,
        lease: Lease | None,
    ) -> None:
        """Answers the next items of a piece. `spent`: seconds of decoding, calling, encoding there; `begun` and
        `waited` of the call; `crossing`: seconds of the way there and back. `results`: their parcel, of which stays
        where it lies what the `lease` is for, or what `fetch`es it.
        """
    def note(self, at: tuple[int, int] | None) -> None:
        """Shows onlookers what the worker elsewhere is at: the first open item of a job, or nothing."""
    def give_back(self, chunk: int) -> None:
        """Gives the piece in hand back: its items cannot be rebuilt together."""
    def depart(self, at: tuple[int, int] | None, reason: str) -> None:
        """The worker elsewhere is no more, for this reason, and may have been at this item of this job."""
    def close(self) -> None:
        """Closes the channel."""

def condense(data: Any, /) -> bytes:
    """The contents of a buffer in a 256th of their size; other contents of this length have others, but by a chance of
    one in 2**64. They hold for this process and its forks."""

def departing() -> bool:
    """Whether what is pickled now may be for another machine."""

class Lent:
    """Memory that lies in shared memory and is to be lent as it lies; writable: to be written to where it lies."""

    @staticmethod
    def of(memory_of: Any, writable: bool) -> Lent | None:
        """The memory of a contiguous buffer, if it lies in shared memory, else None. `writable`: the receiver
        writes to the bytes where they lie; see `Loan::writable` for what the caller answers for.
        """
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Bulk:
    """A large `bytearray` or ASCII text on its way: pickles to a call of its type, its bytes out of band."""

class Text:
    """The memory of an ASCII text, lent read-only through the buffer protocol."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

class Numbers:
    """A list of numbers on its way: pickles to a call of `unpack`, its bytes out of band."""

def unpack(floats: bool, buffer: Any, /) -> list[float] | list[int]:
    """The list whose numbers lie in a buffer.

    Raises `ValueError` for a buffer that is not one of 64-bit numbers.
    """

class Sink:
    """What a pickler writes to: collects pieces of the stream and out-of-band buffers by reference."""

    def __init__(self) -> None: ...
    def write(self, data: Any, /) -> int:
        """Takes a piece of the stream."""
    def buffer(self, offered: Any, /) -> bool:
        """The pickler's `buffer_callback`: a false answer takes the buffer out of band."""

class Reference:
    """Stands for a shared value in a pickle: arrives as the value itself."""

    def __init__(self, key: int) -> None: ...

def fetch(key: int) -> Any:
    """The value of a key: the worker's one object, or one for whoever asks.

    Raises `LookupError` for a value that this pool does not share.
    """

def part(number: int) -> Any:
    """A part of the function whose items are being decoded, by its number. Raises `LookupError` if there is none."""

def enter_shared() -> Any:
    """Begins a `shared_arrays()`: returns NumPy's handler of before, to be given to `leave_shared`.

    Raises `RuntimeError` if NumPy is not imported.
    """

def leave_shared(former: Any, /) -> None:
    """Ends a `shared_arrays()`."""

def trim_shared() -> None:
    """Gives the memory of arrays that are gone back to the system, if no array is left."""

def shared_usage() -> tuple[int, int]:
    """What live arrays of `shared_arrays()` hold: `(bytes, segments)`."""

def await_visits(timeout: float) -> bool:
    """The interpreter is about to end, by this thread: wait until no other is in native code, at most `timeout`
    seconds, and turn those away that come later; whether that is so. See `visits.rs`.
    """

def forget_others() -> None:
    """In a fork of this process: threads that were in native code are not here."""

def are_separate(items: list[Any], /) -> bool:
    """Whether these items may share one pickle: a short look shows that no object that could be changed is in two."""

def holds_alone(kept: list[Any], /) -> bool:
    """Whether the only element of a list cannot be changed, or is in this list and nowhere else."""

def unshared(items: Any, /) -> bool:
    """Whether no object that could be changed is in two places of these items, however deep: what a function does
    to one item then is seen by no other. Only plain containers, numbers, text and arrays are looked into; false for
    anything else.
    """

class Job:
    """One call. Who feeds it and who takes its results may be two threads."""

    def next_turn(
        self, taking: bool
    ) -> int | tuple[int, list[Any], list[tuple[int, BaseException]], int] | None:
        """Waits for what is to be done next, for a while: None, nothing more will come; a number, so many items are to
        be given (0: nothing has come); `(first, values, failures, items)`, results, with None where an item failed,
        and `(index, exception)` for each of those.

        With `taking` the caller takes the results, and the fault of a job that cannot go on is raised, as
        `KeyboardInterrupt` is. Without, somebody else does, or nobody: see `abandon`.
        """
    def takes_lists(self) -> bool:
        """Whether a chunk's items are to be given together."""
    def give_list(self, items: list[Any], count: int) -> bool:
        """Takes the items that were asked for, all that there are if they are fewer than `count`. False if they are to
        go one by one: they are kept, and `wants` says what is missing.
        """
    def wants(self, count: int) -> bool:
        """Begins a chunk of up to `count` items that are given one by one; whether one is wanted."""
    def give(self, item: list[Any]) -> bool:
        """Takes an item, out of a list of one; whether another one is wanted."""
    def give_up(self, raised: bool) -> None:
        """There is no item to be given: the iterable has ended, or has raised."""
    def exhaust(self) -> None:
        """No more items come: those that were taken are all."""
    def abandon(self) -> None:
        """Nobody will take the results: they are dropped as they come, and the job runs to its end."""
    def submit_one(self, item: Any) -> int:
        """Submits one item, as its own chunk, without waiting for credit: `apply`. Returns its weight in bytes."""
    def submit_parcel(
        self,
        parcel: Parcel,
        first: int,
        count: int,
        lead: int,
        retained: bool,
        lease: Lease | None = None,
    ) -> None:
        """Submits a chunk that was encoded elsewhere, the only one of its job: of `lead` and `count` items, those after
        the first `lead` are to be done, and the first of these is called `first`. What `take_parcel` gives is for it.
        What a `lease` is for is lent from there.
        """
    def take_parcel(
        self, parcel: Parcel
    ) -> tuple[int, int, int, Parcel | BaseException, tuple[float, float, float]] | Literal[False] | None:
        """As `take`, for results that are passed on as they are: `(first, items, failed, outcome, seconds)`, where
        `outcome` is their parcel, or the exception of one item that was lost, and `seconds` those of decoding, calling,
        encoding. What was submitted is submitted again from `parcel` when a worker has damaged it; False if it has to
        come in another form, its items apart.
        """
    def take(
        self, first: int | None = None, timeout: float | None = None
    ) -> tuple[int, list[Any], list[tuple[int, BaseException]], int] | tuple[()] | None:
        """Waits up to `timeout` seconds (None: for ever) for results: those from item `first` on, or any. Returns
        `(first, values, failures, weight)`, `()` when all have been taken, None when the time is up. `weight` is
        what to tell `consume`, in bytes; an item that was lost weighs nothing, and is taken like any other.
        """
    def wait(self, timeout: float | None = None) -> bool:
        """Waits up to `timeout` seconds (None: for ever) until nothing more will come; whether that is so."""
    def check_ours(self) -> None:
        """Raise `RuntimeError` in a fork of the process that made the call, where nothing more will ever come."""
    def finished(self) -> bool:
        """Whether nothing more will come."""
    def submitted(self) -> int:
        """Items submitted so far."""
    def ending(self) -> Ending:
        """What can be asked whether the job is finished when this is gone."""
    def answered(self) -> int:
        """Items answered so far."""
    def id(self) -> int:
        """The number under which the end of this job is announced."""
    def telemetry(self) -> Telemetry:
        """The record of the call."""
    def consume(self, items: int, bytes: int) -> None:
        """The consumer of a streamed job has taken so many items, and results of this weight."""
    def cancel(self) -> None:
        """Nothing more is wanted."""

class Ending:
    """The end of a job. It keeps no answers alive."""

    def has_come(self) -> bool:
        """Whether nothing more will come."""

class Telemetry:
    """The record of one call: figures of which `forklift.report` makes a report."""

    def bytes(self) -> tuple[int, int]:
        """Payload bytes so far: to the workers, from them."""
    def figures(self) -> dict[str, Any]:
        """All figures as they stand."""

class Pool:
    """A driver thread and its workers."""

    def __init__(
        self,
        *,
        processes: int,
        origin: str,
        command: list[str],
        environment: list[tuple[str, str]],
        preparation: bytes,
        initializer: tuple[Callable[..., object], tuple[Any, ...]] | Parcel | None,
        maxtasksperchild: int | None,
        worker_memory_limit: int | None,
        machine_root: str | None = None,
        message_cost: float | None = None,
        seconds_per_byte: float = 0.0,
        chunk_bytes: int | None = None,
        window_bytes: int,
        stream_bytes: int,
        share_bytes: int,
        results_bytes: int,
        memory_limit: int,
        spill_dirs: list[str],
        spill_named: bool,
        spill_strict: bool,
    ) -> None: ...
    def open(
        self,
        function: tuple[Callable[..., Any], int] | Reference,
        *,
        items: int | None = None,
        chunksize: int = 0,
        held: bool = True,
        streamed: bool = False,
        buffersize: int = 0,
        announce: bool = False,
        retries: int = 0,
        task_timeout: float | None = None,
        apply: bool = False,
        sharing: bool = True,
        numbered: bool = False,
    ) -> Job:
        """Begins a job. `function` is `(callable, shape)`, which crosses once per worker; `chunksize` 0 means
        chosen while running; `held` if all items exist before they are pulled; a `streamed` job waits for its
        consumer, at most `buffersize` items ahead of it (0: bytes alone count); `apply` jobs that follow one
        another share a record; `sharing`: whether items are looked through for what they share;
        `numbered`: the items are those of `range(items)`.
        """
    def share(
        self, value: Any, one_object: bool = True, key: int | None = None, lease: Lease | None = None
    ) -> int:
        """Sends a value once to each worker that may need it, from now on until `unshare`; returns its key. A
        worker has one object for all its calls, or, without `one_object`, builds one for each over the same memory.
        What a `lease` is for is lent from there.
        """
    def has_room(self) -> bool:
        """Whether one more call may be encoded without credit: what those hold that are not done is less than the
        window.
        """
    def wait_for_room(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for such room; whether there is some."""
    def unshare(self, key: int) -> None:
        """Drops a shared value everywhere."""
    def ended(self, timeout: float | None = None) -> int | None:
        """Waits up to `timeout` seconds (None: for ever) for the end of a job that was opened with `announce`; its
        number. None when the time is up, or for `wake`. One thread only may wait.
        """
    def wake(self) -> None:
        """Has `ended` return."""
    def fork_order(self, timeout: float) -> tuple[int, int, int, int] | Literal[False] | None:
        """Waits up to `timeout` seconds for a worker to be forked from this process: `(slot, generation, channel,
        life)`, None if there is none, or False when no more will come.
        """
    def forked(self, slot: int, generation: int, pid: int | None, reason: str) -> None:
        """How a fork order went: the child's pid, or why there is none."""
    def is_ours(self) -> bool:
        """Whether this process made the pool."""
    def want(self) -> None:
        """Workers are wanted before the first job."""
    def preload(self, modules: bytes) -> None:
        """Modules (a pickled list of names) that the zygote imports before further births."""
    def resize(self, processes: int) -> None:
        """Another number of seats."""
    def close(self) -> None:
        """No more jobs come."""
    def unbound(self) -> None:
        """Streamed jobs no longer wait for their consumers."""
    def terminate(self) -> None:
        """Everything ends now."""
    def join(self, timeout: float | None = None) -> bool:
        """Waits up to `timeout` seconds (None: for ever) for the last worker to go; whether it has."""
    def is_over(self) -> bool:
        """Whether the last worker is gone."""
    def staff(self) -> list[tuple[int, int, int | None, str, int, int]]:
        """The workers: `(slot, generation, pid or None, state, calls, held bytes)` each."""
    def counters(self) -> dict[str, int]:
        """What the pool has done since it was made, by name."""

def serve(descriptor: int) -> int:
    """Serves one pool until it says stop or goes away.

    Blocks without holding the interpreter's lock. `descriptor` is the worker's end of the channel, which this call
    takes over. Returns the process's exit code.

    Raises `RuntimeError` if the parent makes no sense.
    """

def cores() -> int:
    """Cores that this process may use: affinity and cgroup quota."""

def memory_total() -> int:
    """Bytes of memory that this machine or its cgroup has."""

def memory_available() -> int:
    """Bytes of memory that this process can still count on."""

def check_environment() -> None:
    """Raises `ValueError` for a variable of the environment that means nothing to a pool."""

def check_spill_dir(directory: str) -> None:
    """Raises `OSError` unless files can be made in this directory."""

def private_descriptors() -> list[int]:
    """Descriptors that a fork of this process has to close."""

def look_at_pool(path: str) -> dict[str, Any]:
    """Looks at the scoreboard under this path. Raises `OSError` where it cannot be read, and `ValueError` where it
    is none, or is of another version.
    """
