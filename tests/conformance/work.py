"""What the workers do in the conformance tests: functions and classes that a worker can import by name.

Workers import it, of each test's pool anew, and so it imports next to nothing: what takes a dataclass is in `values`.
"""

from __future__ import annotations

import os
import sys
import time

from tests.patience import wait_for_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STATE: dict[str, Any] = {"value": "never set"}


def square(x: Any) -> Any:
    return x * x


def identity(x: Any) -> Any:
    return x


def nothing(_: Any) -> None:
    return None


def add(a: Any, b: Any) -> Any:
    return a + b


def collect(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def pid(_: Any = None) -> int:
    return os.getpid()


def type_name(x: Any) -> str:
    return f"{type(x).__module__}.{type(x).__qualname__}"


def nap(job: tuple[int, float]) -> int:
    index, seconds = job
    time.sleep(seconds)
    return index


def wait_for(path: str) -> str:
    """Return once the test has made `path`."""
    wait_for_file(path, 120)
    return path


def leave(path: str) -> None:
    """Make an empty file."""
    open(path, "w").close()


def announce_and_wait(paths: tuple[str, str]) -> str:
    """Make the first file, wait for the second."""
    leave(paths[0])
    return wait_for(paths[1])


def touch(job: tuple[str, int]) -> int:
    directory, index = job
    leave(f"{directory}/{index}")
    return index


def touch_or_fail(job: tuple[str, int]) -> int:
    """Item 0 fails, every other one leaves a file."""
    if job[1] == 0:
        raise ValueError("item 0")
    return touch(job)


def meet(directory: str) -> int:
    """Return when two processes are in here at once, which proves two workers."""
    leave(f"{directory}/{os.getpid()}")
    deadline = time.monotonic() + 120
    while len(os.listdir(directory)) < 2:
        if time.monotonic() > deadline:
            raise RuntimeError("nobody came")
        time.sleep(0.005)
    return os.getpid()


class Plain(Exception):
    """An exception of a module, with the ordinary constructor."""


class Detailed(Exception):
    """An exception with a constructor and attributes of its own, which pickles well."""

    def __init__(self, code: int, detail: dict[str, int]) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class Decorated(Exception):
    """An exception that gets attributes after it was made."""


def fail_at_three(x: int) -> int:
    if x == 3:
        raise ValueError("three", x)
    return x


def raise_value(x: Any) -> Any:
    raise ValueError("a value that is wrong", x)


def raise_given(error: BaseException) -> None:
    raise error


def raise_detailed(code: int) -> None:
    raise Detailed(code, {"code": code})


def raise_decorated(x: int) -> None:
    error = Decorated("decorated")
    error.extra = [x]  # type: ignore[attr-defined]
    error.add_note("a note of the user")
    raise error


def raise_outer(x: Any) -> None:
    """Fail with a cause: both must be in the traceback."""
    try:
        inner_failure(x)
    except KeyError as error:
        raise RuntimeError("outer") from error


def inner_failure(x: Any) -> None:
    raise KeyError(f"inner {x}")


def raise_large(size: int) -> None:
    raise ValueError("x" * size)


def recurse(x: int) -> int:
    return recurse(x + 1) + 1


def set_state(value: Any) -> None:
    STATE["value"] = value


def set_states(*args: Any, **kwargs: Any) -> None:
    STATE["value"] = (args, kwargs)


def get_state(_: Any = None) -> Any:
    return STATE["value"]


def count_up(_: Any = None) -> tuple[int, int]:
    """The pid, and how often this function was called in this process."""
    STATE["count"] = STATE.get("count", 0) + 1
    return os.getpid(), STATE["count"]


def log_birth(path: str) -> None:
    """An initializer that leaves a line."""
    with open(path, "a") as log:
        log.write(f"{os.getpid()}\n")


def increment_shared(_: Any = None) -> int:
    """Work on the multiprocessing.Value that the initializer left."""
    counter = STATE["value"]
    with counter.get_lock():
        counter.value += 1
        return counter.value


def put_in_queue(x: Any) -> None:
    STATE["value"].put(x)


def put_in(job: tuple[Any, Any]) -> None:
    """Put a value into the queue (a manager's proxy) that came with it."""
    queue, value = job
    queue.put(value)


def surroundings(names: list[str]) -> dict[str, Any]:
    """What a worker sees of its world."""
    import multiprocessing
    import threading

    me, parent = multiprocessing.current_process(), multiprocessing.parent_process()
    return {
        "cwd": os.getcwd(),
        "environ": {name: os.environ.get(name) for name in names},
        "path": list(sys.path),
        "name": me.name,
        "pid": (me.pid, os.getpid()),
        "parent": parent.pid if parent is not None else None,
        "main_thread": threading.current_thread() is threading.main_thread(),
        "stdin": sys.stdin.read() if sys.stdin is not None else "",
    }


class Squares:
    """A sequence of the oldest kind: only __len__ and __getitem__."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return index * index


def lock_at_three(x: int) -> Any:
    """Item 3 gives what cannot be pickled."""
    import threading

    return threading.Lock() if x == 3 else x


def run_pool_of(implementation: str, count: int) -> list[int]:
    """A pool in a process that is itself a child."""
    from tests.conftest import load_pool

    with load_pool(implementation)(2) as pool:
        return pool.map(square, range(count))


def state_type(_: Any = None) -> str:
    return type(STATE["value"]).__name__


def set_item(table: Any, key: int) -> None:
    table[key] = key


def meet_and_tell_name(directory: str) -> str:
    import multiprocessing

    meet(directory)
    return multiprocessing.current_process().name
