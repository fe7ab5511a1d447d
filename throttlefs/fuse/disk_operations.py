"""The handlers that disks have beside reads and writes: allocate, discard, find holes, copy.

A discard, an allocation and a write of zeroes move no data: each counts as one write request of no
bytes. With ``-o discard=bytes`` a discard and a write of zeroes count as a write of that length, as
in QEMU. A copy counts as a read of one image and a write of the other.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from time import monotonic_ns
from typing import Final, TypeVar

import pyfuse3

from throttlefs import waiting
from throttlefs.host import syscalls
from throttlefs.settings.cachemode import CacheMode
from throttlefs.settings.fault_words import Op
from throttlefs.throttle import READ, WRITE, Ticket

from . import privileges
from .attributes import Attributes
from .contents import ContentOperations
from .faulty_file import suffer
from .handle import Handle
from .holes import KernelPages, Place, seek
from .in_thread import RunInThread
from .inodes import InodeTable
from .limit_attributes import LimitAttributes

T = TypeVar("T")

_COPY_PIECE: Final = 1 << 20
"""How many bytes a copy between limited images moves at a time.

The kernel holds the target's lock until the reply. So a limited copy ends early, and the program
goes on from there (copy_file_range(2)).
"""

_OF_A_DISCARD: Final = syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_ZERO_RANGE

_COPY_MOST: Final = 1 << 30
"""How many bytes a copy between images without limits moves at a time."""


class DiskOperations(ContentOperations):
    """Operations for which pyfuse3 has no handler; our own server has them."""

    def __init__(
        self,
        inodes: InodeTable,
        attributes: Attributes,
        limit_attributes: LimitAttributes,
        in_thread: RunInThread,
        cache: CacheMode,
        max_inflight: int,
        kernel_pages: KernelPages,
        discard_costs_bytes: bool,
    ) -> None:
        super().__init__(inodes, attributes, limit_attributes, in_thread, cache, max_inflight)
        self._kernel_pages = kernel_pages
        self._discard_costs_bytes = discard_costs_bytes

    async def fallocate(
        self, fh: int, offset: int, length: int, mode: int, ctx: pyfuse3.RequestContext
    ) -> None:
        """Allocate, discard or zero *length* bytes at *offset* (fallocate(2)). Raises `OSError`."""
        handle = self._handles[fh]
        injector = self.injector
        firing = None
        if injector is not None:
            op = Op.DISCARD if mode & _OF_A_DISCARD else Op.ALLOCATE
            firing = injector.allocating(handle, op, offset, length)
        size = 0
        if self._discard_costs_bytes and mode & _OF_A_DISCARD:
            st = await self._in_thread(os.fstat, handle.fd, owner=ctx.uid)
            size = _charged(mode, offset, length, st.st_size)
        ticket = None
        if not handle.try_admit(WRITE, size):
            ticket = await handle.wait_for_limit(WRITE, size, offset)
        began = monotonic_ns() if ticket is None else ticket.start
        try:
            is_lost = False
            if injector is not None and firing is not None:
                is_lost = await suffer(firing, injector.parking)
            if not is_lost:
                await self._allocate(handle, mode, offset, length, ctx)
            if ticket is not None:
                await handle.finish_write(ticket)
        except BaseException as exc:
            if ticket is not None:
                handle.abandon_write(ticket)
            if isinstance(exc, OSError):
                handle.statistics.write.errors += 1
            raise
        handle.note_write(0, monotonic_ns() - began)
        if not mode & syscalls.FALLOC_FL_KEEP_SIZE:
            handle.image.note_end(offset + length)

    async def _allocate(
        self, handle: Handle, mode: int, offset: int, length: int, ctx: pyfuse3.RequestContext
    ) -> None:
        """Call fallocate(2) for the caller. Raises `OSError`."""

        async def change() -> None:
            place = (handle.fd, mode, offset, length)
            await self._in_thread(_as_caller, ctx, syscalls.fallocate, *place, owner=ctx.uid)

        inode, volatile = handle.inode, self.volatile
        if volatile is not None and volatile.covers(inode.key):
            await volatile.allocating(inode, handle.fd, mode, offset, length, ctx.uid, change)
        else:
            await change()

    async def lseek(self, fh: int, offset: int, whence: int) -> int:
        """The place of the next data or hole from *offset* on (SEEK_DATA, SEEK_HOLE; lseek(2)).

        What programs wrote through a shared mapping may still be in the page cache of the mount,
        and SRC may have a hole there. So a hole of a file that somebody may write to is looked at
        twice, and what is in the cache is written back in between.

        Costs nothing. Raises `OSError`, ENXIO if there is none.
        """
        handle = self._handles[fh]
        place = await self._seek(handle, offset, whence)
        if handle.inode.writers:
            while place.hole is not None:
                await self._kernel_pages.write_back(handle.inode.number, place.hole)
                before, place = place, await self._seek(handle, offset, whence)
                if place == before:
                    break
        return place.offset()

    async def _seek(self, handle: Handle, offset: int, whence: int) -> Place:
        found: Place = await self._in_thread(seek, handle.fd, offset, whence, owner=handle.uid)
        return found

    async def copy_file_range(
        self,
        fh_in: int,
        off_in: int,
        fh_out: int,
        off_out: int,
        length: int,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> int:
        """Copy up to *length* bytes from one open file to another; returns how many it copied.

        See copy_file_range(2). Raises `OSError`: EOPNOTSUPP if O_DIRECT is used, or if the mount
        can lose power, so that the kernel copies by reads and writes.
        """
        source, target = self._handles[fh_in], self._handles[fh_out]
        if flags:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        is_watched = self.injector is not None and self.injector.may_touch_copy(source, target)
        if self._cache.direct or is_watched or self.volatile is not None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        is_limited = not (source.image.unlimited[READ] and target.image.unlimited[WRITE])
        length = min(length, _COPY_PIECE if is_limited else _COPY_MOST)
        ticket = await self._admit_copy(source, target, length, off_in, off_out)
        began = monotonic_ns() if ticket is None else ticket.start
        try:
            done = int(
                await self._in_thread(
                    _as_caller,
                    ctx,
                    os.copy_file_range,
                    source.fd,
                    target.fd,
                    length,
                    off_in,
                    off_out,
                    owner=ctx.uid,
                )
            )
            if ticket is not None:
                await target.finish_write(ticket)
        except BaseException as exc:
            if ticket is not None:
                target.abandon_write(ticket)
            if isinstance(exc, OSError):
                target.statistics.write.errors += 1
            raise
        took = monotonic_ns() - began
        source.end_read(length, done, took)
        target.note_write(done, took)
        if done < length:
            target.image.refund(WRITE, length, done)
        return done

    @staticmethod
    async def _admit_copy(
        source: Handle, target: Handle, length: int, off_in: int, off_out: int
    ) -> Ticket | None:
        """Wait for both limits; returns the ticket of the write if the target has a device.

        The source's device has read everything by then. Otherwise a copy within one device that
        has a single place would wait for itself.
        """
        reading = None
        if not source.try_admit(READ, length):
            reading = await source.wait_for_limit(READ, length, off_in)
            if reading is not None:
                await source.image.finish(reading)
        if not target.try_admit(WRITE, length):
            try:
                return await target.wait_for_limit(WRITE, length, off_out)
            except waiting.Withdrawn:
                if reading is None:
                    source.image.refund(READ, length, None)
                raise
        return None


def _charged(mode: int, offset: int, length: int, file_size: int) -> int:
    """How many bytes a discard or a write of zeroes changes in a file of *file_size* bytes.

    None behind its end, unless it makes the file longer.
    """
    if mode & syscalls.FALLOC_FL_KEEP_SIZE:
        return max(0, min(length, file_size - offset))
    return length


def _as_caller(ctx: pyfuse3.RequestContext, call: Callable[..., T], *args: object) -> T:
    """``call(*args)`` by the filesystem ids of the caller, without root's right to the reserve.

    A filesystem keeps some blocks for root (mke2fs(8), -m), and quotas do not hold for root.
    """
    with privileges.acting_for(ctx.uid, ctx.gid):
        return call(*args)
