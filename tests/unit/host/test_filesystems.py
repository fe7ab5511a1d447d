"""The type of a file's filesystem, from the kernel's tables alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from throttlefs.host import filesystems
from throttlefs.host.filesystems import (
    closes_silently,
    filesystem_type,
    is_in_memory,
    is_local,
)
from throttlefs.host.mountinfo import read_mounts

TEXT = rb"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,resuid=65534
2 22 0:44 / /mnt/a\040-\040b rw,nosuid,nodev shared:9 master:2 - fuse.sshfs host:/\040-\040x rw
122 22 0:45 / /mnt/c rw - tmpfs - rw
"""


@pytest.mark.parametrize(
    ("mount_id", "name"), [(22, "ext4"), (2, "fuse.sshfs"), (122, "tmpfs"), (12, ""), (221, "")]
)
def test_the_type_of_a_mount(mount_id: int, name: str) -> None:
    assert filesystems._type_in(TEXT, b"%d" % mount_id) == name


def test_it_agrees_with_the_device_number(tmp_path: Path) -> None:
    """Of a file on a filesystem with one device number, mountinfo says the same by that number."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        device = os.fstat(fd).st_dev
        types = {
            entry.fstype
            for entry in read_mounts()
            if (entry.major, entry.minor) == (os.major(device), os.minor(device))
        }
        if not types:
            pytest.skip("the device number of this filesystem's files is not that of its mount")
        assert filesystem_type(fd) in types
    finally:
        os.close(fd)


def test_memory_and_proc() -> None:
    with open("/dev/null", "rb") as file:
        assert is_in_memory(filesystem_type(file.fileno()))
        assert closes_silently(file.fileno())
    with open("/proc/self/stat", "rb") as file:
        assert filesystem_type(file.fileno()) == "proc"
        assert not closes_silently(file.fileno())


def test_what_asks_others_is_not_local() -> None:
    for name in ("fuse", "fuseblk", "fuse.sshfs", "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs"):
        assert not is_local(name)
    for name in ("ceph", "glusterfs", "lustre", "afs", "overlay", "unheard-of", ""):
        assert not is_local(name)
    for name in ("ext4", "xfs", "btrfs", "tmpfs"):
        assert is_local(name)


def test_a_descriptor_that_is_not_there(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    os.close(fd)
    assert not closes_silently(fd)
