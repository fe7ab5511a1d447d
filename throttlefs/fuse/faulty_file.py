"""A file that does to one request what a fault rule says, in place of the file itself.

The limiter and the device have admitted the request before, as if nothing were wrong.
"""

from __future__ import annotations

import copy
import errno
import os
import stat
from collections.abc import Sequence
from typing import Any, cast

from throttlefs.backing import BackingFile, Data
from throttlefs.backing.write_flags import APPEND, DURABLE
from throttlefs.device.damage import Piece, corrupted
from throttlefs.device.faults import Firing, Rule
from throttlefs.device.parking import Parking
from throttlefs.host import syscalls
from throttlefs.settings.fault_words import Effect, Op

from .handle import Handle
from .in_thread import RunInThread

Damages = Sequence[tuple[Rule, Sequence[Piece]]]


async def suffer(firing: Firing, parking: Parking) -> bool:
    """Fail, or wait, as the rule says; returns whether the request is lost.

    Raises `OSError`.
    """
    rule = firing.rule
    fault = rule.fault
    if fault.effect is Effect.ERROR:
        raise _error(fault.value)
    if fault.effect is Effect.DELAY:
        await parking.wait(rule.number, fault.value)
    elif fault.effect is Effect.HANG:
        await parking.wait(rule.number, None)
    if fault.effect is not Effect.LOSE:
        return False
    if fault.error is not None:
        raise _error(fault.error)
    return True


def faulty(
    handle: Handle,
    firing: Firing | None,
    damages: Damages,
    parking: Parking,
    in_thread: RunInThread,
) -> Handle:
    """*handle* for one request to which *firing* happens, and whose data have *damages*."""
    one: Any = copy.copy(handle)
    one.file = _FaultyFile(handle, firing, damages, parking, in_thread)
    one.read_now = one.write_now = _not_now
    return cast(Handle, one)


def _not_now(*_: object) -> None:
    """The request takes the way of those that wait."""


class _FaultyFile:
    """Has the methods of `BackingFile` that serve a request which waits."""

    def __init__(
        self,
        handle: Handle,
        firing: Firing | None,
        damages: Damages,
        parking: Parking,
        in_thread: RunInThread,
    ) -> None:
        self._file: BackingFile = handle.file
        self._uid = handle.uid
        self._firing = firing
        self._damages = damages
        self._parking = parking
        self._in_thread = in_thread

    async def read(self, offset: int, size: int) -> Data:
        """See `BackingFile.read`."""
        if self._firing is not None:
            await suffer(self._firing, self._parking)
        data = await self._file.read(offset, size)
        for rule, pieces in self._damages:
            data = corrupted(data, offset, pieces, rule.fault.value, rule.seed)
        return data

    async def write(self, offset: int, data: Data, flags: int | None = None) -> int:
        """See `BackingFile.write`; what is lost counts as written."""
        firing = self._firing
        if firing is None:
            return await self._file.write(offset, data, flags)
        fault = firing.rule.fault
        if fault.effect is Effect.TORN:
            return await self._tear(firing, offset, data, flags)
        if fault.effect is Effect.MISDIRECT:
            return await self._misdirect(fault.value, offset, data, flags)
        if fault.effect is Effect.LOSE and fault.ops & Op.WRITE:
            await self._extend(await self._place(offset, flags) + len(data))
        if not await suffer(firing, self._parking):
            return await self._file.write(offset, data, flags)
        if fault.ops & Op.WRITE:
            return len(data)
        # Only the flush in it is lost.
        return await self._file.write(offset, data, (flags or 0) & ~DURABLE)

    async def fsync(self, datasync: bool) -> None:
        """See `BackingFile.fsync`."""
        if self._firing is not None:
            try:
                is_lost = await suffer(self._firing, self._parking)
            except OSError:
                self._file.flush_failed()
                raise
            if is_lost:
                return
        await self._file.fsync(datasync)

    async def _tear(self, firing: Firing, offset: int, data: Data, flags: int | None) -> int:
        """Write a part of *data*, and let the file be as long as with all of it."""
        fault = firing.rule.fault
        place = await self._place(offset, flags)
        kept = firing.torn_length(place, len(data))
        done = 0
        while done < kept:
            written = await self._file.write(offset + done, data[done:kept], flags)
            if not written:
                raise _error("EIO")
            done += written
        await self._extend(place + len(data))
        if fault.error is not None:
            raise _error(fault.error)
        return len(data)

    async def _misdirect(self, shift: int, offset: int, data: Data, flags: int | None) -> int:
        """Write *data* elsewhere; before the file's begin there is nothing to be written to."""
        place = await self._place(offset, flags)
        flags = (flags or 0) & ~APPEND
        skipped = min(max(-(place + shift), 0), len(data))
        done = skipped
        while done < len(data):
            written = await self._file.write(place + shift + done, data[done:], flags)
            if not written:
                raise _error("EIO")
            done += written
        await self._extend(place + len(data))
        return len(data)

    async def _place(self, offset: int, flags: int | None) -> int:
        """Where a write at *offset* goes: an append goes to the end. Raises `OSError`."""
        if not (flags or 0) & APPEND:
            return offset
        st: os.stat_result = await self._in_thread(os.fstat, self._file.fd, owner=self._uid)
        return st.st_size

    async def _extend(self, size: int) -> None:
        """Make the file at least *size* bytes long. Raises `OSError`."""
        size = await self._in_thread(_extend, self._file.fd, size, owner=self._uid)
        self._file.resized(size)


def _extend(fd: int, size: int) -> int:
    """Make the file *fd* at least *size* bytes long; never shorter, whoever else writes to it.

    A block device is as long as it is. Returns the size that it has then.
    """
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode) or st.st_size >= size:
        return st.st_size
    try:
        syscalls.fallocate(fd, 0, size - 1, 1)
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if os.fstat(fd).st_size < size:
            os.ftruncate(fd, size)
    return os.fstat(fd).st_size


def _error(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))
