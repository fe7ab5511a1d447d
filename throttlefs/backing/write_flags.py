"""Flags of one write, to be durable when it returns, or to append (pwritev2(2))."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

from . import blocking
from .buffers import Data
from .engine import Engine

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


async def write_with_flags(
    engine: Engine, fd: int, offset: int, data: Data, flags: int, *, offload: bool = False
) -> int:
    """`Engine.write` with *flags*, also where the filesystem knows none (EOPNOTSUPP)."""
    try:
        return await engine.write(fd, offset, data, offload=offload, flags=flags)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    return await engine.call(_write_without_flags, fd, offset, data, flags)


async def write_from_with_flags(
    engine: Engine, fd: int, offset: int, address: int, size: int, flags: int
) -> int:
    """`Engine.write_from` with *flags* of `DURABLE`, also where the filesystem knows none."""
    try:
        return await engine.write_from(fd, offset, address, size, flags=flags)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    written = await engine.write_from(fd, offset, address, size)
    await engine.fsync(fd, not flags & os.RWF_SYNC)
    return written


def reopened(fd: int, more_flags: int = 0) -> int:
    """A second descriptor of the open file *fd*, without O_DIRECT and with *more_flags*.

    It has its own open file description. May block. Raises `OSError`.
    """
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_DSYNC)
    return os.open(f"/proc/self/fd/{fd}", flags | more_flags | os.O_CLOEXEC)


def _write_without_flags(fd: int, offset: int, data: Data, flags: int) -> int:
    """Make a write durable by other system calls, as *flags* ask."""
    own = reopened(fd, os.O_APPEND) if flags & APPEND else -1
    try:
        written = blocking.write(fd if own < 0 else own, offset, data)
        if flags & os.RWF_SYNC:
            os.fsync(fd)
        elif flags & os.RWF_DSYNC:
            os.fdatasync(fd)
    finally:
        if own >= 0:
            os.close(own)
    return written
