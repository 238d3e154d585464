"""How large objects of each kind cross, by each pool: `python -m benchmarks.kinds` writes docs/kinds.md.

Nothing is timed. The receiver looks where the bulk of what it got lies: in memory that is mapped shared or from a
file, or in memory of its own, into which somebody copied it. For forklift the pool's counters tell how often the sender
copied the bulk into shared memory.
"""

from __future__ import annotations

import array
import importlib
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from forklift.bench.rivals import RIVALS, Rival, is_installed

PAGE = Path(__file__).resolve().parent.parent / "docs" / "kinds.md"
ROWS = 1_000_000
BULK_BYTES_MIN = 64 << 10  # polars keeps text in pieces that begin at 8 KiB; those are not its bulk
SEEN = tuple[bool, bool | None]  # in shared memory, writable; None: the type cannot be written


def scratch() -> Path:
    """The file of the memmap."""
    path = Path(tempfile.gettempdir()) / f"forklift-kinds-{os.getuid()}.bin"
    if not path.exists():
        np.arange(ROWS, dtype=np.float64).tofile(path)
    return path


def texts() -> list[str]:
    return [f"text number {i}" for i in range(ROWS // 2)]


def sparse() -> Any:
    return importlib.import_module("scipy.sparse").random(4000, 4000, 0.1, format="csr")


def pandas() -> Any:
    return importlib.import_module("pandas")


def table() -> Any:
    return importlib.import_module("pyarrow").table({"n": np.arange(ROWS), "s": texts() * 2})


def polars_frame() -> Any:
    return importlib.import_module("polars").DataFrame({"n": np.arange(ROWS), "s": texts() * 2})


KINDS: dict[str, Callable[[], Any]] = {
    "contiguous array": lambda: np.arange(ROWS, dtype=np.float64),
    "Fortran-order array": lambda: np.asarray(np.arange(ROWS * 1.0).reshape(1000, -1), order="F"),
    "strided array": lambda: np.arange(2 * ROWS, dtype=np.float64)[::2],
    "structured array": lambda: np.ones(ROWS, [("a", "<i4"), ("b", "<f8")]),
    "list of arrays": lambda: [np.full(ROWS // 4, float(i)) for i in range(4)],
    "dict of arrays": lambda: {str(i): np.full(ROWS // 4, float(i)) for i in range(4)},
    "scipy csr": sparse,
    "float frame": lambda: pandas().DataFrame(np.ones((ROWS // 4, 4)), columns=list("abcd")),
    "string frame": lambda: pandas().DataFrame({"s": texts()}),
    "Arrow table": table,
    "polars frame": polars_frame,
    "bytes": lambda: bytes(8 * ROWS),
    "bytearray": lambda: bytearray(8 * ROWS),
    "str": lambda: "x" * 8 * ROWS,
    "array.array": lambda: array.array("d", bytes(8 * ROWS)),
    "memmap": lambda: np.memmap(scratch(), np.float64, "r"),
}


def buffers(chunked: Any) -> list[tuple[int, int]]:
    return [
        (b.address, b.size) for chunk in chunked.chunks for b in chunk.buffers() if b is not None and b.size
    ]


def places(x: Any) -> tuple[list[tuple[int, int]], bool | None]:
    """Where the bulk lies: addresses with sizes, and whether it can be written."""
    if isinstance(x, np.ndarray):
        return [(x.__array_interface__["data"][0], x.nbytes)], x.flags.writeable
    if isinstance(x, (list, dict)):
        found = [places(part) for part in (x.values() if isinstance(x, dict) else x)]
        return [place for part, _ in found for place in part], all(writable for _, writable in found)
    if isinstance(x, (bytes, str)):
        return [(id(x), len(x))], None
    if isinstance(x, (bytearray, array.array)):
        start = np.frombuffer(x, np.uint8).__array_interface__["data"][0]
        return [(start, len(x) * getattr(x, "itemsize", 1))], True
    package = type(x).__module__.partition(".")[0]
    if package == "scipy":
        return places([x.data, x.indices])
    if package == "pyarrow":
        return [place for column in x.columns for place in buffers(column)], None
    if package == "polars":
        newest = importlib.import_module("polars").CompatLevel.newest()
        return places(x.to_arrow(compat_level=newest))
    if "s" in x.columns:  # pandas
        return buffers(x["s"].array._pa_array), None
    return places([block.values for block in x._mgr.blocks])


def in_shared_memory(address: int) -> bool:
    """Whether this address is mapped shared, or from a file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(None, 5)
        start, end = (int(part, 16) for part in fields[0].split("-"))
        if start <= address < end:
            return fields[1][3] == "s" or (len(fields) > 5 and fields[5].startswith("/"))
    raise RuntimeError(f"nothing is mapped at {address:#x}")


def look(x: Any) -> SEEN:
    """Where the bulk of an object lies in this process."""
    found, writable = places(x)
    return all(
        in_shared_memory(start + size // 2) for start, size in found if size >= BULK_BYTES_MIN
    ), writable


def make(kind: str) -> Any:
    return KINDS[kind]()


def weigh(x: Any) -> int:
    return sum(size for _, size in places(x)[0])


def observe(rival: Rival) -> dict[str, tuple[SEEN, SEEN, float, float]]:
    """Each kind as argument and as result, with the copies that a pool with counters made for each."""
    counters: Callable[[], dict[str, int]] = getattr(getattr(rival, "pool", None), "_counters", dict)
    found = {}
    for kind in KINDS:
        value = make(kind)
        start = counters()
        seen = rival.apply(look, value)
        middle = counters()
        result = rival.apply(make, kind)
        end = counters()
        moved = sum(middle[n] - start[n] for n in ("bytes_copied_in", "bytes_in_messages")) if start else 0
        # What is handed over lies where the function made it.
        came, handed = (end[n] - middle[n] if start else 0 for n in ("result_bytes", "result_bytes_handed"))
        back = came - handed
        found[kind] = seen, look(result), moved / weigh(value), back / weigh(result)
    return found


def cell(seen: SEEN) -> str:
    shared, writable = seen
    return ("shared" if shared else "own") + ("" if writable is not False else ", read-only")


def page(found: dict[str, dict[str, tuple[SEEN, SEEN, float, float]]]) -> str:
    """The whole of docs/kinds.md."""
    lines = [
        "# How large objects cross",
        "",
        "Written by `python -m benchmarks.kinds` on Python "
        + platform.python_version()
        + "; nothing here is a time.",
        "**shared**: the receiver's object lies in memory that is mapped shared or from a file, where nobody",
        "copied it; **own**: in memory of the receiver, so it was copied or built; *read-only*: its type can be",
        "written, and this one cannot.",
        "",
    ]
    for side, title in enumerate(("As an argument", "As a result")):
        lines += [f"## {title}", "", "| kind | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
        for kind in KINDS:
            lines.append(
                f"| {kind} | " + " | ".join(cell(rows[kind][:2][side]) for rows in found.values()) + " |"
            )
        sums = [sum(rows[kind][:2][side][0] for kind in KINDS) for rows in found.values()]
        lines += [f"| **shared, of {len(KINDS)}** | " + " | ".join(map(str, sums)) + " |", ""]
    ours = found["forklift"]
    lines += [
        "## Copies that forklift makes",
        "",
        "Bytes that the sender put into shared memory or a message, by the pool's counters, as a multiple of the bulk;",
        "the receiver copies the bulk once where the tables above say *own*, and not at all where they say *shared*.",
        "What a type's own pickling copies before (a strided array is gathered first) is not in the counters.",
        "",
        "| kind | argument: sender | receiver | result: sender | receiver |",
        "|---|---|---|---|---|",
    ]
    for kind, (sent, back, copies_in, copies_out) in ours.items():
        lines.append(
            f"| {kind} | {copies_in:.2f} | {int(not sent[0])} | {copies_out:.2f} | {int(not back[0])} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    found = {}
    for rival in RIVALS:
        if rival.is_process_pool and is_installed(rival):
            pool = rival()
            pool.start(2)
            try:
                found[rival.name] = observe(pool)
            finally:
                pool.close()
    PAGE.write_text(page(found))
    scratch().unlink(missing_ok=True)
    print(PAGE.read_text())


if __name__ == "__main__":
    # Functions of an imported module, which every pool can send by name.
    importlib.import_module("benchmarks.kinds").main()
