"""One open file of the image behind: chooses the way of each read and write.

===================  =====================================================================
read_now, write_now  at once on the event loop, where that does not block: the page cache
read, write          through the engine, for all that may wait
===================  =====================================================================

As far as possible the quicker way is chosen once for each file; otherwise it is learned.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import stat
from time import monotonic

from throttlefs.host.credentials import Credentials
from throttlefs.settings.cachemode import CacheMode

from . import blocking
from .alignment import Alignment, direct_alignment
from .buffers import Data, new_bytearray
from .direct import DirectIo
from .engine import Engine
from .inline import STALL, WriteHabit, filesystem_of
from .status import Status, status_of
from .write_flags import APPEND, DURABLE
from .writer import Writer

log = logging.getLogger("throttlefs")

INLINE_READ_MAX = 1 << 20
INLINE_WRITE_MAX = 1 << 20
"""Bytes: a larger read or write goes to the engine. A request of FUSE is not larger.

Copying 1 MiB takes 50 to 100 us on the loop. On another core it costs a third more CPU in all:
3,600 reads a second on the loop, 3,400 on another core (cached, queue depth 4, through a mount, two
cores of which the client needs one).
"""

OFFLOAD_MIN = 128 << 10
"""Bytes: a read by the engine of this size or more is copied by a kernel worker, on another core.

These are reads that are not cached (1 MiB, queue depth 4: 3,000 a second, else 2,200).
"""

OFFLOAD_WRITE_MIN = 512 << 10
"""Bytes: a write of this size or more goes to the engine while the engine has another one.

A kernel worker copies it, on another core, and the loop receives the next one meanwhile (1 MiB,
cached, queue depth 4: 5,900 a second, else 4,500). Writes that come one at a time would wait for
the switches of threads (3,700 a second, else 4,100).
"""

PROBE_EVERY = 16
"""One in so many large writes goes to the engine without another one there.

Whether writes come side by side shows only while the engine has one.
"""

MISSES_TO_PAUSE = 4
"""After so many reads in a row that missed the page cache, it is not tried again ..."""

PAUSE_READS = 32
"""... for so many reads. A vain try costs 2 us, and readahead begins before the refusal."""

_CLEARED_MAX = 16 << 10
"""Bytes: clearing a buffer of this size costs less than the call that makes one uncleared."""

_PAGE_MASK = mmap.PAGESIZE - 1

_without_direct: set[int] = set()
"""Filesystems that refuse O_DIRECT, as the log has already said."""


class BackingFile:
    """An open descriptor of an image, which many tasks may read and write at once.

    It owns *fd*: `close` closes it. If the constructor raises, the caller must close *fd*. *fd*
    must have been opened with the `open_flags` of *cache*; O_DIRECT is added here. If the
    filesystem refuses that, the page cache is used and the log says so, once. O_APPEND is taken
    away, because with it no write could go to its offset. Each write may ask to append; a write
    without flags appends if *fd* had O_APPEND.

    All operations raise `OSError` with the errno of the system call.
    """

    def __init__(
        self,
        fd: int,
        engine: Engine,
        cache: CacheMode = CacheMode.WRITEBACK,
        credentials: Credentials | None = None,
    ) -> None:
        """*credentials* are those of the user for whom it was opened; None: of the daemon."""
        self.fd = fd
        self._engine = engine
        self._ignores_fsync = cache.ignores_fsync
        status = status_of(fd)
        self._is_device = stat.S_ISBLK(status.mode)
        self.opened_size = os.lseek(fd, 0, os.SEEK_END) if self._is_device else status.size
        """Bytes when it was opened, as far as the kernel knew without asking a server."""
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if cache.durable_writes and not flags & os.O_DSYNC:
            raise ValueError(f"cache mode {cache.value} needs a file opened with O_DSYNC")
        self._own_flags = APPEND if flags & os.O_APPEND else 0
        flags = _without_append(fd, flags)
        self._always = APPEND if flags & os.O_APPEND else 0
        self._filesystem = filesystem = filesystem_of(fd, status)
        alignment = _prepare_direct_io(fd, flags, status) if cache.direct else None
        self._may_write = flags & os.O_ACCMODE != os.O_RDONLY
        # The last step that may raise.
        self._writer = Writer(engine, credentials if self._may_write else None)
        self._direct = alignment and DirectIo(
            fd, engine, self._writer, alignment, (status.device, status.inode)
        )

        # O_DIRECT and O_DSYNC wait for the disk.
        waits = filesystem.may_block or self._direct is not None
        self._inline_read_max = 0 if waits else INLINE_READ_MAX
        self._inline_write_max = 0 if waits or flags & os.O_DSYNC else INLINE_WRITE_MAX
        self._usable_flags = APPEND | DURABLE
        if cache.ignores_fsync or filesystem.in_memory:
            self._usable_flags = APPEND  # no write has to be durable, or none can be
        elif flags & os.O_DSYNC:
            self._usable_flags = APPEND | os.RWF_SYNC
        # A file in memory never blocks, and it does not know RWF_NOWAIT.
        self._read_flags = 0 if filesystem.in_memory else os.RWF_NOWAIT
        self._misses = 0  # latest reads in a row that were not in the page cache
        self._pause = 0  # reads to come for which it is not asked
        # A file that is not open for reading cannot be asked.
        may_ask = self._read_flags and flags & os.O_ACCMODE != os.O_WRONLY
        self._edge_mask = _PAGE_MASK if may_ask else 0
        self._write_habit = filesystem.habit
        self._room = filesystem.room if self._writer.is_limited else None
        self._writes_under_way = 0  # in the engine
        self._writes_till_probe = PROBE_EVERY

    def read_now(self, offset: int, size: int, room: memoryview | None = None) -> Data | None:
        """Read from the page cache without waiting; None: not all of it is there, so use `read`.

        The result is shorter than *size* only at the end of the file. If *room* is given, which
        must have *size* bytes, the data go there, and *room* is returned if it was filled.
        """
        if size > self._inline_read_max:
            return None
        if self._pause:
            self._pause -= 1
            return None
        buffer: memoryview | bytearray
        if room is not None:
            buffer = room
        else:
            buffer = bytearray(size) if size <= _CLEARED_MAX else new_bytearray(size)
        try:
            got = os.preadv(self.fd, (buffer,), offset, self._read_flags)
        except BlockingIOError:
            self._missed()
            return None
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._inline_read_max = 0  # the filesystem does not know RWF_NOWAIT
            return None
        if got == size:
            self._misses = 0
            return buffer
        if got and self._has_more(offset + got):
            self._missed()  # there is more, but not in the cache
            return None
        return buffer[:got]

    def _has_more(self, offset: int) -> bool:
        # fstat(2) does not tell a block device's size: `read` finds out.
        return self._is_device or os.fstat(self.fd).st_size > offset

    def _missed(self) -> None:
        self._misses += 1
        if self._misses >= MISSES_TO_PAUSE:
            self._pause = PAUSE_READS

    async def read(self, offset: int, size: int) -> Data:
        """Read up to *size* bytes at *offset*; fewer only at the end of the file."""
        if self._direct is not None:
            return await self._direct.read(offset, size)
        return await self._engine.read(self.fd, offset, size, offload=size >= OFFLOAD_MIN)

    def write_now(self, offset: int, data: Data, flags: int | None = None) -> int | None:
        """Write to the page cache if that is quick; None: it is not, so use `write`.

        Returns the number of bytes written, as `write` does; for *flags* see there.
        """
        size = len(data)
        begin = monotonic()
        if size > self._inline_write_max or begin < self._write_habit.resume_at:
            return None
        if self._room is not None and not self._room.is_ample(self.fd, begin):
            return None
        flags = self._own_flags if flags is None else flags & self._usable_flags | self._always
        if flags:
            if flags & DURABLE:
                return None
            offset = os.fstat(self.fd).st_size  # where it will go, if no other process is quicker
        if size >= OFFLOAD_WRITE_MIN and self._comes_side_by_side():
            return None
        if (offset | size) & self._edge_mask and not self._edges_are_cached(offset, size):
            return None
        written = blocking.write(self.fd, offset, data, flags)
        end = monotonic()
        if end - begin > STALL:
            self._write_habit.stalled(begin, end)
        return written

    def _comes_side_by_side(self) -> bool:
        """Whether the engine has another write, or should get this one as a probe."""
        if self._writes_under_way:
            return True
        self._writes_till_probe -= 1
        if self._writes_till_probe:
            return False
        self._writes_till_probe = PROBE_EVERY
        return True

    def _edges_are_cached(self, offset: int, size: int) -> bool:
        """Whether the pages of which a write changes only a part are in the page cache.

        If not, the kernel reads them first: 100 us on a fast disk, 10 ms on a slow one. Asking
        costs 1 us a page.
        """
        end = offset + size
        edges = [place for place in (offset, end) if place & _PAGE_MASK]
        try:
            for edge in edges:
                # One byte is enough, for the page matters; none if the file ends before it.
                os.preadv(self.fd, (bytearray(1),), edge & ~_PAGE_MASK, self._read_flags)
        except OSError:  # EAGAIN, or EOPNOTSUPP: it cannot be known
            return False
        return True

    async def write(self, offset: int, data: Data, flags: int | None = None) -> int:
        """Write all of *data*; returns its length.

        *flags* are those of pwritev2(2) for this write; `write_flags` makes them from open(2)'s.
        With RWF_APPEND the write goes to the end that the file has then, and *offset* does not
        matter. With RWF_DSYNC or RWF_SYNC it is durable when this returns, except in cache mode
        ``unsafe``. None: as the descriptor was opened.

        After an error in the middle (ENOSPC, EFBIG) it returns the number of bytes written; the
        write that goes on from there raises the error.
        """
        flags = self._own_flags if flags is None else flags & self._usable_flags | self._always
        if self._direct is not None:
            return await self._direct.write(offset, data, flags)
        self._writes_under_way += 1
        try:
            return await self._writer.write(self.fd, offset, data, flags, offload=True)
        finally:
            self._writes_under_way -= 1

    async def fsync(self, datasync: bool) -> None:
        """fsync(2), or fdatasync(2) with *datasync*; nothing in cache mode ``unsafe``."""
        if not self._ignores_fsync:
            await self._engine.fsync(self.fd, datasync)

    def flags_of(self, flags: int | None) -> int:
        """The flags of pwritev2(2) that `write` uses if it gets *flags*."""
        return self._own_flags if flags is None else flags & self._usable_flags | self._always

    @property
    def inline_write_max(self) -> int:
        """Bytes: `write_now` leaves a larger write to `write`."""
        return 0 if self._always else self._inline_write_max

    @property
    def is_local(self) -> bool:
        """Whether no call on it waits for a server, such as fstat(2)."""
        return not self._filesystem.may_block

    @property
    def read_flags(self) -> int:
        """The flags of preadv2(2) for a read that must not wait."""
        return self._read_flags

    @property
    def habit(self) -> WriteHabit:
        """Whether writes to its filesystem are quick enough for the loop."""
        return self._write_habit

    def flush_failed(self) -> None:
        """Note that a flush has failed before it came here; it matters if power may be lost."""

    def resized(self, size: int) -> None:
        """Note that a call on the descriptor made it *size* bytes; it matters in the same way."""

    def close_may_block(self, *, written: bool = True) -> bool:
        """Whether `close` may have to wait; then call it in a thread.

        It may have to tell a server. After writes, ext4, XFS and btrfs free blocks that they
        allocated ahead, and write a file back that was truncated to nothing and written again. The
        last close of an unlinked file frees its blocks.

        *written*: whether anything may have been written, or the file was truncated.
        """
        filesystem = self._filesystem
        if filesystem.may_block or (written and self._may_write and not filesystem.in_memory):
            return True
        return os.fstat(self.fd).st_nlink == 0

    def close(self) -> None:
        """Close the descriptors; see `close_may_block`. No operation may be under way.

        Raises `OSError` if the filesystem reports only now that a write failed; the descriptors are
        closed all the same (close(2), NOTES).
        """
        self._writer.close()
        try:
            if self._direct is not None:
                self._direct.close()
        finally:
            os.close(self.fd)


def _without_append(fd: int, flags: int) -> int:
    """Take O_APPEND away from *fd*, which has *flags*; the flags that it has then."""
    if not flags & os.O_APPEND:
        return flags
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_APPEND)
    except PermissionError:
        return flags  # the file can only be appended to (chattr(1), +a)
    return flags & ~os.O_APPEND


def _prepare_direct_io(fd: int, flags: int, status: Status) -> Alignment | None:
    """The file's way past the page cache, or None if its filesystem has none."""
    alignment = direct_alignment(fd)
    if alignment is not None:
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
            return alignment
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    if flags & os.O_DIRECT:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    if status.device not in _without_direct:
        _without_direct.add(status.device)
        log.warning(
            "the filesystem (device %d:%d) refuses O_DIRECT: its files go through the page cache",
            os.major(status.device),
            os.minor(status.device),
        )
    return None
