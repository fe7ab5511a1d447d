"""Has the kernel forget what it keeps of files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from . import wire


def drop_pages(fd: int, inodes: Sequence[int]) -> None:
    """Have the kernel forget the pages and attributes of *inodes*; closes *fd*.

    *fd* is a FUSE descriptor. Call it in a thread: the kernel waits for reads that are under way,
    and writes back what programs changed in mapped pages. The daemon has to serve that meanwhile.
    """
    size, what = wire.NOTIFY_INVAL_INODE_SIZE, wire.NOTIFY_INVAL_INODE
    try:
        for number in inodes:
            with suppress(OSError):  # ENOENT: the kernel does not know it any more
                os.write(fd, wire.notify_inval_inode(size, what, 0, number, 0, 0))
    finally:
        os.close(fd)
