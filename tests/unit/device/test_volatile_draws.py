"""What a power cut draws: the same for the same requests, on any filesystem."""

from __future__ import annotations

import random

import pytest

from tests.unit.device.volatile_world import SECTOR, Limit, Numbers, World, all_restores
from throttlefs.device.volatile import contents as contents_module
from throttlefs.device.volatile.contents import Contents
from throttlefs.device.volatile.samples import ZEROES

SECTORS = 16


def lost(seed: int, *inodes: int) -> list[tuple[int, int | None, list[tuple[int, int, int]]]]:
    """What is lost of files that are written one after the other, by their place in that order."""
    numbers = Numbers()
    contents = Contents(numbers, 4096)
    for inode in inodes:
        number = numbers.tick()
        history = contents.history((1, inode), 0)
        history.write(number, 0, SECTORS, [(0, SECTORS, ZEROES)])
        number = numbers.tick()
        history.resize(number, SECTORS * 4096)
    restores = all_restores(contents, Limit(numbers.latest), random.Random(seed))
    return [(inodes.index(one.key[1]), one.size, one.pieces) for one in restores]


def test_others_have_a_turn_while_a_cut_is_chosen() -> None:
    numbers = Numbers()
    contents = Contents(numbers, 4096)
    for inode in range(100):  # 96 chunks in one file, and one in each of 99
        sectors = 96 * 64 if inode == 50 else 64
        history = contents.history((1, inode), sectors * 4096)
        history.write(numbers.tick(), 0, sectors, [(0, sectors, ZEROES)])
    found = list(contents.choose(Limit(numbers.latest), random.Random(1)))
    assert found.count(None) == (96 + 99) // 32


def test_files_may_change_while_a_cut_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents_module, "_CHUNKS_AT_ONCE", 1)
    size = 400 * SECTOR
    rng = random.Random(5)
    changes = 0
    for seed in range(80):
        world = World(b"x" * size, 400, seed)
        for _ in range(30):
            change(world, rng, size)
        limit = Limit(rng.randint(0, world.numbers.latest))
        for restore in world.contents.choose(limit, random.Random(seed)):
            if restore is None:
                change(world, rng, size)
                changes += 1
            else:
                assert all(0 <= offset < size for offset, _, _ in restore.pieces)
    assert changes > 100


def change(world: World, rng: random.Random, size: int) -> None:
    """Write, truncate, punch, or flush some of the file."""
    kind = rng.randrange(6)
    if kind == 0:
        world.truncate(rng.randrange(size))
    elif kind == 1:
        world.punch(rng.randrange(size), rng.randrange(1, size))
    elif kind == 2:
        world.begin_flush()
        world.end_flush(0)
    else:
        offset = rng.randrange(size)
        world.write(offset, b"y" * min(rng.randrange(1, 300), size - offset))


def test_inode_numbers_do_not_matter() -> None:
    different = set()
    for seed in range(20):
        found = lost(seed, 10, 11, 12)
        assert found == lost(seed, 300, 7, 20)
        different.add(str(found))
    assert len(different) > 10
