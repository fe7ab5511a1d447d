"""Keeps root's daemon from using rights that its callers lack (capabilities(7)).

The daemon makes and removes names and sets modes with the filesystem user ids of the caller,
without rights to the files of others. The kernel has already checked permissions, but of the file
that it remembers, and by name. Whoever may write below SRC can put another file there in between.
New files belong to the caller from the first moment on.

A process that writes to a file or truncates it takes its setuid and setgid bits away, unless it has
CAP_FSETID. The kernel leaves that to the filesystem behind a mount. If the daemon wrote with
CAP_FSETID, a user who may write to somebody else's setuid program could change it, and it would
stay setuid in SRC. So the daemon writes without it, and uses it only to set modes that the kernel
has allowed.

Rights belong to a thread. Threads that it starts inherit them, those of io_uring too.
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

# The kernel has checked these with all groups of the caller, which are not known here.
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
    """Begin or stop to use CAP_FSETID; returns whether it was in use before."""
    sets = _rights()
    was_used = bool(sets[0].effective & _FSETID)
    if wanted != was_used and sets[0].permitted & _FSETID:
        sets[0].effective ^= _FSETID
        _call("capset", sets)
    return was_used


def lay_down() -> None:
    """Stop to use CAP_FSETID, in this thread and in those that it will start."""
    _use_fsetid(False)


@contextmanager
def modes_kept() -> Iterator[None]:
    """Use CAP_FSETID, if this process has it, to set the mode of a file."""
    was_used = _use_fsetid(True)
    try:
        yield
    finally:
        if not was_used:
            _use_fsetid(False)


@contextmanager
def acting_for(uid: int, gid: int, *, keep_modes: bool = False) -> Iterator[None]:
    """Act as the user *uid* with the group *gid* in this block, if this is root's daemon.

    Permissions of files and directories count as checked. The kernel checks again that only owners
    change modes, and names in a sticky directory. *keep_modes*: use CAP_FSETID.

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
        _call("capset", before)  # becoming root again has raised all capabilities


@contextmanager
def in_group(gid: int) -> Iterator[None]:
    """Be in the group *gid* for what follows, if this is root's daemon; in this thread."""
    if os.geteuid() != 0:
        yield
        return
    _libc.setfsgid(gid)
    try:
        yield
    finally:
        _libc.setfsgid(os.getegid())


def mode_of_new(mode: int, caller: pyfuse3.RequestContext, dir_fd: int) -> int:
    """The mode to make a file with in the directory *dir_fd*."""
    if not _has_default_acl(dir_fd):
        mode &= ~caller.umask
    if os.geteuid() not in (0, caller.uid):
        # It will belong to us, and its maker must not use our rights through it.
        mode &= ~(stat.S_ISUID | stat.S_ISGID)
    if mode & _SETGID_PROGRAM == _SETGID_PROGRAM:
        # Linux before 6.0 leaves this too to the filesystem behind a mount.
        parent = os.fstat(dir_fd)
        if parent.st_mode & stat.S_ISGID and not may_keep_setgid(caller, parent.st_gid):
            mode &= ~stat.S_ISGID
    return mode


def _has_default_acl(dir_fd: int) -> bool:
    """Whether the directory has an ACL for new files, which replaces the umask."""
    try:
        os.getxattr(b"/proc/self/fd/%d" % dir_fd, "system.posix_acl_default")
    except OSError:
        return False  # or a filesystem without ACLs
    return True


def may_keep_setgid(caller: pyfuse3.RequestContext, gid: int) -> bool:
    """Whether the caller may set the setgid bit of a file of the group *gid*."""
    if caller.uid == 0 or caller.gid == gid:
        return True
    try:
        return gid in pyfuse3.get_sup_groups(caller.pid)
    except (OSError, RuntimeError):
        return False  # it is gone, or in a namespace that we do not see


def _become(uid: int, gid: int) -> None:
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    # These two report no failure; they return the id in use before the call (setfsuid(2)).
    if _libc.setfsuid(_NOBODY_NEW) != uid or _libc.setfsgid(_NOBODY_NEW) != gid:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
