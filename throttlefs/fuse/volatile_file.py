"""An open file of a mount that can lose power: each write first saves what it overwrites.

It stands where `BackingFile` stands without ``-o volatile``, and has its methods.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

from throttlefs.backing import BackingFile, Data
from throttlefs.backing.inline import STALL
from throttlefs.backing.write_flags import APPEND, DURABLE
from throttlefs.device.volatile.history import FileHistory, SavedRun
from throttlefs.device.volatile.samples import ZEROES
from throttlefs.host.files import FileKey, clock_of_files

from .change_order import NO_END, ChangeOrder
from .inode import Inode
from .volatile_log import VolatileLog

INLINE_MOST: Final = 128 << 10
"""Bytes: a larger write reads and saves what it overwrites by the engine, on another core."""


class VolatileInode:
    """What all open files of one inode share: its history, and the order of changes."""

    def __init__(self, key: FileKey, inode: Inode, history: FileHistory, log: VolatileLog) -> None:
        self.key = key
        self.inode = inode
        self.history = history
        self.order = ChangeOrder()
        self.log = log
        self.is_held = False
        self.files = 0
        """How many open files it has."""
        self.was_emptied = False
        """Whether it was truncated to nothing and no file was closed since then."""

    def note_size(self, size: int) -> None:
        """Note that the file has *size* bytes now."""
        self.hold()
        if size != self.history.size:
            journal = self.log.contents.journal
            number = journal.tick()
            self.history.resize(number, size)
            journal.note(self.key, number)

    def hold(self) -> None:
        """Keep the inode, whatever the kernel forgets, until it is clean."""
        if not self.is_held:
            self.is_held = True
            self.log.hold(self.key)

    @asynccontextmanager
    async def changing(self, offset: int, size: int | None) -> AsyncIterator[None]:
        """The only change of the bytes from *offset* on, *size* of them; None: to the end."""
        sector, log = self.history.sector, self.log
        log.busy.begin()
        try:
            end = NO_END if size is None else -(-(offset + size) // sector)
            change = await self.order.begin(offset // sector, end)
            self.hold()
            try:
                yield
            finally:
                self.order.end(change)
                self.changed()
        finally:
            log.busy.end()

    def changed(self) -> None:
        """Note that a change has ended."""
        self.history.last_ns = clock_of_files()
        if self.history.needs_folding:
            self.log.contents.tidy(self.key, self.history)

    async def flush(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Have *flush* make the file durable, and note what is. Raises what it raises."""
        journal, history = self.log.contents.journal, self.history
        number = journal.tick()
        self.log.busy.begin()
        history.begin_flush(number)
        try:
            await self.order.settled()
            await flush()
        except BaseException:
            history.fail_flush(number, stays_dirty=self.log.stays_dirty)
            raise
        else:
            history.end_flush(number)
            journal.commit(self.key, number)
        finally:
            self.log.busy.end()

    def fail_flush(self) -> None:
        """Note that a flush has failed before it came here."""
        number = self.log.contents.journal.tick()
        self.history.begin_flush(number)
        self.history.fail_flush(number, stays_dirty=self.log.stays_dirty)


class VolatileFile:
    """An open file whose writes can be taken back until they are flushed.

    *file* must be open for reading, even if the program only writes. *is_durable* says that each of
    its writes is, without being asked.
    """

    def __init__(self, file: BackingFile, inode: VolatileInode, *, is_durable: bool) -> None:
        self.fd = file.fd
        self.inode = inode
        self.read_now = file.read_now
        self.read = file.read
        self.close = file.close
        self.close_may_block = file.close_may_block
        self._file = file
        self._history = inode.history
        self._order = inode.order
        self._log = inode.log
        self._sector = inode.history.sector
        self._tick = inode.log.contents.journal.tick
        self._flags_of = file.flags_of
        self._is_durable = is_durable
        self._read_flags = file.read_flags
        self._inline_most = min(INLINE_MOST, file.inline_write_max)

    def write_now(self, offset: int, data: Data, flags: int | None = None) -> int | None:
        """See `BackingFile.write_now`; it saves what it overwrites if that is in the page cache."""
        size = len(data)
        if size > self._inline_most or (self._flags_of(None) if flags is None else flags):
            return None
        begin = monotonic()
        log, habit = self._log, self._file.habit
        if begin < habit.resume_at or begin < log.habit.resume_at:
            return None
        sector = self._sector
        first, end = offset // sector, (offset + size - 1) // sector + 1
        if self._order.under_way and not self._order.is_free(first, end):
            return None
        history = self._history
        if offset + size > history.size:
            self.inode.note_size(os.fstat(self.fd).st_size)
        if end - first == 1:
            place = None
            if history.must_save(first):
                place = self._save_one_now(first)
                if place is None:
                    return None
            history.write_one(self._tick(), first, place)
        else:
            saved = self._save_now(history.to_save(first, end))
            if saved is None:
                return None
            history.write(self._tick(), first, end, saved)
        if not self.inode.is_held:
            self.inode.hold()
        saved_at = monotonic()
        if saved_at - begin > STALL:
            log.habit.stalled(begin, saved_at)
        written = self._file.write_now(offset, data, flags)
        if written is not None:
            if offset + written > history.size:
                self.inode.note_size(offset + written)
            self.inode.changed()
        return written

    def _save_one_now(self, sector: int) -> int | None:
        """Save one sector; its place in the log, or None if it cannot be read at once."""
        log, history = self._log, self._history
        offset = sector * self._sector
        size = history.size - offset
        if size <= 0:
            return ZEROES
        buffer = log.one_sector
        got = log.read_now(self.fd, buffer, offset, self._read_flags)
        if got < 0:
            return None
        if got < len(buffer):
            if got < size:
                return None
            buffer[got:] = bytes(len(buffer) - got)
        if buffer == log.zero_sector:
            return ZEROES
        ((_, _, place),) = runs = history.take_room(sector, 1)
        try:
            log.save(buffer, place)
        except OSError:
            history.give_back(runs)
            raise
        return place

    def _save_now(self, runs: list[tuple[int, int]]) -> list[SavedRun] | None:
        """Save sectors; None if not all can be read at once."""
        log, history = self._log, self._history
        saved: list[SavedRun] = []
        try:
            for first, count in runs:
                offset = first * self._sector
                size = min(count * self._sector, history.size - offset)
                if size <= 0:
                    saved.append((first, count, ZEROES))
                    continue
                data = log.buffer[: count * self._sector]
                if log.read_now(self.fd, data[:size], offset, self._read_flags) < size:
                    history.give_back(saved)
                    return None
                data[size:] = bytes(len(data) - size)
                if _is_zero(data):
                    saved.append((first, count, ZEROES))
                    continue
                saved += (room := history.take_room(first, count))
                done = 0
                for _, length, place in room:
                    log.save(data[done : done + length * self._sector], place)
                    done += length * self._sector
        except OSError:
            history.give_back(saved)
            raise
        return saved

    async def write(self, offset: int, data: Data, flags: int | None = None) -> int:
        """See `BackingFile.write`. Raises `OSError`: ENOSPC if the log is full, too."""
        how = self._flags_of(flags)
        appends = bool(how & APPEND)
        async with self.inode.changing(0 if appends else offset, None if appends else len(data)):
            if appends:
                offset = os.fstat(self.fd).st_size
            history, sector = self._history, self._sector
            reach = offset + len(data)
            first, end = offset // sector, -(-reach // sector)
            if reach > history.size:
                self.inode.note_size(os.fstat(self.fd).st_size)
            number = self._tick()
            saved = await self._save(history.to_save(first, end))
            history.write(number, first, end, saved)
            try:
                written = await self._file.write(offset, data, flags)
            finally:
                if reach > history.size:
                    self.inode.note_size(os.fstat(self.fd).st_size)
            if self._is_durable or (how if flags is None else flags) & DURABLE:
                self._made_durable(number, first, end)
            return written

    def _made_durable(self, number: int, first: int, end: int) -> None:
        """Note that a write is durable, and the size that it needs."""
        journal, history = self._log.contents.journal, self._history
        final = 0
        if history.operations:
            final = journal.tick()
            journal.commit(self.inode.key, final)
        history.flush_range(number, first, end, final)

    async def _save(self, runs: list[tuple[int, int]]) -> list[SavedRun]:
        """Save sectors that are about to be overwritten. Raises `OSError`."""
        log, history, sector = self._log, self._history, self._sector
        saved: list[SavedRun] = []
        try:
            for first, count in runs:
                offset = first * sector
                size = min(count * sector, history.size - offset)
                if size <= 0:
                    saved.append((first, count, ZEROES))
                    continue
                read = self.read_now(offset, size)
                if read is None:
                    read = await self.read(offset, size)
                data = bytes(read)
                if _is_zero(data):
                    saved.append((first, count, ZEROES))
                    continue
                data = data.ljust(count * sector, b"\0")
                saved += (room := history.take_room(first, count))
                done = 0
                for _, length, place in room:
                    await log.save_later(data[done : done + length * sector], place)
                    done += length * sector
        except BaseException:
            history.give_back(saved)
            raise
        return saved

    async def fsync(self, datasync: bool) -> None:
        """See `BackingFile.fsync`; what was written before cannot be lost then."""
        await self.inode.flush(lambda: self._file.fsync(datasync))
        await self._log.tidy()

    def flush_failed(self) -> None:
        """Note that a flush of the file has failed before it came here."""
        self.inode.fail_flush()

    def resized(self) -> None:
        """Note that the file may have got another size by a call on its descriptor."""
        self.inode.note_size(os.fstat(self.fd).st_size)


def _is_zero(data: Data) -> bool:
    """Whether all of *data* is zeroes; the first bytes mostly say that it is not."""
    return not any(data[:64]) and not bytes(data).strip(b"\0")
