"""Tasks of `test_joblib`, apart from it: workers import them, and so would import pytest."""

from __future__ import annotations

import os
import signal
import time


def square(number):
    return number * number


def worker(*_):
    return os.getpid()


def fail_at(number, at):
    if number == at:
        raise ValueError(f"no {number}")
    return number


def mark_and_sleep(folder, seconds):
    open(f"{folder}/{os.getpid()}", "w").close()
    time.sleep(seconds)
    return os.getpid()


def first_then_write(array, number):
    first = float(array[0])
    array[0] = number + 100.0
    return first


def variable(name):
    return os.environ.get(name)


def told():
    return os.environ["TOLD"]


def tell(word):
    os.environ["TOLD"] = word


def die(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number
