"""One open file of the image behind: which way each read and write takes.

===================  =====================================================================
read_now, write_now  at once on the event loop, where that does not block: the page cache
read, write          through the engine, for all that may wait
===================  =====================================================================

Which way is quicker is decided once per file as far as possible, and learned otherwise.
"""

import errno
import fcntl
import logging
import os

from throttlefs.backing.alignment import direct_alignment
from throttlefs.backing.buffers import Data, new_bytearray
from throttlefs.backing.cachemode import CacheMode
from throttlefs.backing.direct import DirectIo
from throttlefs.backing.engine import Engine
from throttlefs.backing.inline import ReadHabit, WriteHabit, is_in_memory

log = logging.getLogger(__name__)

# Above this many bytes a read or write goes to the engine, on another core. See
# scripts/benchmarks/backing_io.py.
INLINE_READ_MAX = 128 << 10
INLINE_WRITE_MAX = 128 << 10

# From this size on, the kernel's copying is worth the way to a worker.
OFFLOAD_MIN = 128 << 10

_RWF_NOWAIT: int = os.RWF_NOWAIT

# Filesystems of which the log has already said that they refuse O_DIRECT.
_without_direct: set[int] = set()


class BackingFile:
    """An open descriptor of an image, to be read and written by many tasks at once.

    Takes `fd` over: `close` closes it. It must have been opened with the `open_flags` of
    `cache`; O_DIRECT is added and O_APPEND removed here (with it, pwrite(2) appends whatever
    the offset). Where the filesystem refuses O_DIRECT, the page cache is used and the log
    says so, once.

    All operations raise OSError with the errno of the system call.
    """

    def __init__(self, fd: int, engine: Engine, cache: CacheMode = CacheMode.WRITEBACK) -> None:
        self.fd = fd
        self._engine = engine
        self._ignores_fsync = cache.ignores_fsync
        status = os.fstat(fd)
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if cache.durable_writes and not flags & os.O_DSYNC:
            raise ValueError(f"cache mode {cache.value} needs a file opened with O_DSYNC")
        if flags & os.O_APPEND:
            flags &= ~os.O_APPEND
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        self._direct = _direct_io(fd, flags, engine, status) if cache.direct else None

        self._inline_read_max = 0 if self._direct else INLINE_READ_MAX
        self._inline_write_max = INLINE_WRITE_MAX
        if self._direct or cache.durable_writes:
            self._inline_write_max = 0  # these wait for the disk
        # What is in memory never makes anybody wait, nor does it know RWF_NOWAIT.
        self._read_flags = 0 if is_in_memory(fd) else _RWF_NOWAIT
        self._reads = ReadHabit()
        self._writes = WriteHabit.of_filesystem(status.st_dev)

    def read_now(self, offset: int, size: int) -> Data | None:
        """Read what is in the page cache, without waiting; None: not all of it is, use `read`.

        May be shorter than `size` only at the end of the file.
        """
        if size > self._inline_read_max or not self._reads.may_be_cached():
            return None
        buffer = new_bytearray(size)
        try:
            got = os.preadv(self.fd, (buffer,), offset, self._read_flags)
        except BlockingIOError:
            self._reads.missed()
            return None
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                self._inline_read_max = 0  # the filesystem does not know RWF_NOWAIT
                return None
            raise
        if got == size:
            self._reads.hit()
            return buffer
        if got and os.fstat(self.fd).st_size > offset + got:
            self._reads.missed()
            return None  # the rest is there, but not in the cache
        del buffer[got:]
        return buffer

    async def read(self, offset: int, size: int) -> Data:
        """Up to `size` bytes at `offset`; fewer only at the end of the file, b"" behind it."""
        if self._direct is not None:
            return await self._direct.read(offset, size)
        return await self._engine.read(self.fd, offset, size, offload=size >= OFFLOAD_MIN)

    def write_now(self, offset: int, data: Data) -> int | None:
        """Write to the page cache where that is quick; None: it is not, use `write`.

        Returns how much was written, as `write` does.
        """
        if len(data) > self._inline_write_max:
            return None
        return self._writes.write(self.fd, offset, data)

    async def write(self, offset: int, data: Data) -> int:
        """Write all of `data`; returns its length.

        After an error in the middle (ENOSPC, EFBIG) returns how much was written; the write
        that goes on from there raises the error.
        """
        if self._direct is not None:
            return await self._direct.write(offset, data)
        return await self._engine.write(self.fd, offset, data, offload=True)

    async def fsync(self, datasync: bool) -> None:
        """fsync(2), or fdatasync(2); nothing with cache mode ``unsafe``."""
        if not self._ignores_fsync:
            await self._engine.fsync(self.fd, datasync)

    def close(self) -> None:
        """Close the descriptor. No operation may be under way."""
        if self._direct is not None:
            self._direct.close()
        os.close(self.fd)


def _direct_io(fd: int, flags: int, engine: Engine, status: os.stat_result) -> DirectIo | None:
    """The file's way past the page cache, or None if its filesystem has none."""
    alignment = direct_alignment(fd)
    if alignment is not None:
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
            return DirectIo(fd, engine, alignment, (status.st_dev, status.st_ino))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    if flags & os.O_DIRECT:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    if status.st_dev not in _without_direct:
        _without_direct.add(status.st_dev)
        log.warning(
            "the filesystem (device %d:%d) refuses O_DIRECT: its files go through the page cache",
            os.major(status.st_dev),
            os.minor(status.st_dev),
        )
    return None
