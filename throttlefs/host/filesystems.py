"""What kind of filesystem a file lies on, as far as it matters here."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_LOCAL: Final = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # xfs
        0x9123683E,  # btrfs
        0xF2F52010,  # f2fs
        0x01021994,  # tmpfs
        0x858458F6,  # ramfs
        0x4D44,  # fat
        0x2011BAB0,  # exfat
        0x73717368,  # squashfs
        0xE0F5E1E2,  # erofs
        0x9660,  # iso9660
        0x62646576,  # bdev: a block device
        0xCA451A4E,  # bcachefs
        0x7366746E,  # ntfs3
    }
)
"""``f_type`` of filesystems that ask nobody else: linux/magic.h and each filesystem's own source.

None of them has a ``flush`` in its ``file_operations``.
"""

_libc = ctypes.CDLL(None, use_errno=True)


class _Statfs(ctypes.Structure):
    """``struct statfs`` as far as its first field; the rest is room (statfs(2))."""

    _fields_ = [("f_type", ctypes.c_long), ("rest", ctypes.c_byte * 504)]


def filesystem_type(fd: int) -> int:
    """The ``f_type`` of the filesystem that *fd* is open on (fstatfs(2)). Raises `OSError`."""
    found = _Statfs()
    if _libc.fstatfs(fd, ctypes.byref(found)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(found.f_type) & 0xFFFFFFFF


def closes_silently(fd: int) -> bool:
    """Whether close(2) of *fd* can report no error: on a filesystem of this machine's own.

    NFS, CIFS and FUSE write back at close, and say then what went wrong.
    """
    try:
        return filesystem_type(fd) in _LOCAL
    except OSError:
        return False
