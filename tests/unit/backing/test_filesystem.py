"""On which filesystems reads and writes may be done on the event loop at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.unit.backing.conftest import open_file, running
from throttlefs.backing import BackingFile, inline
from throttlefs.backing.inline import Filesystem, filesystem_of
from throttlefs.backing.status import Status
from throttlefs.host import filesystems
from throttlefs.settings.cachemode import CacheMode

FILE = Status(stat.S_IFREG, device=os.makedev(0, 77), inode=1, rdev=0)


class Mounts:
    """Says what is mounted, counts the questions, and has a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name = "ext4"
        self.asked = 0
        self.now = 1000.0
        monkeypatch.setattr(filesystems, "filesystem_type", self._type_of)
        monkeypatch.setattr(inline, "monotonic", lambda: self.now)

    def _type_of(self, fd: int) -> str:
        self.asked += 1
        return self.name


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> Mounts:
    return Mounts(monkeypatch)


def of_type(name: str, mounts: Mounts, status: Status = FILE) -> Filesystem:
    mounts.name = name
    return filesystem_of(0, status)


REMOTE = ["fuse.sshfs", "fuseblk", "nfs4", "cifs", "9p", "ceph", "lustre", "unheard-of", ""]


@pytest.mark.parametrize("name", REMOTE)
def test_whatever_may_ask_others_may_block(name: str, mounts: Mounts) -> None:
    assert of_type(name, mounts).may_block


@pytest.mark.parametrize(
    ("name", "in_memory"),
    [("ext4", False), ("xfs", False), ("btrfs", False), ("overlay", False), ("tmpfs", True)],
)
def test_local_disks_and_memory_do_not(name: str, in_memory: bool, mounts: Mounts) -> None:
    found = of_type(name, mounts)
    assert not found.may_block
    assert found.in_memory == in_memory


def test_a_disk_is_looked_at_once(mounts: Mounts) -> None:
    on_disk = FILE._replace(device=os.makedev(8, 1))
    found = of_type("ext4", mounts, on_disk)
    mounts.now += 1e6
    assert of_type("ext4", mounts, on_disk) is found
    assert mounts.asked == 1


def test_a_number_without_a_disk_may_come_to_mean_another_filesystem(mounts: Mounts) -> None:
    first = of_type("tmpfs", mounts)
    mounts.now += 0.9
    assert of_type("fuse", mounts) is first
    assert mounts.asked == 1
    mounts.now += 0.2
    second = of_type("fuse", mounts)
    assert second.may_block
    mounts.now += 2
    assert of_type("fuse", mounts) is second  # with what was learned of it


def test_other_devices_are_others(mounts: Mounts) -> None:
    other = FILE._replace(device=os.makedev(0, 78))
    assert of_type("ext4", mounts) is not of_type("ext4", mounts, other)


def test_a_block_device_is_no_part_of_devtmpfs(mounts: Mounts) -> None:
    node = Status(stat.S_IFBLK, device=FILE.device, inode=5, rdev=FILE.device)
    found = of_type("devtmpfs", mounts, node)
    assert not found.in_memory
    assert not found.may_block
    assert of_type("devtmpfs", mounts, node) is found
    assert of_type("devtmpfs", mounts) is not found


# -- what becomes of it --------------------------------------------------------------------


def with_file(path: Path, test: Callable[[BackingFile], object], cache: CacheMode) -> None:
    async def main() -> None:
        async with running("threads") as engine:
            backing = open_file(path, engine, cache)
            test(backing)
            await backing.write(5, b"some data")
            assert bytes(await backing.read(5, 4)) == b"some"
            backing.close()

    trio.run(main)


@pytest.mark.parametrize("cache", [CacheMode.WRITEBACK, CacheMode.UNSAFE])
@pytest.mark.parametrize("name", ["fuse.sshfs", "nfs4", "ext4"])
def test_nothing_is_inline_where_it_may_block(
    directory: Path, mounts: Mounts, name: str, cache: CacheMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "image").write_bytes(bytes(8192))
    calls: list[str] = []

    def test(backing: BackingFile) -> None:
        for call in ("preadv", "pwrite", "pwritev", "fstat"):
            real = getattr(os, call)

            def counted(*args: object, call: str = call, real: Callable[..., int] = real) -> int:
                calls.append(call)
                return real(*args)

            monkeypatch.setattr(os, call, counted)
        backing.read_now(0, 4096)
        backing.write_now(0, bytes(4096))
        backing.write_now(100, b"a part of a page")
        monkeypatch.undo()

    mounts.name = name
    with_file(directory / "image", test, cache)
    assert bool(calls) == (name == "ext4")
