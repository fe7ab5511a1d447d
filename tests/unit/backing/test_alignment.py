"""What O_DIRECT demands, told by statx(2) or found out."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from throttlefs.backing import alignment
from throttlefs.backing.alignment import Alignment, direct_alignment
from throttlefs.backing.status import Status


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(4096))
    return path


def test_alignment_is_told_or_found_out(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(image, os.O_RDONLY)
    told = direct_alignment(fd)
    monkeypatch.setattr(alignment, "direct_io_alignment", lambda fd: None)
    found = direct_alignment(fd)
    if told is None:
        pytest.skip("no direct I/O here")
    assert found is not None
    for value in (*told, *found):
        assert value.bit_count() == 1
    assert found.offset >= told.offset
    assert found.memory >= told.memory
    os.close(fd)


def test_alignment_where_nobody_tells(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "direct_io_alignment", lambda fd: None)
    monkeypatch.setattr(alignment, "_logical_block_size", lambda device: None)
    fd = os.open(image, os.O_RDONLY)
    assert direct_alignment(fd) == Alignment(4096, 4096)
    os.close(fd)


def test_block_size_from_sysfs() -> None:
    """Of disks and of partitions, which have no queue of their own."""
    asked = 0
    for entry in Path("/sys/class/block").iterdir():
        major, minor = map(int, (entry / "dev").read_text().split(":"))
        size = alignment._logical_block_size(os.makedev(major, minor))
        assert size is not None
        assert size >= 512
        asked += 1
    if not asked:
        pytest.skip("no block devices here")
    assert alignment._logical_block_size(os.makedev(0, 12345)) is None


def test_a_block_device_is_asked_for_its_own_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    status = Status(stat.S_IFBLK, device=5, inode=1, rdev=99)
    monkeypatch.setattr(alignment, "direct_io_alignment", lambda fd: None)
    monkeypatch.setattr(alignment, "status_of", lambda fd: status)
    monkeypatch.setattr(alignment, "_logical_block_size", {99: 1024, 5: 2048}.get)
    assert direct_alignment(0) == Alignment(1024, 1024)
