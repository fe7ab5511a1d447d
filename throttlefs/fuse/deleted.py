"""Closes the descriptors of files that were deleted in SRC itself.

The kernel forgets an inode when its name is removed through the mount. When the name is removed in
SRC, the kernel notices only when somebody looks it up again, which may be never. Until then the
descriptor that holds the inode would keep the space of a whole disk image allocated.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Awaitable, Callable

import trio

from throttlefs.host.files import FileKey

from .inode import Inode
from .inodes import InodeTable

SWEEP_S = 2.0
"""How long after one sweep the next one begins, at least."""

# On an idle mount sweeps take no more than this share of a CPU.
_SHARE = 0.0005

# The thread holds the interpreter lock for about 2 us a file; requests must not wait for it.
_AT_A_TIME = 200
_BREAK_S = 0.01


async def let_go_of_deleted(
    inodes: InodeTable, close: Callable[[int, FileKey], Awaitable[None]]
) -> None:
    """Look through the held descriptors now and then, and *close* those of deleted files.

    With few descriptors it does so every `SWEEP_S`, with 10,000 every 40 s or so.
    """
    pause = SWEEP_S
    while True:
        await trio.sleep(pause)
        held = inodes.held()
        spent = 0.0
        for start in range(0, len(held), _AT_A_TIME):
            with inodes.all_pinned(held[start : start + _AT_A_TIME]) as looked_at:
                # In a thread, because a network filesystem may be slow to answer. If it never
                # answers, the end of the daemon must not wait for it.
                deleted, seconds = await trio.to_thread.run_sync(
                    deleted_among, looked_at, abandon_on_cancel=True
                )
            spent += seconds
            for fd, key in inodes.take_deleted(deleted):
                await close(fd, key)
            await trio.sleep(_BREAK_S)
        pause = max(SWEEP_S, spent / _SHARE)


def deleted_among(inodes: list[Inode]) -> tuple[list[Inode], float]:
    """The deleted ones among *inodes*, and how long the search took (s of CPU).

    Only regular files: a directory may be somebody's working directory.
    """
    began = time.thread_time()
    deleted = []
    for inode in inodes:
        try:
            st = os.fstat(inode.fd)
        except OSError:
            continue
        if not st.st_nlink and stat.S_ISREG(st.st_mode):
            deleted.append(inode)
    return deleted, time.thread_time() - began
