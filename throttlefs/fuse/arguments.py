"""The types of what handlers take and return, as subclasses of pyfuse3's.

pyfuse3's own `RequestContext` and `SetattrFields` cannot be filled from outside, and its `FileInfo`
has no place for every flag of a reply to OPEN. These subclasses mend that.
"""

from __future__ import annotations

from typing import Any

import pyfuse3

from . import wire
from .wire import Fattr


class Caller(pyfuse3.RequestContext):
    """The caller: its user, group and process id, and its umask if it makes a file."""

    __slots__ = ("gid", "pid", "uid", "umask")

    uid: int
    gid: int
    pid: int
    umask: int

    def __init__(self, uid: int, gid: int, pid: int, umask: int = 0) -> None:
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.umask = umask

    def __repr__(self) -> str:
        return f"Caller(uid={self.uid}, gid={self.gid}, pid={self.pid}, umask={self.umask:#o})"


class AttributesToSet(pyfuse3.SetattrFields):
    """Which attributes a SETATTR sets.

    ``atime_now`` and ``mtime_now`` mean the present, which needs only write permission
    (utimensat(2)). pyfuse3 turns them into numbers, which only owners may set.
    """

    __slots__ = (
        "atime_now",
        "mtime_now",
        "update_atime",
        "update_ctime",
        "update_gid",
        "update_mode",
        "update_mtime",
        "update_size",
        "update_uid",
    )

    atime_now: bool
    mtime_now: bool

    def __init__(self, valid: int) -> None:
        """*valid*: the request's ``FATTR_*`` bits."""
        fields: Any = self  # mypy takes pyfuse3's own fields for read-only
        fields.atime_now = bool(valid & Fattr.ATIME_NOW)
        fields.mtime_now = bool(valid & Fattr.MTIME_NOW)
        fields.update_atime = bool(valid & (Fattr.ATIME | Fattr.ATIME_NOW))
        fields.update_mtime = bool(valid & (Fattr.MTIME | Fattr.MTIME_NOW))
        fields.update_ctime = bool(valid & Fattr.CTIME)
        fields.update_mode = bool(valid & Fattr.MODE)
        fields.update_uid = bool(valid & Fattr.UID)
        fields.update_gid = bool(valid & Fattr.GID)
        fields.update_size = bool(valid & Fattr.SIZE)


class OpenFile(pyfuse3.FileInfo):
    """The reply to an OPEN or CREATE.

    *fh* is the handle by which later requests name the file; *open_flags* are the ``FOPEN_*``
    bits for the kernel.
    """

    __slots__ = ("open_flags",)

    open_flags: int

    def __init__(self, fh: int, open_flags: int) -> None:
        self.fh = pyfuse3.FileHandleT(fh)
        self.direct_io = bool(open_flags & wire.FOPEN_DIRECT_IO)
        self.keep_cache = bool(open_flags & wire.FOPEN_KEEP_CACHE)
        self.nonseekable = bool(open_flags & wire.FOPEN_NONSEEKABLE)
        self.open_flags = open_flags
