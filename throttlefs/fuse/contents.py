"""The handlers for the contents of files, where limiter and backing meet.

A read or write takes one straight line: the limiter admits it, the backing does it, the reply goes
out. Limiter and backing each have a step that finishes at once (``try_admit``; ``read_now`` and
``write_now``). If such a step says no, the rest is a coroutine, which the session loop runs.

A request of an image with a slow device has a `Ticket` on its way: when the backing is done, it
waits for the device as well.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Coroutine
from time import monotonic_ns
from typing import Any, Final, Protocol

import pyfuse3

from throttlefs import waiting
from throttlefs.backing import Data, write_flags
from throttlefs.host.files import FileKey
from throttlefs.settings.cachemode import CacheMode
from throttlefs.throttle import READ, WRITE

from .attributes import Attributes
from .directories import DirectoryOperations
from .handle import Handle
from .in_thread import RunInThread
from .injector import Injector
from .inode import Inode
from .inodes import InodeTable
from .limit_attributes import LimitAttributes
from .returning import Returning
from .spill import Spill

log = logging.getLogger("throttlefs")

_OF_A_WRITE: Final = os.O_APPEND | os.O_SYNC  # it includes the bit of O_DSYNC

_WRITE_FLAGS: Final = {
    flags & _OF_A_WRITE: write_flags(flags)
    for append in (0, os.O_APPEND)
    for durable in (0, os.O_DSYNC, os.O_SYNC, os.O_SYNC & ~os.O_DSYNC)
    for flags in (append | durable,)
}
"""The flags of pwritev2(2) for those flags of open(2) that matter."""

_COPIES_HELD = 2
"""With pyfuse3 a waiting write's data is in a bytes object and in the buffer it came in."""


class KeptData(Protocol):
    """The data of a write, for as long as they are needed."""

    data: Data
    held: int
    """Bytes of memory that they take up."""

    def release(self) -> None:
        """Give the memory back."""


class PendingWrite(Protocol):
    """The data of a write, which are valid only during the call, unless they are kept."""

    def keep(self) -> KeptData:
        """The data, until they are released."""


class _BytesOfPyfuse3:
    """A `PendingWrite` and its `KeptData`; these data stay valid anyway."""

    def __init__(self, data: bytes) -> None:
        self.data: Data = data
        self.held = _COPIES_HELD * len(data)

    def keep(self) -> KeptData:
        return self

    def release(self) -> None:
        self.data = b""


class ContentOperations(DirectoryOperations):
    """Reads and writes of open files.

    At most *max_inflight* bytes of memory hold the data of writes that wait or are under way. An
    image has a share of that; the data of its other writes wait in a file (`Spill`).
    """

    def __init__(
        self,
        inodes: InodeTable,
        attributes: Attributes,
        limit_attributes: LimitAttributes,
        in_thread: RunInThread,
        cache: CacheMode,
        max_inflight: int,
    ) -> None:
        super().__init__(inodes, attributes, limit_attributes, in_thread)
        self._handles: dict[int, Handle] = {}
        self._cache = cache
        self._max_inflight = max_inflight
        self._image_share = max_inflight // 4
        self._spill_from = max_inflight // 2
        self._inflight = 0  # bytes held by writes that wait for their limit or the backing
        self._inflight_of: dict[FileKey, int] = {}  # those of each image
        self._spill = Spill(in_thread)
        self._returning = Returning(max_inflight // 2, self._image_share)
        self.injector: Injector | None = None  # None while there is no fault rule

    def has_room(self) -> bool:
        """Whether waiting writes hold less than they may, so that a request can be taken.

        They hold more only if data come faster than they can be written to the file.
        """
        return self._inflight < self._max_inflight

    def close(self) -> None:
        """Close the file of waiting data."""
        self._spill.close()

    def open_inodes(self) -> list[Inode]:
        """The inodes of all open files."""
        return list({handle.inode for handle in self._handles.values()})

    def file_inode(self, fh: int) -> Inode:
        """The inode of the open file *fh*."""
        return self._handles[fh].inode

    def kill_handles(self) -> set[int]:
        """Let all reads and writes of the files that are open now fail with EIO; returns them."""
        for handle in self._handles.values():
            handle.kill()
        return set(self._handles)

    def begin_read(
        self, fh: int, off: int, size: int, room: memoryview | None = None
    ) -> Data | Coroutine[Any, Any, Data]:
        """Read *size* bytes at *off*, fewer only at the end of the file.

        Returns the data, in *room* if that is given, or a coroutine if it has to wait.
        """
        handle = self._handles[fh]
        if self.injector is not None:
            handle = self.injector.reading(handle, off, size)
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
        """A read that waits. *began*: when the limiter admitted it (ns), 0 if it did not yet."""
        data = None
        ticket = None
        try:
            if not began:
                ticket = await handle.wait_for_limit(READ, size, off)
                began = monotonic_ns() if ticket is None else ticket.start
                data = handle.read_now(off, size)
            if data is None:
                data = await handle.file.read(off, size)
            if ticket is not None:
                await handle.image.finish(ticket)
        except BaseException as exc:
            if ticket is not None:
                handle.image.abandon(ticket)
            elif began and isinstance(exc, waiting.Withdrawn):
                handle.image.refund(READ, size, None)
            if isinstance(exc, Exception):
                handle.statistics.read.errors += 1
            raise
        handle.end_read(size, len(data), monotonic_ns() - began)
        return data

    def begin_write(
        self, fh: int, off: int, data: Data, flags: int | None, pending: PendingWrite
    ) -> int | Coroutine[Any, Any, int]:
        """Write *data* at *off*; returns how many bytes were written, or a coroutine.

        *flags* are those of open(2) for this write: fcntl(2) may have changed O_APPEND, and
        pwritev2(2) may ask for O_DSYNC or O_SYNC. None: as the file was opened.
        """
        handle = self._handles[fh]
        how = None if flags is None else _WRITE_FLAGS[flags & _OF_A_WRITE]
        if self.injector is not None:
            durable = _is_durable(handle, flags)
            handle = self.injector.writing(handle, off, len(data), durable)
        try:
            began = 0  # ns; not yet admitted
            written = None
            if handle.try_admit(WRITE, len(data)):
                began = monotonic_ns()
                written = handle.write_now(off, data, how)
                if written == len(data) or (written is not None and not handle.in_full):
                    handle.note_write(written, monotonic_ns() - began)
                    return written
        except Exception:
            handle.statistics.write.errors += 1
            raise
        if began:
            return self._write_later(handle, off, pending.keep(), how, began, written)
        durable = _is_durable(handle, flags)
        return self._write_later(handle, off, pending.keep(), how, began, written, durable)

    async def _write_later(
        self,
        handle: Handle,
        off: int,
        kept: KeptData,
        how: int | None,
        began: int,
        written: int | None,
        durable: bool = False,
    ) -> int:
        """A write that waits; its data count as memory that waiting writes hold.

        *how*: flags of pwritev2(2). *began*: when the limiter admitted it (ns), 0 if it did not
        yet. *written*: how many bytes are written already; None if it has not begun. *durable*:
        whether it asks to reach the medium.
        """
        data, size, key = kept.data, len(kept.data), handle.inode.key
        held = kept.held
        self._hold(key, held)
        place = -1
        ticket = None
        went, returning = began > 0, False
        try:
            if not began:
                if self._has_its_share(key):
                    place = await self._spill_or_keep(kept)
                    if place >= 0:
                        data = b""
                        self._hold(key, -held)
                        held = 0
                ticket = await handle.wait_for_limit(WRITE, size, off, durable)
                went = True
                if place >= 0:
                    await self._returning.enter(key, size)
                    returning = True
                    taken, place = place, -1
                    data = await self._spill.take(taken, size)
                    held = size
                    self._hold(key, held)
                began = monotonic_ns() if ticket is None else ticket.start
                written = handle.write_now(off, data, how)
            if written is None:
                written = await handle.file.write(off, data, how)
            while written < size and handle.in_full:
                more = await handle.file.write(off + written, data[written:], how)
                if not more:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))  # the error is not known
                written += more
            if ticket is not None:
                kept.release()
                self._hold(key, -held)
                data, held = b"", 0
                if returning:
                    self._returning.leave(key, size)
                    returning = False
                await handle.finish_write(ticket, durable)
            handle.note_write(written, monotonic_ns() - began)
            handle.image.note_end(off + written)
            return written
        except BaseException as exc:
            if ticket is not None:
                handle.abandon_write(ticket)
            elif went and not written and isinstance(exc, waiting.Withdrawn):
                handle.image.refund(WRITE, size, None)
            if isinstance(exc, Exception):
                handle.statistics.write.errors += 1
            raise
        finally:
            if place >= 0:
                self._spill.drop(place, size)
            if returning:
                self._returning.leave(key, size)
            self._hold(key, -held)
            kept.release()

    def _hold(self, key: FileKey, held: int) -> None:
        """Count *held* bytes more (fewer, if negative) of memory for writes of the image *key*."""
        self._inflight += held
        now = self._inflight_of.get(key, 0) + held
        if now:
            self._inflight_of[key] = now
        else:
            self._inflight_of.pop(key, None)

    def _has_its_share(self, key: FileKey) -> bool:
        """Whether the data of one more write of the image *key* must wait in a file."""
        return self._inflight_of[key] > self._image_share or self._inflight > self._spill_from

    async def _spill_or_keep(self, kept: KeptData) -> int:
        """Write the data to the file and free their memory; returns their place, -1 on failure."""
        try:
            place = await self._spill.put(kept.data)
        except OSError as exc:
            log.warning("data of a waiting write stay in memory: %s", exc.strerror)
            return -1
        kept.release()
        return place

    # pyfuse3 calls these if it reads the kernel's requests itself.

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> Data:
        """See `begin_read`."""
        data = self.begin_read(fh, off, size)
        return await data if isinstance(data, Coroutine) else data

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        """See `begin_write`."""
        written = self.begin_write(fh, off, buf, None, _BytesOfPyfuse3(buf))
        return await written if isinstance(written, Coroutine) else written


def _is_durable(handle: Handle, flags: int | None) -> bool:
    """Whether a write asks to reach the medium; *flags* as in `ContentOperations.begin_write`."""
    return handle.durable if flags is None else bool(flags & os.O_DSYNC)
