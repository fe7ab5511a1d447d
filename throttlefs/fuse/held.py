"""Keeps the O_PATH descriptors of inodes, up to a bound; the least used are closed first."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Container
from typing import Final

from throttlefs.host import syscalls
from throttlefs.host.files import FileKey, clock_of_files

from .inode import Inode

_MOST_LOOKED_AT: Final = 1024
_FEW: Final = 16


class HeldDescriptors:
    """The inodes that have a descriptor of their own, at most about *most* of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Inode, None] = OrderedDict()  # the least used first
        self.hidden: Container[FileKey] = ()
        """Files that are found elsewhere, whatever has become of their names."""
        self._excess_borne = 0  # how many more are held before anybody looks for one to close

    def __len__(self) -> int:
        return len(self._held)

    def inodes(self) -> list[Inode]:
        """The inodes that have a descriptor."""
        return list(self._held)

    def let_go(self, inode: Inode) -> None:
        """Take *inode* out; its descriptor, if it has one, belongs to the caller from now on."""
        self._held.pop(inode, None)

    def clear(self) -> None:
        """Forget all inodes; their descriptors are closed."""
        self._held.clear()

    def hold(self, inode: Inode, fd: int) -> None:
        """Make *fd* (O_PATH) the descriptor of *inode*; closes others if there are too many."""
        inode.fd = fd
        self._held[inode] = None
        excess = len(self._held) - self._most
        if excess > self._excess_borne:
            # A few at once, so that the scan is not repeated for every lookup.
            few = self._most // 32
            inode.pins += 1
            closed = self.evict(excess + few)
            inode.pins -= 1
            # Perhaps many deleted files are held that somebody has open: try again a little later.
            self._excess_borne = 0 if closed >= excess else excess - closed + few + _FEW

    def evict(self, count: int) -> int:
        """Close up to *count* descriptors, the least used first (a second chance for each).

        Returns how many were closed. Looks at `_MOST_LOOKED_AT` descriptors at most: each takes
        some system calls, and all requests wait meanwhile.
        """
        closed = 0
        for _ in range(min(2 * len(self._held), _MOST_LOOKED_AT)):
            if closed >= count:
                break
            inode, _none = self._held.popitem(last=False)
            if inode.pins or inode.recently_used or not self._can_reopen(inode):
                inode.recently_used = False
                self._held[inode] = None
                continue
            inode.left_ns = clock_of_files()
            os.close(inode.fd)
            inode.fd = -1
            closed += 1
        return closed

    def _can_reopen(self, inode: Inode) -> bool:
        """Whether the file would be found again without its descriptor."""
        return inode.key in self.hidden or _can_reopen(inode)


def _can_reopen(inode: Inode) -> bool:
    """Whether the file would be found again by its name."""
    if inode.handle_fds:
        return True
    parent = inode.parent
    if parent is None:
        return False
    born = syscalls.birth_ns(inode.fd)
    if born is not None and born >= clock_of_files():
        return False  # made by another clock: it would seem to be made after it was closed
    if parent.fd < 0:
        return True  # as certain as the parent was when its own descriptor was closed
    try:
        st = os.stat(inode.name, dir_fd=parent.fd, follow_symlinks=False)
    except OSError:
        return False
    return (st.st_dev, st.st_ino) == inode.key
