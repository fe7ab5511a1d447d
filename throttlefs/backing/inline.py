"""When a read or write may be done at once on the event loop."""

from __future__ import annotations

import ctypes
import os
import stat
from weakref import WeakValueDictionary

STALL = 0.25e-3
"""s: a write on the loop that takes longer than this keeps everything else waiting."""

STALL_SHARE = 0.1
"""The part of the time that may go by in stalls before writes go to the engine."""

STALL_CREDIT = 20e-3
"""s of stalls that are allowed beside that: a busy host that takes the CPU away for some ms
looks the same from here."""

PAUSE_MIN, PAUSE_MAX = 0.1, 6.4
"""s for which writes go to the engine then; doubled each time it happens again."""

_TMPFS_MAGIC, _RAMFS_MAGIC = 0x01021994, 0x858458F6
"""Types of filesystems: statfs(2)."""

_fstatfs = ctypes.CDLL(None).fstatfs


def is_in_memory(fd: int) -> bool:
    """Whether the file lives in memory alone (tmpfs, ramfs), so that no access has to wait."""
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        return False  # its node lies in devtmpfs, its contents do not
    result = (ctypes.c_ulong * 64)()  # more than any struct statfs; f_type is its first word
    if _fstatfs(fd, result) < 0:
        return False
    return result[0] & 0xFFFF_FFFF in (_TMPFS_MAGIC, _RAMFS_MAGIC)


class WriteHabit:
    """Says whether writes to the page cache of one filesystem are quick enough for the loop.

    Most take 2 to 30 us, less than it costs to hand them to the engine (10 to 20 us of the
    loop's CPU and 30 us of a worker's). But a write that meets too many dirty pages, a page under
    write-back or a journal that commits waits for the disk, and with it every other request:
    in 300,000 random 4 KiB writes to ext4 on a busy disk 42 waited, 1.3 ms each and 3.8 ms at
    worst; one of 256 KiB waited 23 ms (scripts/benchmarks/backing_io.py stalls). RWF_NOWAIT
    does not tell beforehand: ext4 does not know it for buffered writes, and XFS and btrfs refuse
    every one of them (Linux 6.18: the new mtime needs a transaction). So some stalls are allowed,
    and the writes after them go to the engine until the storm is over.
    """

    __slots__ = ("__weakref__", "_debt", "_debt_at", "_pause", "resume_at")

    def __init__(self) -> None:
        self.resume_at = 0.0
        """s (time.monotonic): until then writes go to the engine."""
        self._debt = 0.0  # s of stalls not yet forgiven, ...
        self._debt_at = 0.0  # ... as of then
        self._pause = PAUSE_MIN

    def stalled(self, begin: float, end: float) -> None:
        """A write kept the loop waiting from *begin* to *end* (s): for more than `STALL`."""
        forgiven = (begin - self._debt_at) * STALL_SHARE
        self._debt = max(0.0, self._debt - forgiven) + end - begin
        self._debt_at = end
        if self._debt <= STALL_CREDIT:
            return
        if end - self.resume_at > PAUSE_MAX:
            self._pause = PAUSE_MIN  # the last storm is long over
        self._debt = 0.0
        self.resume_at = end + self._pause
        self._pause = min(2 * self._pause, PAUSE_MAX)


_write_habits: WeakValueDictionary[int, WriteHabit] = WeakValueDictionary()


def write_habit_of(device: int) -> WriteHabit:
    """The habit of all files on *device* (``st_dev``); kept as long as somebody holds it."""
    habit = _write_habits.get(device)
    if habit is None:
        habit = _write_habits[device] = WriteHabit()
    return habit
