"""What a power cut draws: the same for the same requests, on any filesystem."""

from __future__ import annotations

import random

from tests.unit.device.volatile_world import Limit, Numbers
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
    restores = contents.choose(Limit(numbers.latest), random.Random(seed))
    return [(inodes.index(one.key[1]), one.size, one.pieces) for one in restores]


def test_inode_numbers_do_not_matter() -> None:
    different = set()
    for seed in range(20):
        found = lost(seed, 10, 11, 12)
        assert found == lost(seed, 300, 7, 20)
        different.add(str(found))
    assert len(different) > 10
