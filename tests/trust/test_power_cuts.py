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
from tests.trust.sources import MakeSource, skip_unless_known
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount filesystems")
def test_a_truncate_is_cloned_where_the_filesystem_can(make_source: MakeSource) -> None:
    """There is no room for a copy of the file."""
    skip_unless_known("xfs")
    filesystem = make_source("xfs")
    source, log = filesystem.path / "disk", filesystem.path / "log"
    source.mkdir()
    log.mkdir()
    free = os.statvfs(source)
    size = free.f_bavail * free.f_frsize * 2 // 3 // 1000 * 1000 + 123
    content = random.Random(1).randbytes(1 << 20)
    with (source / "file").open("wb") as file:
        for _ in range(size >> 20):
            file.write(content)
        file.truncate(size)
    with throttlefs.mounted(source, volatile=True, volatile_dir=log) as disk:
        os.truncate(Path(disk.path) / "file", 0)
        undone = [
            seed
            for seed in range(20)
            if any(it.size_after == size for it in disk.power_cut(seed=seed, dry_run=True).files)
        ]
        disk.power_cut(seed=undone[0])
    assert (source / "file").stat().st_size == size
    with (source / "file").open("rb") as file:
        for _ in range(size >> 20):
            assert file.read(1 << 20) == content
