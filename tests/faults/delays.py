"""What takes too long in `test_limits_of_items`, apart from it: workers import it, and so would import pytest."""

from __future__ import annotations

import os
import signal
import time

from tests.conformance.work import leave

FOREVER = 3600.0


def sleep_at(item):
    index, bad, how = item
    if index == bad:
        if how == "sleep":
            time.sleep(FOREVER)
        elif how == "loop":
            sum(iter(int, 1))  # native code, with the interpreter's lock
        elif how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(FOREVER)
        elif how == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(FOREVER)
    return index * 2


class SlowToDecode:
    def __init__(self, index, bad):
        self.index, self.bad = index, bad

    def __setstate__(self, state):
        self.__dict__ = state
        if self.index == self.bad:
            time.sleep(FOREVER)


class SlowToEncode:
    def __getstate__(self):
        time.sleep(FOREVER)


def index_of(item):
    return item.index


def slow_result(index):
    return SlowToEncode() if index == 2 else index


def die_until(item):
    """Dies until the file has so many bytes: one for each attempt."""
    index, folder, deaths = item
    with open(f"{folder}/{index}", "ab") as attempts:
        attempts.write(b"x")
    if os.path.getsize(f"{folder}/{index}") <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return index


def change_then_die(item):
    """Changes its argument in place before it dies for the first time."""
    array, folder = item
    seen = float(array.sum())
    array[:] = -1
    try:
        os.mkdir(f"{folder}/died")
    except FileExistsError:
        return seen
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def say_and_sleep(folder):
    leave(f"{folder}/{os.getpid()}")
    time.sleep(FOREVER)
