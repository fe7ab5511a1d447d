"""How many files one user may have open through a mount, so that some are left for others.

The daemon has one bound on its descriptors for all; a program's own bound may be larger.
"""

from __future__ import annotations

import errno
import os
import resource

_SHARE = 3
"""One user may use up the daemon's descriptors divided by this. Inodes use as many."""


class Shares:
    """Counts open handles by user. Root, and the user who mounted, are not held to a share."""

    def __init__(self, *, handle_descriptors: int = 1) -> None:
        """*handle_descriptors*: how many descriptors an open file may come to use."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = limit // (_SHARE * handle_descriptors)
        self._free = {0, os.geteuid()}
        self._open: dict[int, int] = {}

    def take(self, uid: int) -> None:
        """*uid* opens one more. Raises `OSError`, EMFILE, if that is too many."""
        count = self._open.get(uid, 0)
        if count >= self._most and uid not in self._free:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self._open[uid] = count + 1

    def give_back(self, uid: int) -> None:
        """*uid* has one less open."""
        left = self._open[uid] - 1
        if left:
            self._open[uid] = left
        else:
            del self._open[uid]
