"""The system calls that Python's ``os`` module lacks, through ctypes.

Each raises `OSError` with the call's own errno.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

NOW = -(1 << 80)
"""For `utimens`: the present. No file has such a time."""

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


def renameat2(old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int) -> None:
    """rename(2) with `RENAME_NOREPLACE` or `RENAME_EXCHANGE`; directories are descriptors."""
    _check(_renameat2(old_dir, old, new_dir, new, flags))


def utimens(path: bytes, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Set *path*'s times in ns since the epoch (utimensat(2)).

    None leaves a time as it is. `NOW` sets it to the present, which needs no more than write
    permission if both are `NOW`.
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
    """When the file was made, in ns since the epoch (statx(2)); None where nobody knows."""
    found = _Statx()
    if _statx is None or _statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, ctypes.byref(found)):
        return None
    if not found.stx_mask & _STATX_BTIME:
        return None
    return int(found.btime_sec) * 1_000_000_000 + int(found.btime_nsec)
