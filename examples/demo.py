"""The main job on real input, photographs and source texts, over multiprocessing.Pool and forklift.Pool.

`make demo` runs it. Both pools go through the same function `run`; only the class differs. The photographs are
those that scikit-image brings along, the texts are the sources of Python's own standard library.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import skimage
from PIL import Image

import forklift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.float64]

SIDE = 1024  # pixels; a picture is then 8 MB of floats
PHOTOGRAPHS = (
    "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png "
    "hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png motorcycle_right.png retina.jpg rocket.jpg"
).split()
BATCH_CHARACTERS = 400_000
ROUNDS = 2  # the first is a warm-up for everyone, the last is shown
WORD = re.compile(r"[A-Za-z_]{3,}")


def photographs() -> list[Picture]:
    """Grey pictures of one size: each photograph continued by its mirror image, and turned four ways."""
    folder = Path(skimage.__file__).parent / "data"
    pictures = []
    for name in PHOTOGRAPHS:
        grey = np.asarray(Image.open(folder / name).convert("L"), dtype=np.float64) / 255
        height, width = grey.shape
        grown = np.pad(grey, ((0, max(0, SIDE - height)), (0, max(0, SIDE - width))), mode="symmetric")
        square = grown[:SIDE, :SIDE]
        pictures += [np.ascontiguousarray(np.rot90(square, turns)) for turns in range(4)]
    return pictures


def sources() -> list[list[str]]:
    """The modules of the standard library, its tests included, as texts in batches of some 400 kB."""
    root = Path(sysconfig.get_path("stdlib"))
    batches: list[list[str]] = [[]]
    room = BATCH_CHARACTERS
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if len(text) > room and batches[-1]:
            batches.append([])
            room = BATCH_CHARACTERS
        batches[-1].append(text)
        room -= len(text)
    return batches


def edges(picture: Picture) -> Picture:
    """How steeply the brightness changes at each pixel."""
    across = picture[1:-1, 2:] - picture[1:-1, :-2]
    down = picture[2:, 1:-1] - picture[:-2, 1:-1]
    return np.hypot(across, down, out=across)


def exposure(picture: Picture) -> tuple[float, float, float]:
    """Brightness, contrast, and the share of pixels that are burnt out."""
    return float(picture.mean()), float(picture.std()), float((picture > 0.98).mean())


def tokenize(batch: list[str]) -> list[list[str]]:
    """The words of each text."""
    return [WORD.findall(text) for text in batch]


def vocabulary(batch: list[list[str]]) -> Counter[str]:
    """How often each word occurs in a batch of tokenized texts."""
    return Counter(word for words in batch for word in words)


@dataclass
class Workload:
    """A function, its items, what a plain loop makes of them, and how long each way took."""

    title: str
    function: Callable[[Any], Any]
    items: list[Any]
    expected: list[Any] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def timed(work: Workload, way: str, mapped: Callable[..., Iterable[Any]]) -> list[Any]:
    begin = time.perf_counter()
    results = list(mapped(work.function, work.items))
    work.seconds[way] = time.perf_counter() - begin
    return results


def run(way: str, pool_class: Callable[..., Any], workloads: Iterable[Workload]) -> None:
    """Map every workload over a pool of this class, and check the results."""
    with pool_class(len(os.sched_getaffinity(0))) as pool:
        for work in workloads:
            for _ in range(ROUNDS):
                results = timed(work, way, pool.map)
                if not all(map(same, results, work.expected)):
                    raise SystemExit(f"{way}: {work.title}: the results differ from the for loop's")
                del results


def same(left: Any, right: Any) -> bool:
    return np.array_equal(left, right) if isinstance(right, np.ndarray) else bool(left == right)


def megabytes(value: Any) -> float:
    """About how much data this is: numbers and characters, not the objects around them."""
    if isinstance(value, np.ndarray):
        return value.nbytes / 1e6
    if isinstance(value, str):
        return len(value) / 1e6
    if isinstance(value, list | tuple | dict):
        return sum(map(megabytes, value))
    return 8e-6


def show(workloads: list[Workload]) -> None:
    ways = list(workloads[0].seconds)
    head = ["workload", "items", "MB in", "MB out", *(f"{way}, s" for way in ways), "ratio"]
    rows = [head]
    for work in workloads:
        sizes = [f"{megabytes(work.items):.1f}", f"{megabytes(work.expected):.1f}"]
        seconds = [f"{work.seconds[way]:.2f}" for way in ways]
        ratio = work.seconds["multiprocessing.Pool"] / work.seconds["forklift.Pool"]
        rows.append([work.title, str(len(work.items)), *sizes, *seconds, f"{ratio:.1f}×"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))


def main() -> None:
    pictures, texts = photographs(), sources()
    words = [tokenize(batch) for batch in texts]
    workloads = [
        Workload("photographs: find edges", edges, pictures),
        Workload("photographs: judge exposure", exposure, pictures),
        Workload("sources: tokenize", tokenize, texts),
        Workload("tokens: count words", vocabulary, words),
    ]
    for work in workloads:
        for _ in range(ROUNDS):
            work.expected = timed(work, "for loop", map)
    run("multiprocessing.Pool", multiprocessing.Pool, workloads)
    run("forklift.Pool", forklift.Pool, workloads)
    show(workloads)
    print("All results are equal to the for loop's.")


if __name__ == "__main__":
    main()
