"""Finds the kind of filesystem that a file lies on, without asking that filesystem.

statfs(2) asks the server of a network filesystem, or the daemon of a FUSE one, and waits for it.
The kernel's table of mounts (proc(5)) answers at once.
"""

from __future__ import annotations

import os
import re
from typing import Final

_LOCAL: Final = frozenset(
    {
        *("bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "jfs"),
        *("msdos", "nilfs2", "ntfs3", "reiserfs", "squashfs", "ubifs", "udf", "vfat", "xfs", "zfs"),
        *("devtmpfs", "ramfs", "tmpfs"),
    }
)
"""Filesystems that have the data on this machine's own disks or in its memory.

They ask no server, and none of them has a ``flush`` in its ``file_operations``.
"""

_IN_MEMORY: Final = frozenset({"devtmpfs", "ramfs", "tmpfs"})

_MOUNT_ID: Final = re.compile(rb"^mnt_id:\s*(\d+)$", re.MULTILINE)


def filesystem_type(fd: int) -> str:
    """The type of the filesystem that *fd* is open on, as in mount(8).

    Empty if the mount is not in this process's table: it belongs to another namespace, or was
    detached. Raises `OSError` if the tables cannot be read. Takes some 40 us, and 1 us more for
    each mount of the machine.
    """
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        mount_id = _MOUNT_ID.search(file.read())
    if mount_id is None:
        return ""
    with open("/proc/self/mountinfo", "rb") as file:
        return _type_in(file.read(), mount_id[1])


def _type_in(mountinfo: bytes, mount_id: bytes) -> str:
    """The type of the mount *mount_id*; empty if there is none."""
    # The first " - " stands before the type: the kernel escapes spaces in the fields before it.
    found = re.search(rb"^%s [^\n]*? - (\S+)" % mount_id, mountinfo, re.MULTILINE)
    return found[1].decode("ascii", "replace") if found else ""


def is_local(name: str) -> bool:
    """Whether a filesystem of that type has its data on this machine, and asks no server."""
    return name in _LOCAL


def is_in_memory(name: str) -> bool:
    """Whether a filesystem of that type has its data in memory only."""
    return name in _IN_MEMORY


def may_be_exported() -> bool:
    """Whether the kernel's NFS server is there, which may give out delegations of any file."""
    return os.path.exists("/proc/net/rpc/nfsd")


def closes_silently(fd: int) -> bool:
    """Whether close(2) of *fd* cannot report an error: on a local filesystem.

    NFS, CIFS and FUSE write back at close, and report errors then. So may the filesystem below an
    overlay.
    """
    try:
        return is_local(filesystem_type(fd))
    except OSError:
        return False
