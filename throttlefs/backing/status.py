"""Reads the status of an open file that the kernel has in memory, without asking a server.

On a network filesystem or FUSE fstat(2) may wait for the server. statx(2) need not.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import NamedTuple

_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
"""Take the cached status and do not ask the server (statx(2))."""

_STATX_TYPE = 0x0001
_STATX_INO = 0x0100
_STATX_SIZE = 0x0200
_STATX_DIOALIGN = 0x2000


class Status(NamedTuple):
    """What is to be known of an open file."""

    mode: int
    device: int
    """``st_dev``."""
    inode: int
    rdev: int
    """``st_rdev``."""
    size: int = 0
    """In bytes, 0 for a block device; unlike the others it may change."""


class _Statx(ctypes.Structure):
    """``struct statx``, as far as it is needed; statx(2)."""

    _fields_ = [
        ("mask", ctypes.c_uint32),
        ("before_mode", ctypes.c_uint8 * 24),
        ("mode", ctypes.c_uint16),
        ("before_inode", ctypes.c_uint16),
        ("inode", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("before_device", ctypes.c_uint8 * 80),
        ("rdev_major", ctypes.c_uint32),
        ("rdev_minor", ctypes.c_uint32),
        ("dev_major", ctypes.c_uint32),
        ("dev_minor", ctypes.c_uint32),
        ("mount_id", ctypes.c_uint64),
        ("dio_mem_align", ctypes.c_uint32),
        ("dio_offset_align", ctypes.c_uint32),
        ("spare", ctypes.c_uint8 * 96),
    ]


_statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
"""None in glibc before 2.28."""


def status_of(fd: int) -> Status:
    """The status of the open file *fd*. Raises `OSError`."""
    found = _ask(fd, _STATX_TYPE | _STATX_INO | _STATX_SIZE)
    if found is None:
        status = os.fstat(fd)
        return Status(status.st_mode, status.st_dev, status.st_ino, status.st_rdev, status.st_size)
    device = os.makedev(found.dev_major, found.dev_minor)
    rdev = os.makedev(found.rdev_major, found.rdev_minor)
    return Status(found.mode, device, found.inode, rdev, found.size)


def direct_io_alignment(fd: int) -> tuple[int, int] | None:
    """For O_DIRECT on *fd*: the alignment in bytes of offsets and lengths, and of memory.

    Zeros if the file cannot do O_DIRECT; None if the kernel does not say (before Linux 6.1). Raises
    `OSError`.
    """
    found = _ask(fd, _STATX_DIOALIGN)
    if found is None or not found.mask & _STATX_DIOALIGN:
        return None
    return found.dio_offset_align, found.dio_mem_align


def _ask(fd: int, mask: int) -> _Statx | None:
    if _statx is None:
        return None
    found = _Statx()
    if _statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, mask, ctypes.byref(found)) < 0:
        number = ctypes.get_errno()
        if number in (errno.ENOSYS, errno.EPERM):  # seccomp of older containers
            return None
        raise OSError(number, os.strerror(number))
    return found
