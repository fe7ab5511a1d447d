"""The head of a hard disk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.device.head import Head

MS = 1_000_000
SIZE = 1 << 40


def test_what_follows_on_directly_costs_nothing():
    head = Head((MS, 18 * MS), 7200)
    assert head.move(0, 4096, SIZE, 0.5) == 0
    assert head.move(4096, 1 << 20, SIZE, 0.5) == 0
    assert head.move((1 << 20) + 4096, 1, SIZE, 0.9) == 0


def test_seek_time_grows_with_the_root_of_the_distance():
    head = Head((MS, 18 * MS), 0)
    assert head.move(SIZE, 0, SIZE, 0.0) == 18 * MS
    assert head.move(SIZE - SIZE // 4, 0, SIZE, 0.0) == pytest.approx(9.5 * MS)
    assert head.move(SIZE - SIZE // 4 - 1, 0, SIZE, 0.0) == pytest.approx(MS, rel=0.001)
    # Beyond the disk is no further than over it.
    assert head.move(5 * SIZE, 0, SIZE, 0.0) == 18 * MS


def test_rotation_is_a_part_of_a_turn():
    head = Head((), 6000)  # 10 ms
    assert head.move(SIZE // 2, 0, SIZE, 0.25) == 2.5 * MS
    assert head.move(0, 0, SIZE, 0.999) == 9.99 * MS
    assert head.longest == 10 * MS


def test_one_seek_time_holds_for_any_distance():
    head = Head((4 * MS,), 0)
    assert head.move(1, 0, SIZE, 0.0) == head.move(SIZE, 0, SIZE, 0.0) == 4 * MS


@given(
    st.lists(st.tuples(st.integers(0, 2 * SIZE), st.floats(0, 1)), max_size=30),
    st.tuples(st.integers(0, 20 * MS), st.integers(0, 20 * MS)).map(sorted),
    st.integers(0, 15_000),
)
def test_it_never_takes_longer_than_the_longest(moves, seek, rpm):
    head = Head(tuple(seek), rpm)
    for place, turned in moves:
        assert 0 <= head.move(place, 4096, SIZE, turned) <= head.longest + 1
