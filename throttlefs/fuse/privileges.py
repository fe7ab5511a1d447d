"""The right to keep setuid and setgid bits, CAP_FSETID (capabilities(7)), which root's daemon
has to do without.

Whoever writes to a file or truncates it takes these bits away, unless he has CAP_FSETID. The
kernel leaves that to the filesystem behind a mount. If the daemon wrote with the right, a user
who may write to somebody else's setuid program could change it, and it would stay setuid in SRC.
So it writes without, and takes the right up only to set modes, which the kernel has allowed.

Rights belong to a thread, and are handed down to those that it starts (io_uring's as well).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_FSETID = 1 << 4
_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Set(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


_Sets = _Set * 2


def _call(function: str, sets: ctypes.Array[_Set]) -> None:
    header = _Header(_VERSION_3, 0)  # this thread
    if getattr(_libc, function)(ctypes.byref(header), ctypes.byref(sets)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def _use_fsetid(wanted: bool) -> bool:
    """Take CAP_FSETID up or lay it down; whether it was in use before."""
    sets = _Sets()
    _call("capget", sets)
    was_used = bool(sets[0].effective & _FSETID)
    if wanted != was_used and sets[0].permitted & _FSETID:
        sets[0].effective ^= _FSETID
        _call("capset", sets)
    return was_used


def lay_down() -> None:
    """Do without CAP_FSETID from now on, in this thread and those that it will start."""
    _use_fsetid(False)


@contextmanager
def modes_kept() -> Iterator[None]:
    """Use CAP_FSETID, if this process has it: for setting a file's mode."""
    was_used = _use_fsetid(True)
    try:
        yield
    finally:
        if not was_used:
            _use_fsetid(False)
