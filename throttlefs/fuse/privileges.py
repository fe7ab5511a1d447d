"""What root's daemon does not use its rights for (capabilities(7)).

Names are made, removed and given modes by the filesystem user ids of the caller, without the
rights to what others own. The kernel has checked the same already, but by what it remembers of a
file, and by name; whoever may write below SRC can put another file there in between. What is
made this way belongs to the caller from the first moment on.

Whoever writes to a file or truncates it takes setuid and setgid bits away, unless he has
CAP_FSETID. The kernel leaves that to the filesystem behind a mount. If the daemon wrote with the
right, a user who may write to somebody else's setuid program could change it, and it would stay
setuid in SRC. So it writes without, and takes the right up only to set modes, which the kernel
has allowed.

Rights belong to a thread, and are handed down to those that it starts (io_uring's as well).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pyfuse3

_DAC_OVERRIDE = 1 << 1
_DAC_READ_SEARCH = 1 << 2
_FSETID = 1 << 4
_MKNOD = 1 << 27

# The kernel has checked these, by the caller's groups as well, which are not known here.
_KEPT = _DAC_OVERRIDE | _DAC_READ_SEARCH | _MKNOD

_SETGID_PROGRAM = stat.S_ISGID | stat.S_IXGRP
_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
for _function in (_libc.setfsuid, _libc.setfsgid):
    _function.argtypes = [ctypes.c_uint32]
    _function.restype = ctypes.c_uint32

_NOBODY_NEW = 0xFFFFFFFF


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


def _rights() -> ctypes.Array[_Set]:
    sets = _Sets()
    _call("capget", sets)
    return sets


def _use_fsetid(wanted: bool) -> bool:
    """Take CAP_FSETID up or lay it down; whether it was in use before."""
    sets = _rights()
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


@contextmanager
def acting_for(uid: int, gid: int, *, keep_modes: bool = False) -> Iterator[None]:
    """Do as the user *uid* and his group *gid* what follows, if this is root's daemon.

    Permissions of files and directories are taken as checked; that only owners may change modes
    and, in a sticky directory, names, is not. *keep_modes*: with CAP_FSETID.

    Raises `PermissionError` if the daemon may not become that user.
    """
    if os.geteuid() != 0 or (uid == 0 and gid == 0):
        with modes_kept() if keep_modes else nullcontext():
            yield
        return
    before = _rights()
    try:
        _become(uid, gid)
        now = _rights()
        wanted = (_KEPT if uid else now[0].effective) | (_FSETID if keep_modes else 0)
        now[0].effective = now[0].permitted & wanted
        _call("capset", now)
        yield
    finally:
        _libc.setfsuid(0)
        _libc.setfsgid(os.getegid())
        _call("capset", before)  # to become root again takes up everything


def mode_of_new(mode: int, caller: pyfuse3.RequestContext, dir_fd: int) -> int:
    """The mode to make a file with in the directory *dir_fd*."""
    if not _has_default_acl(dir_fd):
        mode &= ~caller.umask
    if os.geteuid() not in (0, caller.uid):
        # It will belong to us, and is not to do what its maker wants by our rights.
        mode &= ~(stat.S_ISUID | stat.S_ISGID)
    if mode & _SETGID_PROGRAM == _SETGID_PROGRAM:
        # Linux before 6.0 leaves this to the filesystem behind a mount as well.
        parent = os.fstat(dir_fd)
        if parent.st_mode & stat.S_ISGID and not may_keep_setgid(caller, parent.st_gid):
            mode &= ~stat.S_ISGID
    return mode


def _has_default_acl(dir_fd: int) -> bool:
    """Whether the directory has an ACL for what is made in it, which replaces the umask."""
    try:
        os.getxattr(b"/proc/self/fd/%d" % dir_fd, "system.posix_acl_default")
    except OSError:
        return False  # or a filesystem without ACLs
    return True


def may_keep_setgid(caller: pyfuse3.RequestContext, gid: int) -> bool:
    """Whether the setgid bit of a file of the group *gid* is the caller's to give."""
    if caller.uid == 0 or caller.gid == gid:
        return True
    try:
        return gid in pyfuse3.get_sup_groups(caller.pid)
    except (OSError, RuntimeError):
        return False  # gone, or in a namespace that we do not see


def _become(uid: int, gid: int) -> None:
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    # These two never say that they failed, but who it is now (setfsuid(2)).
    if _libc.setfsuid(_NOBODY_NEW) != uid or _libc.setfsgid(_NOBODY_NEW) != gid:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
