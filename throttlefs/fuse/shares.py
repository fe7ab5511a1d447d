"""Bounds how many files and directories each user may have open through a mount.

All users share the descriptors of the daemon. The bound of a program may be larger, and one person
may be many users (subordinate uids, subuid(5)).
"""

from __future__ import annotations

import errno
import os
import resource

_ONE_IN = 3
"""One user may use the daemon's descriptors divided by this. Inodes use as many."""

_ALL_PERCENT = 50
"""The part of the daemon's descriptors that all users together may use.

Inodes use at most a third, so a sixth is left for root, for the user who mounted, for control
sockets and for files that are open for a moment.
"""


class Shares:
    """Counts open handles by user. Root, and the user who mounted, are not held to a share."""

    def __init__(self, *, handle_descriptors: int = 1, limit: int | None = None) -> None:
        """*handle_descriptors*: how many descriptors an open file may come to use.

        *limit*: how many descriptors there are; RLIMIT_NOFILE if it is None.
        """
        if limit is None:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_of_one = limit // (_ONE_IN * handle_descriptors)
        self._most_of_all = limit * _ALL_PERCENT // (100 * handle_descriptors)
        self._free = {0, os.geteuid()}
        self._open: dict[int, int] = {}
        self._all = 0

    def __repr__(self) -> str:
        return f"<Shares {self._all} of {self._most_of_all} open by {len(self._open)} users>"

    def take(self, uid: int) -> None:
        """Count one more for *uid*. Raises `OSError`, EMFILE, if that is too many."""
        if uid in self._free:
            return
        count = self._open.get(uid, 0)
        if count >= self._most_of_one or self._all >= self._most_of_all:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self._open[uid] = count + 1
        self._all += 1

    def give_back(self, uid: int) -> None:
        """Count one less for *uid*."""
        if uid in self._free:
            return
        self._all -= 1
        left = self._open[uid] - 1
        if left:
            self._open[uid] = left
        else:
            del self._open[uid]
