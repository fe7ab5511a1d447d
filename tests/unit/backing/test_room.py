"""When writes of users may be done on the loop, which writes as the daemon."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from throttlefs.backing import room
from throttlefs.backing.room import AMPLE, LOOK_EVERY, QUOTAS_LOOK_EVERY, Room


class Disk:
    """What fstatvfs(2) and the kernel say of space and quotas."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dquots = path
        self.available = AMPLE
        self.looks = 0
        monkeypatch.setattr(os, "fstatvfs", self._fstatvfs)
        monkeypatch.setattr(room, "_DQUOTS", str(path))
        monkeypatch.setattr(room, "_quotas", room._Quotas())

    def _fstatvfs(self, fd: int) -> os.statvfs_result:
        self.looks += 1
        if self.available < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        blocks = self.available // 4096
        return os.statvfs_result((4096, 4096, blocks * 9, blocks * 2, blocks, 0, 0, 0, 0, 255))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path / "allocated_dquots", monkeypatch)


def test_room_that_users_may_have(disk: Disk) -> None:
    now, found = 1000.0, Room()
    for available, is_ample in ((AMPLE, True), (AMPLE - 4096, False), (0, False), (-1, False)):
        now += 2 * LOOK_EVERY
        disk.available = available
        assert found.is_ample(0, now) == is_ample


def test_it_looks_now_and_then(disk: Disk) -> None:
    found, now = Room(), 1000.0
    assert found.is_ample(0, now)
    disk.available = 0
    assert found.is_ample(0, now + LOOK_EVERY * 0.9)
    assert not found.is_ample(0, now + LOOK_EVERY * 1.1)
    assert disk.looks == 2
    disk.available = AMPLE
    assert not found.is_ample(0, now + LOOK_EVERY * 1.9)
    assert found.is_ample(0, now + LOOK_EVERY * 2.2)


@pytest.mark.parametrize(
    ("text", "are_used"), [(None, False), ("0\n", False), ("17\n", True), ("what?", True)]
)
def test_quotas(disk: Disk, text: str | None, are_used: bool) -> None:
    if text is not None:
        disk.dquots.write_text(text)
    assert Room().is_ample(0, 1000.0) != are_used


def test_quotas_that_are_turned_on(disk: Disk) -> None:
    disk.dquots.write_text("0\n")
    first, second, now = Room(), Room(), 1000.0
    assert first.is_ample(0, now)
    disk.dquots.write_text("1\n")
    assert second.is_ample(0, now + QUOTAS_LOOK_EVERY * 0.9)
    assert not second.is_ample(0, now + QUOTAS_LOOK_EVERY * 1.1)
    assert not first.is_ample(0, now + QUOTAS_LOOK_EVERY * 1.1)


def test_the_kernel_says_how_many_quotas_it_has() -> None:
    """If it knows quotas at all: the file is where it was, and holds a number."""
    if not Path("/proc/sys/fs/quota").exists():
        pytest.skip("this kernel knows no quotas")
    assert int(Path(room._DQUOTS).read_text()) >= 0
