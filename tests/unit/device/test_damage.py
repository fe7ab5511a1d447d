"""Wrong bytes: the same each time, and only where they are to be."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.device.damage import SECTOR, Pieces, corrupted, draw, torn_length

SIZE = 8 * SECTOR
DATA = bytes(n % 251 + 1 for n in range(SIZE))
KINDS = ("flip", "zeros", "noise")


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(0, SIZE - 1), st.integers(1, SIZE), st.integers(0, SIZE), st.integers(0, SIZE))
def test_bytes_come_back_the_same_however_they_are_read(
    kind: str, offset: int, length: int, one: int, other: int
) -> None:
    pieces = [(min(one, other), max(one, other))]
    whole = corrupted(DATA, 0, pieces, kind, 5)
    part = corrupted(DATA[offset : offset + length], offset, pieces, kind, 5)
    assert part == whole[offset : offset + length]
    first, end = pieces[0]
    assert whole[:first] == DATA[:first]
    assert whole[end:] == DATA[end:]


def test_a_flip_is_one_bit_in_each_sector() -> None:
    wrong = corrupted(DATA, 0, [(0, SIZE)], "flip", 5)
    for begin in range(0, SIZE, SECTOR):
        pairs = zip(DATA[begin : begin + SECTOR], wrong[begin : begin + SECTOR], strict=True)
        assert sum((old ^ new).bit_count() for old, new in pairs) == 1


def test_zeros_and_noise_replace_all_and_a_seed_draws_others() -> None:
    assert corrupted(DATA, 0, [(SECTOR, 2 * SECTOR)], "zeros", 5)[SECTOR : 2 * SECTOR] == bytes(512)
    noise = [corrupted(DATA, 0, [(0, SIZE)], "noise", seed) for seed in (5, 5, 6)]
    assert noise[0] == noise[1] != noise[2]
    assert sum(old == new for old, new in zip(DATA, noise[0], strict=True)) < SIZE // 50


@given(st.integers(0, 5000), st.integers(1, 5000), st.integers(1, 1024), st.integers(0, 2**64 - 1))
def test_a_torn_write_keeps_whole_units_and_never_all(
    offset: int, length: int, unit: int, drawn: int
) -> None:
    kept = torn_length(offset, length, unit, drawn)
    assert 0 <= kept < length
    assert kept == 0 or (offset + kept) % unit == 0


def test_a_torn_write_may_be_cut_at_each_unit() -> None:
    found = {torn_length(100, 2000, 512, draw(1, 1, count)) for count in range(200)}
    assert found == {0, 412, 924, 1436, 1948}
    assert {torn_length(0, 512, 512, draw(1, 1, count)) for count in range(20)} == {0}


ranges = st.tuples(st.integers(0, 60), st.integers(1, 20))


@given(st.lists(ranges), ranges)
def test_pieces_are_a_set_of_bytes(added: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    pieces = Pieces()
    expected: set[int] = set()
    for first, length in added:
        pieces.add(first, first + length)
        expected.update(range(first, first + length))
    assert pieces.size == len(expected)
    first, end = asked[0], sum(asked)
    found = pieces.within(first, end)
    assert [n for one in found for n in range(*one)] == sorted(expected & set(range(first, end)))
    assert all(one[1] < other[0] for one, other in pairwise(found))
