"""When a read or write may be done at once on the event loop: what is learned on the way."""

import ctypes
from time import monotonic
from weakref import WeakValueDictionary

from throttlefs.backing import blocking
from throttlefs.backing.buffers import Data

# After this many reads in a row that were not in the page cache it is not asked again ...
MISSES_TO_PAUSE = 4
# ... for so many reads. Asking in vain costs 2 us and starts readahead.
PAUSE_READS = 32

# A write that took longer than this kept everything else waiting: seconds.
STALL = 1e-3
# For so long after it, writes go to the engine; doubled with every further stall.
PAUSE_MIN, PAUSE_MAX = 0.1, 6.4

_TMPFS_MAGIC, _RAMFS_MAGIC = 0x01021994, 0x858458F6  # statfs(2)
_fstatfs = ctypes.CDLL(None).fstatfs


def is_in_memory(fd: int) -> bool:
    """Whether the file lives in memory alone (tmpfs, ramfs), so that no access has to wait."""
    result = (ctypes.c_ulong * 64)()  # more than any struct statfs; f_type is its first word
    if _fstatfs(fd, result) < 0:
        return False
    return result[0] & 0xFFFF_FFFF in (_TMPFS_MAGIC, _RAMFS_MAGIC)


class ReadHabit:
    """Whether a file's reads are found in the page cache, judged by the latest ones."""

    __slots__ = ("_misses", "_pause")

    def __init__(self) -> None:
        self._misses = 0
        self._pause = 0

    def may_be_cached(self) -> bool:
        """Whether to ask."""
        if self._pause:
            self._pause -= 1
            return False
        return True

    def hit(self) -> None:
        """It was there."""
        self._misses = 0

    def missed(self) -> None:
        """It was not."""
        self._misses += 1
        if self._misses >= MISSES_TO_PAUSE:
            self._pause = PAUSE_READS


class WriteHabit:
    """Writes to the page cache of one filesystem, done here as long as they are quick.

    Most take a few us; but one that meets a full cache, a page under write-back or a journal
    that commits, waits for the disk, and with it every other request. ext4 does not say so
    beforehand (no RWF_NOWAIT for buffered writes), so that the first one is suffered; those
    after it go to the engine until the storm is over.
    """

    __slots__ = ("__weakref__", "_pause", "_resume_at")

    _all: WeakValueDictionary[int, "WriteHabit"] = WeakValueDictionary()

    def __init__(self) -> None:
        self._pause = PAUSE_MIN
        self._resume_at = 0.0

    @classmethod
    def of_filesystem(cls, device: int) -> "WriteHabit":
        """The one of all files on a device (``st_dev``)."""
        habit = cls._all.get(device)
        if habit is None:
            habit = cls._all[device] = cls()
        return habit

    def write(self, fd: int, offset: int, data: Data) -> int | None:
        """`blocking.write`, or None if it is likely to block."""
        begin = monotonic()
        if begin < self._resume_at:
            return None
        try:
            return blocking.write(fd, offset, data)
        finally:
            end = monotonic()
            if end - begin > STALL:
                self._stalled(end)

    def _stalled(self, now: float) -> None:
        if now - self._resume_at > PAUSE_MAX:
            self._pause = PAUSE_MIN  # the last storm is long over
        self._resume_at = now + self._pause
        self._pause = min(2 * self._pause, PAUSE_MAX)
