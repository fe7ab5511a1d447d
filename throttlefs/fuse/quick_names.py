"""Decides whether a change of names runs on the loop or in a thread.

On a local filesystem a name is made, moved or removed in 5 to 30 us. A thread takes 50 us more: it
has to wake up, and then the loop has to. But the journal of the filesystem may let a change wait
for the disk. On ext4 on a hard disk (a `hdd-7200` of our own) none of 3,501 renames took over 1 ms.
While the fsyncs of others kept its journal busy, 62 of 2,422 waited, 18 ms each (docs/backing.md).

So a change runs on the loop while changes are quick, and no fsync of this mount is under way there.
Stalls are learned as those of writes are, and more is learned from each: a stall of over 5 ms
sends changes to threads for a second, and soon for a minute.

What may wait for something other than a disk is always for a thread: names of files that somebody
has open (a write or a discard holds the inode's lock), filesystems that the kernel's NFS server may
export (it gives delegations, which a change has to call back), and any change while a call in a
thread is stuck, for it may hold a directory's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from time import monotonic
from typing import Final, TypeVar

from throttlefs.backing import STALL, StallHabit
from throttlefs.host import filesystems

T = TypeVar("T")

CREDIT: Final = 5e-3
"""s of stalls that are allowed beside the share: less than for writes, as they help fewer."""

PAUSE_MIN, PAUSE_MAX = 1.0, 60.0
"""s for which changes go to threads after that; doubled each time it happens again."""

_LOOK_EVERY: Final = 10.0
"""s between two looks for the kernel's NFS server."""


class Change(Enum):
    """Kinds of changes, whose stalls are learned apart."""

    MAKE = "make a file"  # ext4 may look for a free inode for 0.6 ms
    MOVE = "rename, or remove a name"
    FREE = "close what may have blocks to free"


class QuickNames:
    """Says which changes of names are quick, by st_dev and kind.

    *is_local* says whether a device is one of this machine. ``is_stuck``, which may be set, says
    whether a call in a thread has been under way for long.
    """

    def __init__(self, is_local: Callable[[int], bool]) -> None:
        self._is_local = is_local
        self.is_stuck: Callable[[], bool] = lambda: False
        self._habits: dict[tuple[int, Change], StallHabit] = {}
        self._syncs: dict[int, int] = {}  # how many are under way
        self._has_nfs_server = True
        self._looked_at = -_LOOK_EVERY

    def are_quick(self, device: int, kind: Change) -> bool:
        """Whether a change of that *kind* may run on the loop."""
        now = monotonic()
        habit = self._habits.get((device, kind))
        if habit is not None and now < habit.resume_at:
            return False
        if device in self._syncs or not self._is_local(device) or self.is_stuck():
            return False
        if now - self._looked_at >= _LOOK_EVERY:
            self._looked_at = now
            self._has_nfs_server = filesystems.may_be_exported()
        return not self._has_nfs_server

    def run(self, device: int, kind: Change, change: Callable[[], T]) -> T:
        """The result of *change*, which runs here, and note how long it took."""
        began = monotonic()
        try:
            return change()
        finally:
            ended = monotonic()
            if ended - began > STALL:
                self._stalled(device, kind, began, ended)

    def _stalled(self, device: int, kind: Change, began: float, ended: float) -> None:
        habit = self._habits.get((device, kind))
        if habit is None:
            habit = StallHabit(CREDIT, PAUSE_MIN, PAUSE_MAX)
            self._habits[device, kind] = habit
        habit.stalled(began, ended)

    @contextmanager
    def syncing(self, device: int) -> Iterator[None]:
        """An fsync on *device* is under way in this block; its journal commits."""
        syncs = self._syncs
        syncs[device] = syncs.get(device, 0) + 1
        try:
            yield
        finally:
            syncs[device] -= 1
            if not syncs[device]:
                del syncs[device]
