"""The system calls that Python's ``os`` module lacks, through ctypes.

Each raises `OSError` with the call's own errno.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Any, NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)

_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_XDEV = 1
_has_openat2 = True

_CLOSE_RANGE = 436
_CLOSE_RANGE_UNSHARE = 1 << 1
_LAST_DESCRIPTOR = (1 << 32) - 1

_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_fallocate = _libc.fallocate64
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

_getdents64 = _libc.getdents64
_getdents64.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
_getdents64.restype = ctypes.c_ssize_t

_DIRENT64 = struct.Struct("=QqHB")
"""``struct linux_dirent64``: d_ino, d_off, d_reclen, d_type; the name follows."""


class _OpenHow(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


_how_here: dict[int, tuple[Any, int]] = {}
"""A reference to the `_OpenHow` of `open_on_same_filesystem`, and its size, by flags."""

AT_FDCWD = -100
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

NOW = -(1 << 80)
"""For `utimens`: the present. No file has such a time."""

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
FALLOC_FL_ZERO_RANGE = 16

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


_TimespecPair = _Timespec * 2

_renameat2 = _libc.renameat2
_renameat2.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
]
_utimensat = _libc.utimensat
_utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_Timespec), ctypes.c_int]
_umount2 = _libc.umount2
_umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]

_mount = _libc.mount
_mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
]


class _Statx(ctypes.Structure):
    _fields_ = [
        ("stx_mask", ctypes.c_uint32),
        ("before", ctypes.c_uint8 * 76),
        ("btime_sec", ctypes.c_int64),
        ("btime_nsec", ctypes.c_uint32),
        ("after", ctypes.c_uint8 * 164),
    ]


_statx = getattr(_libc, "statx", None)
_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800


def _check(result: int) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def open_on_same_filesystem(name: bytes, flags: int, dir_fd: int) -> int:
    """open(2), relative to *dir_fd*, of a file on the same filesystem (openat2(2)).

    Raises `OSError`, EXDEV if the file is on another one. If openat2 is forbidden (the seccomp
    filter of a container may not know it), this is open(2) on any filesystem.
    """
    global _has_openat2
    if _has_openat2:
        how = _how_here.get(flags)
        if how is None:
            made = _OpenHow(flags, 0, _RESOLVE_NO_XDEV)
            how = _how_here[flags] = (ctypes.byref(made), ctypes.sizeof(made))
        fd = _syscall(_OPENAT2, dir_fd, name, *how)
        if fd >= 0:
            return int(fd)
        error = ctypes.get_errno()
        if error not in (errno.ENOSYS, errno.EPERM):
            raise OSError(error, os.strerror(error))
        _has_openat2 = error != errno.ENOSYS
    return os.open(name, flags, dir_fd=dir_fd)


class DirectoryEntry(NamedTuple):
    """A name in a directory, and where a listing goes on after it (lseek(2))."""

    name: bytes
    next_offset: int


def list_directory(fd: int, room: int) -> list[DirectoryEntry]:
    """The next entries of the open directory *fd*: as many as fit into *room* bytes.

    None at its end. Raises `OSError`. See getdents64(2).
    """
    buffer = ctypes.create_string_buffer(room)
    size = _getdents64(fd, buffer, room)
    if size < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    entries = []
    raw = buffer.raw
    at = 0
    while at < size:
        _, offset, length, _ = _DIRENT64.unpack_from(raw, at)
        start = at + _DIRENT64.size
        entries.append(DirectoryEntry(raw[start : raw.index(b"\0", start)], offset))
        at += length
    return entries


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with *mode*'s flags (``FALLOC_FL_*``); *offset* and *length* in bytes."""
    _check(_fallocate(fd, mode, offset, length))


def syncfs(fd: int) -> None:
    """Make all of the filesystem durable that the open file *fd* is on (syncfs(2))."""
    _check(_libc.syncfs(fd))


def renameat2(old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int) -> None:
    """rename(2) with `RENAME_NOREPLACE` or `RENAME_EXCHANGE`; directories are descriptors."""
    _check(_renameat2(old_dir, old, new_dir, new, flags))


def utimens(path: bytes, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Set *path*'s times in ns since the epoch (utimensat(2)).

    None leaves a time as it is. `NOW` sets it to the present; if both are `NOW`, that needs only
    write permission.
    """
    times = _TimespecPair()
    for spec, value in zip(times, (atime_ns, mtime_ns), strict=True):
        if value is None:
            spec.tv_nsec = UTIME_OMIT
        elif value == NOW:
            spec.tv_nsec = UTIME_NOW
        else:
            spec.tv_sec, spec.tv_nsec = divmod(value, 1_000_000_000)
    _check(_utimensat(AT_FDCWD, path, times, 0))


def umount(path: bytes, lazy: bool = False) -> None:
    """Unmount *path*, never following a symlink at its end (umount2(2)); for root."""
    _check(_umount2(path, UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0)))


def mount(source: bytes, target: bytes, fstype: bytes) -> None:
    """Mount a filesystem that needs no options (mount(2)); for root."""
    _check(_mount(source, target, fstype, 0, None))


def birth_ns(fd: int) -> int | None:
    """When the file was made, in ns since the epoch (statx(2)); None if that is unknown."""
    found = _Statx()
    if _statx is None or _statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, ctypes.byref(found)):
        return None
    if not found.stx_mask & _STATX_BTIME:
        return None
    return int(found.btime_sec) * 1_000_000_000 + int(found.btime_nsec)


def keep_only(fd: int) -> None:
    """Give the calling thread a table of descriptors of its own, in which only *fd* is open.

    Those of the other threads stay open (close_range(2), Linux 5.9). Without that call, which the
    seccomp filter of a container may not know, nothing changes.
    """
    if _syscall(_CLOSE_RANGE, fd + 1, _LAST_DESCRIPTOR, _CLOSE_RANGE_UNSHARE) == 0 and fd > 0:
        _syscall(_CLOSE_RANGE, 0, fd - 1, 0)
