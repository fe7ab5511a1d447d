"""Flags of one write, to be durable when it returns, or to append (pwritev2(2))."""

from __future__ import annotations

import fcntl
import os
from typing import Final

DURABLE: Final = os.RWF_DSYNC | os.RWF_SYNC
"""Linux 4.7. With RWF_SYNC all metadata are durable as well, as with O_SYNC."""

APPEND: Final = os.RWF_APPEND
"""Linux 4.16. The offset of the write does not matter."""


def write_flags(open_flags: int) -> int:
    """The flags for one write that correspond to open(2)'s *open_flags* of the file.

    FUSE gives the flags of each write, which fcntl(2) or pwritev2(2) may have changed
    (``fuse_write_in.flags``).
    """
    flags = APPEND if open_flags & os.O_APPEND else 0
    if open_flags & os.O_SYNC == os.O_SYNC:
        return flags | os.RWF_SYNC
    return flags | os.RWF_DSYNC if open_flags & os.O_DSYNC else flags


def reopened(fd: int, more_flags: int = 0) -> int:
    """A second descriptor of the open file *fd*, without O_DIRECT and with *more_flags*.

    It has its own open file description. May block. Raises `OSError`.
    """
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_DSYNC | os.O_APPEND)
    return os.open(f"/proc/self/fd/{fd}", flags | more_flags | os.O_CLOEXEC)
