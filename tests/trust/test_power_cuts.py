"""Many operations and power cuts: what is left is always a state that a disk could have.

The quick form is in tests/unit/device/test_disk_after_a_cut.py and
tests/mounted/test_volatile_contents.py.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

import throttlefs
from tests.mounted.test_volatile_contents import SECTOR, Worker
from tests.soak import Soak, Tally
from tests.unit.device.disk_world import Disk


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "posix"])
def test_a_disk_in_memory(ordered: bool, soak: Soak, tally: Tally, rng: random.Random) -> None:
    """Files and directories are made, written, truncated, renamed and synced at random."""
    left = soak.choose(4_000, 500_000)
    while left > 0:
        disk = Disk(random.Random(rng.randrange(1 << 40)), ordered=ordered)
        disk.run(2_000, rng.choice((10, 40, 150)))
        tally.note(2_000, checked=f"names, sizes and sectors after each of {disk.cuts} cuts a run")
        left -= 2_000


@pytest.mark.parametrize("cache", ["writeback", "none"])
def test_one_file_of_a_mount(
    cache: str, soak: Soak, tally: Tally, rng: random.Random, tmp_path: Path
) -> None:
    """Writes of all kinds, truncates, discards and flushes of one file, with 25 to a cut."""
    source = tmp_path / "src"
    source.mkdir()
    (source / "file").write_bytes(b"x" * 9000)
    with throttlefs.mounted(source, volatile=True, sector=SECTOR, cache=cache) as disk:
        can_map = disk.show()["features"]["shared-mmap"]
        worker = Worker(disk, source, rng, can_map=can_map)
        for _ in range(soak.choose(4, 2_000)):
            worker.work(25)
            worker.cut()
            tally.note(25, checked="size and sectors of the file after each cut")
        os.close(worker.fd)
    assert worker.lost > 0
