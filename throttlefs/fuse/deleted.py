"""Lets go of files that were deleted in SRC itself.

The kernel forgets an inode when its name goes through the mount. Of a name that goes below, in
SRC, it hears only when somebody asks for it again, which may be never; and until then the
descriptor that holds the inode would keep the space of a whole disk image taken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from .inodes import InodeTable

SWEEP_S = 2.0

# A look at one file takes about 2 us, and requests are not to wait for it.
_AT_A_TIME = 200
_BREAK_S = 0.01


async def let_go_of_deleted(inodes: InodeTable, close: Callable[[int], Awaitable[None]]) -> None:
    """Look through the held descriptors every `SWEEP_S`, and *close* those of deleted files."""
    while True:
        await trio.sleep(SWEEP_S)
        held = inodes.held()
        for start in range(0, len(held), _AT_A_TIME):
            for fd in inodes.take_deleted(held[start : start + _AT_A_TIME]):
                await close(fd)
            await trio.sleep(_BREAK_S)
