"""`map_blocks`, beside the loop over blocks."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import numpy as np

import forklift
from tests.fuzz.calls import Find
from tests.fuzz.functions import elementwise, stateless_block
from tests.fuzz.graphs import large_array
from tests.fuzz.oracle import copied
from tests.fuzz.shapes import shape

__all__ = ["one"]


def one(pool: Any, dice: random.Random) -> None:
    """A call over one object, cut into blocks."""
    with forklift.shared_arrays() if dice.random() < 0.5 else contextlib.nullcontext():
        whole = large_array(dice, 64)
        if dice.random() < 0.3:
            whole = whole[: len(whole) // 4 * 4].reshape(-1, 4)
        into = np.zeros_like(whole)
    block = max(1, len(whole) // dice.choice([1, 2, 3, 7]))
    before = shape(whole)
    way = dice.choice(["list", "concat", "out=True", "out=array", "out=itself"])
    if way == "list":
        want: Any = [
            copied(stateless_block(copied(whole[at : at + block]))) for at in range(0, len(whole), block)
        ]
        got = pool.map_blocks(stateless_block, whole, block=block, combine="list")
    else:
        want = elementwise(whole.copy())
        out: Any = {"concat": None, "out=True": True, "out=array": into, "out=itself": whole}[way]
        got = pool.map_blocks(elementwise, whole, block=dice.choice([None, block]), out=out)
    if shape(got) != shape(want):
        raise Find(f"map_blocks over {whole.dtype}{whole.shape}, {way}: the result is wrong")
    if way != "out=itself" and shape(whole) != before:
        raise Find(f"map_blocks over {whole.dtype}{whole.shape}, {way}: the caller's array has changed")
