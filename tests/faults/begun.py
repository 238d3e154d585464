"""What works in place in `test_begun`, apart from it: workers import it."""

from __future__ import annotations

import os
import signal
import time

from tests.conformance.work import leave
from tests.patience import wait_for_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STEPS = 40


def nap(seconds: float) -> None:
    time.sleep(seconds)


def note(diary: str, index: int) -> None:
    """Say that this item has begun."""
    descriptor = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{index}\n".encode())
    os.close(descriptor)


def count_up(item: tuple[int, str, Any]) -> float:
    """Add one to the item's own array, forty times: forty, if the call is the first to have it."""
    index, diary, array = item
    note(diary, index)
    for _ in range(STEPS):
        array += 1.0
    return float(array.max())


def count_up_apart(index: int, diary: str, array: Any) -> float:
    return count_up((index, diary, array))


def block_counted_up(block: Any) -> Any:
    for _ in range(STEPS):
        block += 1.0
    return block


def change_and_wait(item: tuple[int, str, Any]) -> float:
    """Item 2 dies when the test says so; those before it have changed what they got, and are not answered yet."""
    index, folder, array = item
    first = float(array[0])
    array[:] = -1.0
    if index == 2 and not os.path.exists(f"{folder}/died"):
        leave(f"{folder}/begun")
        wait_for_file(f"{folder}/gate")
        leave(f"{folder}/died")
        os.kill(os.getpid(), signal.SIGKILL)
    return first
