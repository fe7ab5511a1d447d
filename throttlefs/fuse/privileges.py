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

How a thread takes other ids and rights is in `throttlefs.host.credentials`.
"""

from __future__ import annotations

import os
import stat

import pyfuse3

from throttlefs.host.credentials import (
    acting_for,
    acts_as_itself,
    in_group,
    lay_down,
    modes_kept,
)

__all__ = [
    "SET_ID",
    "acting_for",
    "acts_as_itself",
    "in_group",
    "lay_down",
    "may_keep_setgid",
    "mode_of_new",
    "modes_kept",
]

SET_ID = stat.S_ISUID | stat.S_ISGID
"""Only a mode with one of these needs CAP_FSETID."""

_SETGID_PROGRAM = stat.S_ISGID | stat.S_IXGRP


def mode_of_new(mode: int, caller: pyfuse3.RequestContext, dir_fd: int) -> int:
    """The mode to make a file with in the directory *dir_fd*."""
    if mode & caller.umask and not _has_default_acl(dir_fd):
        mode &= ~caller.umask
    if os.geteuid() not in (0, caller.uid):
        # It will belong to us, and its maker must not use our rights through it.
        mode &= ~SET_ID
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
