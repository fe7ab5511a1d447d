"""The handlers for the contents of files, where limiter and backing meet.

A read or write goes in one straight line: the limiter admits it, the backing does it, the reply
goes out. Both have a step that finishes at once (``try_admit``; ``read_now`` and ``write_now``).
When that says no, the rest is a coroutine, which the session loop runs.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Coroutine
from time import monotonic_ns
from typing import Any, Protocol

import pyfuse3

from throttlefs.backing import Data
from throttlefs.throttle import READ, WRITE

from .attributes import Attributes
from .directories import DirectoryOperations
from .handle import Handle
from .inode_operations import RunInThread
from .inodes import InodeTable
from .limit_attributes import LimitAttributes

_COPIES_HELD = 2
"""With pyfuse3 a waiting write's data is in a bytes object and in the buffer it came in."""


class PendingWrite(Protocol):
    """A write's data, which stay as they are only during the call, unless they are kept."""

    def keep(self) -> tuple[Data, int]:
        """The data, for as long as they are needed, and how many bytes of memory they hold."""


class _BytesOfPyfuse3:
    """A `PendingWrite` whose data stay anyway."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def keep(self) -> tuple[Data, int]:
        return self._data, _COPIES_HELD * len(self._data)


class ContentOperations(DirectoryOperations):
    """Reads and writes of open files; at most *max_inflight* bytes of writes wait at a time."""

    def __init__(
        self,
        inodes: InodeTable,
        attributes: Attributes,
        limit_attributes: LimitAttributes,
        in_thread: RunInThread,
        max_inflight: int,
    ) -> None:
        super().__init__(inodes, attributes, limit_attributes, in_thread)
        self._handles: dict[int, Handle] = {}
        self._max_inflight = max_inflight
        self._inflight = 0  # bytes held by writes that wait for their limit or the backing

    def has_room(self) -> bool:
        """Whether waiting writes hold less than they may, so that a request can be taken."""
        return self._inflight < self._max_inflight

    def begin_read(
        self, fh: int, off: int, size: int, room: memoryview | None = None
    ) -> Data | Coroutine[Any, Any, Data]:
        """Read *size* bytes at *off*, fewer only at the end of the file.

        Returns the data, in *room* if that is given, or a coroutine if it has to wait.
        """
        handle = self._handles[fh]
        try:
            if not handle.try_admit(READ, size):
                return self._read_later(handle, off, size, 0)
            began = monotonic_ns()
            data = handle.read_now(off, size, room)
        except Exception:
            handle.statistics.read.errors += 1
            raise
        if data is None:
            return self._read_later(handle, off, size, began)
        handle.end_read(size, len(data), monotonic_ns() - began)
        return data

    async def _read_later(self, handle: Handle, off: int, size: int, began: int) -> Data:
        """A read that waits: for the limiter, unless *began* (ns) says that it was admitted."""
        data = None
        try:
            if not began:
                await handle.wait_for_limit(READ, size)
                began = monotonic_ns()
                data = handle.read_now(off, size)
            if data is None:
                data = await handle.file.read(off, size)
        except Exception:
            handle.statistics.read.errors += 1
            raise
        handle.end_read(size, len(data), monotonic_ns() - began)
        return data

    def begin_write(
        self, fh: int, off: int, data: Data, pending: PendingWrite
    ) -> int | Coroutine[Any, Any, int]:
        """Write *data* at *off*; returns how many bytes were written, or a coroutine."""
        handle = self._handles[fh]
        try:
            began = 0  # ns; not yet admitted
            written = None
            if handle.try_admit(WRITE, len(data)):
                began = monotonic_ns()
                written = handle.write_now(off, data)
                if written == len(data) or (written is not None and not handle.in_full):
                    handle.note_write(written, monotonic_ns() - began)
                    return written
        except Exception:
            handle.statistics.write.errors += 1
            raise
        return self._write_later(handle, off, *pending.keep(), began, written)

    async def _write_later(
        self, handle: Handle, off: int, data: Data, held: int, began: int, written: int | None
    ) -> int:
        """A write that waits, and is counted among the memory that waiting writes hold.

        *written*: how much of it is there already; None if it was not yet begun.
        """
        self._inflight += held
        try:
            if not began:
                await handle.wait_for_limit(WRITE, len(data))
                began = monotonic_ns()
                written = handle.write_now(off, data)
            if written is None:
                written = await handle.file.write(off, data)
            while written < len(data) and handle.in_full:
                more = await handle.file.write(off + written, data[written:])
                if not more:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))  # it does not say why
                written += more
            handle.note_write(written, monotonic_ns() - began)
            return written
        except Exception:
            handle.statistics.write.errors += 1
            raise
        finally:
            self._inflight -= held

    # What pyfuse3 calls if it reads the kernel's requests by itself.

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> Data:
        """See `begin_read`."""
        data = self.begin_read(fh, off, size)
        return await data if isinstance(data, Coroutine) else data

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        """See `begin_write`."""
        written = self.begin_write(fh, off, buf, _BytesOfPyfuse3(buf))
        return await written if isinstance(written, Coroutine) else written
