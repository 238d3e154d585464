"""What says whether a value has changed since it was last sent."""

from __future__ import annotations

import functools
import re
import types

import numpy
import pytest

from forklift import _changes
from forklift._native import condense

BLOCK_BYTES = 4096


def test_every_bit_of_a_condensed_buffer_counts() -> None:
    data = bytearray(index * 7 % 256 for index in range(2 * BLOCK_BYTES + 77))
    before = condense(data)
    assert condense(bytes(data)) == before and len(before) == 3 * 16
    for place in (0, 1, 8, 15, 16, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES, len(data) - 1):
        for bit in range(8):
            data[place] ^= 1 << bit
            assert condense(data) != before, (place, bit)
            data[place] ^= 1 << bit
    data[0:8], data[8:16] = data[8:16], data[0:8]
    assert condense(data) != before


def test_condensed_buffers_in_several_pieces_or_empty() -> None:
    with pytest.raises(BufferError):
        condense(numpy.zeros((64, 64))[:, ::2])
    assert len(condense(b"")) == 16
    assert condense(bytes(BLOCK_BYTES)) != condense(bytes(2 * BLOCK_BYTES))


def closing(box: object) -> object:
    return lambda: box


FROZEN = [1, None, "x" * 100_000, b"x", (1, (2, "x")), frozenset({1}), len, int, re, re.compile("x"), closing]
CHANGING = [
    [],
    {},
    (1, [2]),
    closing(1),
    functools.partial(len, [1]),
    types.ModuleType("made"),
    numpy.zeros(3),
    "x".join,
]


@pytest.mark.parametrize("value", FROZEN, ids=lambda value: type(value).__name__)
def test_what_cannot_change(value: object) -> None:
    assert _changes.frozen(value)


@pytest.mark.parametrize("value", CHANGING, ids=lambda value: type(value).__name__)
def test_what_can_change_is_digested(value: object) -> None:
    assert not _changes.frozen(value)
    assert _changes.digest(value) == _changes.digest(value) is not None


@pytest.mark.parametrize("size", [10, 10_000, 1_000_000])
def test_a_digest_sees_what_was_changed_in_place(size: int) -> None:
    for value in (
        numpy.zeros(size),
        [0] * (size // 10),
        {"a": bytearray(size)},
        numpy.zeros((size, 2))[:, 0],
    ):
        before = _changes.digest(value)
        assert _changes.digest(value) == before
        target = value["a"] if isinstance(value, dict) else value
        target[len(target) // 2] = 1
        assert _changes.digest(value) != before


def test_nothing_is_known_of_what_cannot_be_pickled_or_is_larger_than_asked_for() -> None:
    assert _changes.digest(iter([1]).__next__) is not None
    assert _changes.digest(x for x in "abc") is None
    assert _changes.digest(bytearray(1000), 100) is None


def test_none_is_not_what_has_died() -> None:
    class Thing:
        pass

    thing = Thing()
    before = _changes.versions("an owner", {"name": thing})["name"][0]
    assert _changes.versions("an owner", {"name": thing})["name"][0] == before
    del thing
    assert _changes.versions("an owner", {"name": None})["name"][0] > before
