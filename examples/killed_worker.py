"""A worker that is killed costs its item, which is named; the pool goes on."""

import os
import signal

from forklift import Pool, WorkerDied


def divide(number):
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory runs out
    return 100 / number


with Pool(2) as pool:
    try:
        pool.map(divide, [1, 2, 5, 7, 10], chunksize=1)
    except WorkerDied as error:
        print(f"{type(error).__name__}: {error}")
    else:
        raise SystemExit("the worker's death went unnoticed")

    try:
        pool.map(divide, [1, 0])
    except ZeroDivisionError as error:
        print(f"an exception of the function arrives as itself: {error!r}")

    print("the same pool, afterwards:", pool.map(divide, [1, 2, 4]))
