"""Finds data and holes of a file, and has the kernel write back what it keeps of a file.

If a program writes to a shared mapping, the kernel keeps the pages until it writes them back, as it
does with any file. SRC does not know of them: where they lie it may still have a hole.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final

from . import wire
from .in_thread import RunInThread

_SIZE_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Hole:
    """A part of a file without data in SRC: *length* bytes from *begin* on."""

    begin: int
    length: int


@dataclass(frozen=True, slots=True)
class Place:
    """What a search for data or for a hole has found."""

    found: int | None
    """The offset in bytes; None if there is no data from there on."""
    hole: Hole | None
    """The hole that the search has passed over or found, if there is one within the file."""

    def offset(self) -> int:
        """The offset in bytes. Raises `OSError`, ENXIO if nothing was found (lseek(2))."""
        if self.found is None:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return self.found


def seek(fd: int, offset: int, whence: int) -> Place:
    """Search *fd* from *offset* on, for SEEK_DATA or SEEK_HOLE (lseek(2)). Raises `OSError`."""
    size = os.fstat(fd).st_size
    if whence == os.SEEK_HOLE:
        found = os.lseek(fd, offset, os.SEEK_HOLE)
        if found >= size:
            return Place(found, None)
        end = _next_data(fd, found)
        return Place(found, Hole(found, (size if end is None else end) - found))
    if whence != os.SEEK_DATA:
        return Place(os.lseek(fd, offset, whence), None)
    if offset < 0:
        return Place(None, None)
    data = _next_data(fd, offset)
    end = size if data is None else data
    return Place(data, Hole(offset, end - offset) if offset < end else None)


def _next_data(fd: int, offset: int) -> int | None:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
        return None


class KernelPages:
    """The pages that the kernel keeps of the files of a mount.

    *in_thread* runs calls in threads that nothing else needs: a write-back ends when the loop has
    replied to its writes. They may wait for their limit, or for other threads. *fd*, the FUSE
    descriptor, is to be set before the first request comes.
    """

    def __init__(self, in_thread: RunInThread) -> None:
        self._in_thread = in_thread
        self.fd = -1

    async def write_back(self, number: int, part: Hole) -> None:
        """Have the *part* of the inode *number* written back, as far as programs changed it.

        The kernel sends these writes as any others. It forgets all pages of the part.
        """
        length = min(part.length, _SIZE_MAX - part.begin)
        size, what = wire.NOTIFY_INVAL_INODE_SIZE, wire.NOTIFY_INVAL_INODE
        message = wire.notify_inval_inode(size, what, 0, number, part.begin, length)
        try:
            await self._in_thread(os.write, self.fd, message)
        except OSError:
            pass  # the kernel has forgotten the inode, or the mount has ended
