"""Each state that a power cut leaves of a file is one that a disk could have.

The model keeps every state that the file was ever in (volatile_world.py).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.device.volatile_world import KEY, SECTOR, World
from throttlefs.device.volatile import operations, samples

SECTORS = 8
SIZE = SECTORS * SECTOR

Change = tuple[Any, ...]

_offsets = st.integers(0, SIZE - 1)
_changes = st.one_of(
    st.tuples(st.just("write"), _offsets, st.integers(1, 14), st.booleans(), st.booleans()),
    st.tuples(st.just("write"), _offsets, st.integers(1, 4), st.just(True), st.just(False)),
    st.tuples(st.just("truncate"), st.integers(0, SIZE)),
    st.tuples(st.just("punch"), _offsets, st.integers(1, 14)),
    st.tuples(st.just("barrier")),
    st.tuples(st.just("begin_flush")),
    st.tuples(st.just("write_back")),
    st.tuples(
        st.just("end_flush"), st.integers(0, 3), st.sampled_from([None, None, "dirty", "clean"])
    ),
    st.tuples(st.just("cut"), st.integers(0, 1 << 32)),
)
_begins = st.sampled_from([b"", b"abcdefghijklmnop" * 2, b"xy" * 7])


def apply(world: World, change: Change) -> None:
    """One step of a test."""
    name, *args = change
    if name == "write":
        offset, length, one, durable = args
        token = (world.numbers.latest % 255) + 1
        length = min(length, SIZE - offset)
        world.write(offset, bytes([token]) * length, one=one, durable=durable)
    elif name == "cut":
        world.check_cut(args[0])
    else:
        getattr(world, name)(*args)
    world.check_room()


@pytest.mark.parametrize("tight", [False, True])
@given(begin=_begins, changes=st.lists(_changes, max_size=40), seed=st.integers(0, 1 << 32))
@settings(max_examples=300)
def test_a_cut_leaves_what_a_disk_could_have(
    tight: bool, begin: bytes, changes: list[Change], seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if tight:
            patch.setattr(samples, "SAMPLES", 1)
            patch.setattr(samples, "REWRITES_SAVED", 1)
            patch.setattr(samples, "KEPT_AT_MOST", 2)
            patch.setattr(operations, "MOST", 4)
        world = World(begin, SECTORS, seed)
        for change in changes:
            apply(world, change)
        for n in range(5):
            world.check_cut(seed + n)
        for _ in range(len(world.flushes)):
            world.end_flush(0)
        if not world.model.lost_until:
            world.begin_flush()
            world.end_flush(0)
            assert world.check_cut(seed) == world.src
            assert not world.history.is_dirty
            assert world.contents.extents.in_use == 0


def test_every_version_of_a_sector_may_survive() -> None:
    world = World(b"0000", 1, 1)
    for token in b"1234":
        world.write(0, bytes([token]) * SECTOR, one=True)
    found = Counter(world.check_cut(seed) for seed in range(400))
    assert set(found) == {b"0000", b"1111", b"2222", b"3333", b"4444"}
    assert found[b"0000"] > 40
    assert found[b"4444"] > 40


def test_what_was_flushed_is_there_and_what_was_not_may_be_lost() -> None:
    world = World(b"aaaabbbb", 2, 1)
    world.write(0, b"1111")
    world.begin_flush()
    world.end_flush(0)
    world.write(4, b"2222")
    found = {world.check_cut(seed) for seed in range(60)}
    assert found == {b"1111bbbb", b"11112222"}


def test_a_flush_does_not_cover_what_was_written_after_it_arrived() -> None:
    world = World(b"aaaa", 1, 1)
    world.write(0, b"1111")
    world.begin_flush()
    world.write(0, b"2222")
    world.end_flush(0)
    assert {world.check_cut(seed) for seed in range(60)} == {b"1111", b"2222"}


@pytest.mark.parametrize(("failure", "left"), [("dirty", {b"1111"}), ("clean", {b"aaaa", b"1111"})])
def test_a_retry_after_a_failed_flush(failure: str, left: set[bytes]) -> None:
    world = World(b"aaaa", 1, 1)
    world.write(0, b"1111")
    world.begin_flush()
    world.end_flush(0, failure)
    world.begin_flush()
    world.end_flush(0)
    assert {world.check_cut(seed) for seed in range(60)} == left
    world.write(0, b"2222")
    world.begin_flush()
    world.end_flush(0)
    assert {world.check_cut(seed) for seed in range(60)} == {b"2222"}


def test_a_truncate_that_does_not_survive_gives_back_what_it_cut_off() -> None:
    world = World(b"aaaabbbb", 2, 1)
    world.truncate(0)
    world.write(0, b"1111")
    found = {world.check_cut(seed) for seed in range(200)}
    assert b"aaaabbbb" in found  # nothing survived
    assert b"" in found
    assert b"\0\0\0\0" in found  # the size did, the data did not
    assert b"1111" in found
    assert b"1111bbbb" not in found


def test_what_a_barrier_has_seen_survives_with_what_came_after_it() -> None:
    world = World(b"", 1, 1)
    world.write(0, b"1111")
    world.barrier()
    world.truncate(8)
    after = [data for seed in range(200) if len(data := world.check_cut(seed)) == 8]
    assert set(after) == {b"1111\0\0\0\0"}


def test_a_page_that_is_rewritten_a_million_times_has_a_bounded_history() -> None:
    world = World(b"a" * SECTOR * 64, 64, 1)
    history = world.history
    saved = 0
    for _ in range(200_000):
        number = world.numbers.tick()
        place = None
        if history.must_save(3):
            saved += 1
            ((_, _, place),) = history.take_room(3, 1)
        history.write_one(number, 3, place)
    (chunk,) = history.chunks.values()
    assert len(chunk.samples[3]) == samples.SAMPLES
    assert saved < 300
    assert sum(history.room.needed.values()) == (1 + samples.SAMPLES) * SECTOR


def test_ten_gigabytes_fit_into_little_memory() -> None:
    """Measured for 256 MiB: a chunk of 64 sectors of 4 KiB takes less than 2 KB of memory."""
    import tracemalloc

    world = World(b"", 1, 1)
    contents = world.contents
    contents.sector = 4096
    history = contents.history((1, 3), 1 << 28)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for first in range(0, 1 << 16, 256):
        number = world.numbers.tick()
        assert history.to_save(first, first + 256) == [(first, 256)]
        history.write(number, first, first + 256, history.take_room(first, 256))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert history.changed * 4096 == 1 << 28
    assert (after - before) * 40 < 100e6


def test_samples_of_all_files_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(b"a" * SIZE, SECTORS, 1)
    world.contents._budget.left = 5
    for token in range(1, 30):
        for sector in range(SECTORS):
            world.write(sector * SECTOR, bytes([token]) * SECTOR, one=True)
    (chunk,) = world.history.chunks.values()
    assert sum(map(len, chunk.samples.values())) == 5
    world.begin_flush()
    world.end_flush(0)
    assert world.contents._budget.left == 5


def test_a_file_that_is_gone_leaves_nothing_to_the_next_one_of_its_key() -> None:
    world = World(b"aaaa", 1, 1)
    world.write(0, b"1111")
    assert world.contents.is_dirty(KEY)
    world.contents.forget(KEY)
    assert not world.contents.is_dirty(KEY)
    assert world.contents.dirty_keys() == []
    assert world.contents.extents.in_use == 0
