"""Changes attributes of a file, in threads: owner, mode, size, times, extended attributes."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable

import pyfuse3

from throttlefs.backing import block_device
from throttlefs.host import syscalls

from . import privileges
from .arguments import AttributesToSet

_TOUCH_TOLERANCE_NS = 2_000_000_000


def set_attributes(
    fd: int,
    attr: pyfuse3.EntryAttributes,
    fields: pyfuse3.SetattrFields,
    size_fd: int,
    ctx: pyfuse3.RequestContext,
) -> os.stat_result:
    """Change the attributes that *fields* names of the file *fd* (O_PATH); returns its new status.

    Call it in a thread. *size_fd* is a descriptor of the handle through which the size is changed,
    or -1; it is closed here. Raises `OSError`.
    """
    try:
        path = b"/proc/self/fd/%d" % fd
        if fields.update_uid or fields.update_gid or fields.update_mode:
            _check_owner(os.fstat(fd), attr, fields, ctx)
        if fields.update_uid or fields.update_gid:
            os.chown(
                path,
                attr.st_uid if fields.update_uid else -1,
                attr.st_gid if fields.update_gid else -1,
            )
        if fields.update_mode:
            # After chown, which takes setuid and setgid away.
            _set_mode(path, attr.st_mode, os.fstat(fd), ctx)
        if fields.update_size and not block_device.is_device_of_size(fd, attr.st_size):
            with _keeping_setgid(os.fstat(fd), ctx):
                if size_fd >= 0:
                    os.ftruncate(size_fd, attr.st_size)
                else:
                    os.truncate(path, attr.st_size)
        if fields.update_atime or fields.update_mtime:
            _set_times(path, attr, fields)
        return os.fstat(fd)
    finally:
        if size_fd >= 0:
            os.close(size_fd)  # in the thread: it may be the last of an unlinked file


def _keeping_setgid(
    st: os.stat_result, ctx: pyfuse3.RequestContext
) -> contextlib.AbstractContextManager[None]:
    """Keep a setgid bit that marks no program, if the caller is in the group.

    The kernel removes it if anybody else changes the file (``setattr_should_drop_sgid``).
    """
    is_mark = st.st_mode & (stat.S_ISGID | stat.S_IXGRP) == stat.S_ISGID
    if is_mark and privileges.may_keep_setgid(ctx, st.st_gid):
        return privileges.in_group(st.st_gid)
    return contextlib.nullcontext()


def _set_mode(path: bytes, mode: int, st: os.stat_result, ctx: pyfuse3.RequestContext) -> None:
    if stat.S_ISLNK(st.st_mode):
        raise OSError(errno.EOPNOTSUPP, "symlinks have no mode")
    # Callers other than the owner only take setuid and setgid away: _check_owner has checked that.
    uid, gid = (ctx.uid, ctx.gid) if ctx.uid == st.st_uid else (0, 0)
    # The kernel has compared the caller's groups with the file's, but perhaps with an old one.
    keep_modes = uid == 0 or privileges.may_keep_setgid(ctx, st.st_gid)
    with privileges.acting_for(uid, gid, keep_modes=keep_modes):
        os.chmod(path, stat.S_IMODE(mode))


def change_xattr(
    change: Callable[[], None], name: bytes, fd: int, ctx: pyfuse3.RequestContext
) -> None:
    """Make *change* of the extended attribute *name* of *fd* as the caller. Raises `OSError`."""
    if not name.startswith(b"system."):
        change()
        return
    # An ACL of any kind is like a mode: only the owner may change it. The kernel checks only POSIX
    # ACLs before it asks.
    keep_modes = privileges.may_keep_setgid(ctx, os.fstat(fd).st_gid)
    with privileges.acting_for(ctx.uid, ctx.gid, keep_modes=keep_modes):
        change()


def _set_times(path: bytes, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> None:
    """Set the times that *fields* names. Raises `OSError`."""
    atime_ns = attr.st_atime_ns if fields.update_atime else None
    mtime_ns = attr.st_mtime_ns if fields.update_mtime else None
    if isinstance(fields, AttributesToSet):
        syscalls.utimens(
            path,
            syscalls.NOW if fields.atime_now else atime_ns,
            syscalls.NOW if fields.mtime_now else mtime_ns,
        )
        return
    try:
        syscalls.utimens(path, atime_ns, mtime_ns)
    except PermissionError:
        # The kernel let the caller through, so this is `touch` by a user who may write but does not
        # own the file. pyfuse3 has turned its "now" into a number, which only owners may set.
        now = time.time_ns()
        for value in (atime_ns, mtime_ns):
            if value is not None and abs(now - value) > _TOUCH_TOLERANCE_NS:
                raise
        syscalls.utimens(
            path,
            None if atime_ns is None else syscalls.NOW,
            None if mtime_ns is None else syscalls.NOW,
        )


def _check_owner(
    st: os.stat_result,
    attr: pyfuse3.EntryAttributes,
    fields: pyfuse3.SetattrFields,
    ctx: pyfuse3.RequestContext,
) -> None:
    """Check that the owner asks, if the change is about permissions.

    The kernel has checked that already, but it may remember an old owner. Anyone who writes takes
    setuid and setgid away; that is allowed. Raises `PermissionError`.
    """
    if ctx.uid in (0, st.st_uid):
        return
    old, new = stat.S_IMODE(st.st_mode), stat.S_IMODE(attr.st_mode)
    only_takes_away = old == new | old & (stat.S_ISUID | stat.S_ISGID)
    if fields.update_uid or fields.update_gid or not only_takes_away:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
