"""The workloads: what each maps over, the function, and when two results are the same.

Data are made when a case begins and freed with its process, so that no case pays for another's memory.
This module imports nothing heavy by itself: workers import it to find a function, and should not pay for
pandas when they add up floats.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ARRAY_FLOATS = 1_000_000  # 8 MB
TABLE_FLOATS = 16_000_000  # 128 MB
LIST_FLOATS = 10_000
BLOB_BYTES = 2_000_000
FRAME_ROWS = 200_000
MATRIX_SIDE = 50_000
MATRIX_ENTRIES = 500_000


@dataclass(frozen=True)
class Case:
    """One workload."""

    name: str
    title: str
    count: int
    make: Callable[[int], list[Any]]
    function: Callable[..., Any]
    same: Callable[[Any, Any], bool]
    needs: tuple[str, ...] = ()
    call: Literal["map", "apply"] = "map"
    inherit: bool = False
    """Forklift is told to fork workers for the call, which see the items as they are."""
    bind: Callable[[], Any] | None = None
    """Makes a value that the function is given first, through `functools.partial`: it crosses with the function."""
    small: bool = False
    """Rivals that send items one by one unless told otherwise are told, as their manuals advise."""
    without: tuple[str, ...] = ()
    """Rivals that would take minutes for it."""

    def items(self, quick: bool) -> list[Any]:
        """The items: all of them, or a tenth for a quick look."""
        return self.make(max(1, self.count // 10) if quick else self.count)

    def called(self) -> Callable[[Any], Any]:
        """The function as it is mapped."""
        return self.function if self.bind is None else partial(self.function, self.bind())


def make_lists(count: int) -> list[list[float]]:
    """Lists of floats that are all different objects, as those of a parsed file are."""
    return [[(row * LIST_FLOATS + column) * 0.5 for column in range(LIST_FLOATS)] for row in range(count)]


def make_arrays(count: int) -> list[Floats]:
    import numpy as np

    return [np.full(ARRAY_FLOATS, index + 0.5) for index in range(count)]


def shared() -> contextlib.AbstractContextManager[None]:
    """Within it arrays lie in shared memory, where forklift is installed; to the others they are arrays like any."""
    with contextlib.suppress(ImportError):
        import forklift

        return forklift.shared_arrays()
    return contextlib.nullcontext()


def make_shared_arrays(count: int) -> list[Floats]:
    with shared():
        return make_arrays(count)


def make_pairs(count: int) -> list[tuple[Floats, int]]:
    """Pairs of one large array, the same in all of them, and a number."""
    import numpy as np

    table = np.arange(TABLE_FLOATS, dtype=float)
    return [(table, index) for index in range(count)]


def make_shared_pairs(count: int) -> list[tuple[Floats, int]]:
    """The same pairs, with the array in shared memory, where forklift is installed."""
    with shared():
        return make_pairs(count)


def large_table() -> Floats:
    import numpy as np

    return np.arange(2 * TABLE_FLOATS, dtype=float)


def small_table() -> Floats:
    import numpy as np

    return np.arange(1000, dtype=float)


def make_integers(count: int) -> list[int]:
    return list(range(count))


def make_blobs(count: int) -> list[bytes]:
    import numpy as np

    random = np.random.default_rng(1)
    return [random.bytes(BLOB_BYTES) for _ in range(count)]


def make_frames(count: int) -> list[Any]:
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(2)
    return [
        pd.DataFrame(
            {
                "key": random.integers(0, 100, FRAME_ROWS),
                "x": random.standard_normal(FRAME_ROWS),
                "y": random.standard_normal(FRAME_ROWS),
            }
        )
        for _ in range(count)
    ]


def make_matrices(count: int) -> list[Any]:
    import numpy as np
    from scipy import sparse

    random = np.random.default_rng(3)
    shape = (MATRIX_SIDE, MATRIX_SIDE)
    matrices = []
    for _ in range(count):
        rows, columns = random.integers(0, MATRIX_SIDE, (2, MATRIX_ENTRIES), dtype=np.int32)
        values = random.standard_normal(MATRIX_ENTRIES)
        matrices.append(sparse.csr_array(sparse.coo_array((values, (rows, columns)), shape=shape)))
    return matrices


def add_up(array: Floats) -> float:
    return float(array.sum())


def double(array: Floats) -> Floats:
    return array * 2


def look_up_pair(pair: tuple[Floats, int]) -> float:
    table, index = pair
    return float(table[index])


def look_up(table: Floats, index: int) -> float:
    """One number of a table, and about 50 µs of work."""
    work_50_us(index)
    return float(table[index % 1000])


def fill(value: int) -> Floats:
    import numpy as np

    return np.full(ARRAY_FLOATS, float(value))


# How many steps take 50 µs here, for processes that are started from this one: they must come to the same results.
STEPS = "FORKLIFT_BENCH_STEPS"
_steps = int(os.environ.get(STEPS, 450))


def calibrate() -> None:
    """Find out how much work 50 µs is on this machine. Before any worker is started."""
    global _steps
    if STEPS not in os.environ:
        seconds = min(timeit.repeat(lambda: work_50_us(0), number=100, repeat=7)) / 100
        _steps = max(1, round(_steps * 50e-6 / seconds))
        os.environ[STEPS] = str(_steps)


def work_50_us(value: int) -> int:
    """About 50 µs of Python. Counted: a loop that watches the clock would seem to run in parallel."""
    total = value
    for step in range(_steps):
        total = (total * 31 + step) & 0xFFFF
    return total


def work_1_ms(value: int) -> int:
    """About 1 ms of Python."""
    for _ in range(20):
        value = work_50_us(value)
    return value


def sum_and_work_100_us(numbers: list[float]) -> float:
    """The sum, and about 100 µs of Python beside it."""
    work_50_us(0)
    work_50_us(1)
    return sum(numbers)


def len_and_work_100_us(numbers: list[float]) -> int:
    """The length, and about 100 µs of Python beside it."""
    work_50_us(0)
    work_50_us(1)
    return len(numbers)


def digest(blob: bytes) -> bytes:
    return hashlib.blake2b(blob).digest()


def group(frame: Any) -> Any:
    return frame.groupby("key").sum()


def multiply(matrix: Any) -> Floats:
    import numpy as np

    product: Floats = matrix @ np.ones(matrix.shape[1])
    return product


def negate(value: int) -> int:
    return -value


def equal(left: Any, right: Any) -> bool:
    return bool(left == right)


def equal_arrays(left: Any, right: Any) -> bool:
    import numpy as np

    return bool(np.array_equal(left, right))


def equal_frames(left: Any, right: Any) -> bool:
    return bool(left.equals(right))


NUMPY = ("numpy",)
COPIES_EACH = ("ProcessPoolExecutor", "mpire")  # at 128 MB an item, they take a minute for a round

CASES: tuple[Case, ...] = (
    Case("lists", "1000 lists of 10,000 floats, `sum`", 1000, make_lists, sum, equal),
    Case(
        "lists-inherit",
        "1000 lists of 10,000 floats by `inherit`, `sum`",
        1000,
        make_lists,
        sum,
        equal,
        inherit=True,
    ),
    Case(
        "lists-inherit-len",
        "1000 lists of 10,000 floats by `inherit`, `len`",
        1000,
        make_lists,
        len,
        equal,
        inherit=True,
    ),
    Case(
        "lists-inherit-work",
        "1000 lists of 10,000 floats by `inherit`, `sum` and 100 µs of work each",
        1000,
        make_lists,
        sum_and_work_100_us,
        equal,
        inherit=True,
    ),
    Case(
        "lists-inherit-len-work",
        "1000 lists of 10,000 floats by `inherit`, `len` and 100 µs of work each",
        1000,
        make_lists,
        len_and_work_100_us,
        equal,
        inherit=True,
    ),
    Case("arrays-in", "100 arrays of 8 MB, `a.sum()`", 100, make_arrays, add_up, equal, NUMPY),
    Case(
        "arrays-shared",
        "100 arrays of 8 MB from `shared_arrays()`, `a.sum()`",
        100,
        make_shared_arrays,
        add_up,
        equal,
        NUMPY,
    ),
    Case("arrays-both", "100 arrays of 8 MB in, `a * 2` out", 100, make_arrays, double, equal_arrays, NUMPY),
    Case("arrays-out", "100 integers in, 8 MB arrays out", 100, make_integers, fill, equal_arrays, NUMPY),
    Case(
        "pairs",
        "200 tuples that hold one array of 128 MB",
        200,
        make_pairs,
        look_up_pair,
        equal,
        NUMPY,
        without=COPIES_EACH,
    ),
    Case(
        "pairs-shared",
        "200 tuples that hold one array of 128 MB from `shared_arrays()`",
        200,
        make_shared_pairs,
        look_up_pair,
        equal,
        NUMPY,
        without=COPIES_EACH,
    ),
    Case(
        "closure",
        "10,000 integers, a partial over a table of 256 MB, 50 µs of work",
        10_000,
        make_integers,
        look_up,
        equal,
        NUMPY,
        bind=large_table,
        small=True,
    ),
    Case(
        "closure-small",
        "10,000 integers, a partial over a table of 8 KB, 50 µs of work",
        10_000,
        make_integers,
        look_up,
        equal,
        NUMPY,
        bind=small_table,
        small=True,
    ),
    Case(
        "small", "2000 small integers, 50 µs of work each", 2000, make_integers, work_50_us, equal, small=True
    ),
    Case("bytes", "200 bytes objects of 2 MB, hashed", 200, make_blobs, digest, equal, NUMPY),
    Case(
        "frames",
        "60 data frames of 200,000 rows, grouped",
        60,
        make_frames,
        group,
        equal_frames,
        ("numpy", "pandas"),
    ),
    Case(
        "sparse",
        "60 sparse matrices of 6 MB, times a vector",
        60,
        make_matrices,
        multiply,
        equal_arrays,
        ("numpy", "scipy"),
    ),
    Case("tiny", "200,000 tiny items, negated", 200_000, make_integers, negate, equal, small=True),
    Case("apply", "1000 `apply` round trips", 1000, make_integers, negate, equal, call="apply"),
)
