"""Functions that workers are given by name."""

from __future__ import annotations

import logging
import os
import random
import time
import warnings

import numpy as np


def rosenbrock(x):
    return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


def log_probability(x):
    return -0.5 * float(np.sum(x**2))


def nap_and_draw(_):
    """Who draws what from the two global generators; so slow that all workers take part."""
    time.sleep(0.05)
    return os.getpid(), random.random(), float(np.random.rand())


def kind_of_generator(_):
    """The kind of NumPy's global generator."""
    return type(np.random.get_bit_generator()).__name__


def draw(seed):
    return float(np.random.default_rng(seed).standard_normal())


def warn_and_log(number):
    warnings.warn(f"warned of {number}", stacklevel=1)
    logging.getLogger("work").warning("logged %d", number)
    return number


def put(queue, lock, number):
    with lock:
        queue.put(number)
    return number


def keep(lock, queue):
    global kept
    kept = lock, queue


def put_kept(number):
    lock, queue = kept
    return put(queue, lock, number)


def send(connection, number):
    connection.send(number)
    connection.close()


def group_mean(group):
    name, frame = group
    return name, float(frame["value"].mean())


def load(path):
    return np.load(path)
