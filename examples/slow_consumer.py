"""`imap` takes from its iterable only as fast as results are consumed, so an endless source is fine."""

import itertools
import time

import numpy as np

from forklift import Pool

AHEAD = 8  # items taken in advance of the consumer
taken = 0


def frames():
    """An endless camera."""
    global taken
    for number in itertools.count():
        taken += 1
        yield np.full((500, 1000), float(number))


with Pool(2) as pool:
    for number, brightness in enumerate(pool.imap(np.mean, frames(), buffersize=AHEAD)):
        time.sleep(0.01)  # a consumer that is slower than the workers
        assert brightness == number
        assert taken <= number + 1 + AHEAD
        if number == 20:
            break

print(f"21 results used, {taken} frames taken")
