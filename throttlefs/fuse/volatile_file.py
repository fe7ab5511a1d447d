"""An open file of a mount that can lose power: each write first saves what it overwrites.

It stands where `BackingFile` stands without ``-o volatile``, and has its methods.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from time import monotonic

from throttlefs.backing import BackingFile, Data
from throttlefs.backing.log_writer import IMAGE_MOST
from throttlefs.backing.write_flags import APPEND, DURABLE
from throttlefs.device.volatile.history import FileHistory, SavedRun
from throttlefs.device.volatile.samples import ZEROES
from throttlefs.host.files import FileKey, clock_of_files

from .change_order import NO_END, Change, ChangeOrder
from .inode import Inode
from .volatile_log import VolatileLog


class VolatileInode:
    """What all open files of one inode share: its history, and the order of changes."""

    def __init__(self, key: FileKey, inode: Inode, history: FileHistory, log: VolatileLog) -> None:
        self.key = key
        self.inode = inode
        self.history = history
        self.order = ChangeOrder()
        self.log = log
        self.is_held = False
        self.flushing = 0  # how many flushes are under way
        self.files = 0
        """How many open files it has."""
        self.was_emptied = False
        """Whether it was truncated to nothing and no file was closed since then."""

    @property
    def is_idle(self) -> bool:
        """Whether it is not open, and neither a change nor a flush of it is under way."""
        return not (self.files or self.flushing or self.order.under_way)

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

    async def begin(self, offset: int, size: int | None) -> Change:
        """Begin the only change of *size* bytes from *offset* on (None: to the end).

        Hand the result to `end`.
        """
        sector, busy = self.history.sector, self.log.busy
        busy.begin()
        try:
            first = offset // sector
            end = NO_END if size is None else -(-(offset + size) // sector)
            change = self.order.try_begin(first, end) or await self.order.begin(first, end)
        except BaseException:
            busy.end()
            raise
        if not self.is_held:
            self.hold()
        return change

    def end(self, change: Change) -> None:
        """End a change."""
        self.order.end(change)
        self.changed()
        self.log.busy.end()

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
        self.flushing += 1
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
            self.flushing -= 1
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
        self._inline_most = file.inline_write_max
        self._sectors_most = IMAGE_MOST // self._sector
        self._write_now = file.write_now
        self._habit = file.habit
        self._zero_sector = inode.log.zero_sector

    def write_now(self, offset: int, data: Data, flags: int | None = None) -> int | None:
        """See `BackingFile.write_now`; it saves what it overwrites if that is in the page cache."""
        size = len(data)
        if size > self._inline_most or (self._flags_of(None) if flags is None else flags):
            return None
        if monotonic() < self._habit.resume_at:
            return None
        sector = self._sector
        reach = offset + size
        first, end = offset // sector, (reach - 1) // sector + 1
        if self._order.under_way and not self._order.is_free(first, end):
            return None
        history = self._history
        extends = reach > history.size
        if extends:
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
        written = self._write_now(offset, data, flags)
        if written is not None:
            if extends and offset + written > history.size:
                self.inode.note_size(offset + written)
            history.last_ns = clock_of_files()
            if history.needs_folding:
                self.inode.changed()
        return written

    def _save_one_now(self, sector: int) -> int | None:
        """Save one sector; its place in the log, or None if it cannot be read at once."""
        history = self._history
        offset = sector * self._sector
        size = history.size - offset
        if size <= 0:
            return ZEROES
        whole = self._sector
        buffer = self._log.room(whole)
        if buffer is None:
            return None
        try:
            got = os.preadv(self.fd, (buffer,), offset, self._read_flags)
        except BlockingIOError:
            return None
        except OSError as error:
            self._has_no_nowait(error)
            return None
        if got < whole:
            if got < size:
                return None
            buffer[got:] = bytes(whole - got)
        if not buffer[0] and bytes(buffer) == self._zero_sector:
            return ZEROES
        place = history.take_sector()
        self._log.put(whole, place)
        return place

    def _has_no_nowait(self, error: OSError) -> None:
        """Note that the filesystem does not know RWF_NOWAIT, or raise *error*."""
        if error.errno != errno.EOPNOTSUPP:
            raise error
        self._inline_most = 0

    def _save_now(self, runs: list[tuple[int, int]]) -> list[SavedRun] | None:
        """Save sectors; None if not all can be read at once."""
        saved: list[SavedRun] = []
        try:
            for first, count in runs:
                run = self._save_run_now(first, count)
                if run is None:
                    self._history.give_back(saved)
                    return None
                saved += run
        except OSError:
            self._history.give_back(saved)
            raise
        return saved

    def _save_run_now(self, first: int, count: int) -> list[SavedRun] | None:
        """Save neighbouring sectors; None if not all can be read at once."""
        offset, whole = first * self._sector, count * self._sector
        size = min(whole, self._history.size - offset)
        if size <= 0:
            return [(first, count, ZEROES)]
        data = self._log.room(whole)
        if data is None:
            return None
        try:
            if os.preadv(self.fd, (data[:size],), offset, self._read_flags) < size:
                return None
        except BlockingIOError:
            return None
        except OSError as error:
            self._has_no_nowait(error)
            return None
        if size < whole:
            data[size:] = bytes(whole - size)
        return self._log.save_run(self._history, first, data)

    async def write(self, offset: int, data: Data, flags: int | None = None) -> int:
        """See `BackingFile.write`. Raises `OSError`: ENOSPC if the log is full, too."""
        how = self._flags_of(flags)
        appends = bool(how & APPEND)
        inode, history, sector = self.inode, self._history, self._sector
        change = await inode.begin(0 if appends else offset, None if appends else len(data))
        try:
            if appends:
                offset = await self._size()
            reach = offset + len(data)
            first, end = offset // sector, -(-reach // sector)
            if reach > history.size:
                inode.note_size(await self._size())
            number = self._tick()
            if end - first == 1:
                place = await self._save_one(first) if history.must_save(first) else None
                history.write_one(number, first, place)
            else:
                saved = await self._save(history.to_save(first, end))
                history.write(number, first, end, saved)
            try:
                written = self._write_now(offset, data, flags) if self._inline_most else None
                if written is None:
                    written = await self._file.write(offset, data, flags)
            finally:
                if reach > history.size:
                    inode.note_size(await self._size())
            if self._is_durable or (how if flags is None else flags) & DURABLE:
                self._made_durable(number, first, end)
            return written
        finally:
            inode.end(change)

    async def _size(self) -> int:
        """How many bytes the file has in SRC."""
        if self._file.is_local:
            return os.fstat(self.fd).st_size
        return (await self._log.call(os.fstat, self.fd)).st_size

    def _made_durable(self, number: int, first: int, end: int) -> None:
        """Note that a write is durable, and the size that it needs."""
        journal, history = self._log.contents.journal, self._history
        final = 0
        if history.operations:
            final = journal.tick()
            journal.commit(self.inode.key, final)
        history.flush_range(number, first, end, final)

    async def _save_one(self, sector: int) -> int:
        """Save one sector; its place in the log. Raises `OSError`."""
        place = self._save_one_now(sector) if self._inline_most else None
        if place is not None:
            return place
        log, history, whole = self._log, self._history, self._sector
        offset = sector * whole
        size = min(whole, history.size - offset)
        if size <= 0:
            return ZEROES
        read = await self.read(offset, size)
        while (room := log.room(whole)) is None:
            await log.wait_for_room()
        got = len(read)
        room[:got] = read
        if got < whole:
            room[got:] = bytes(whole - got)
        if not room[0] and bytes(room) == self._zero_sector:
            return ZEROES
        place = history.take_sector()
        log.put(whole, place)
        return place

    async def _save(self, runs: list[tuple[int, int]]) -> list[SavedRun]:
        """Save sectors that are about to be overwritten. Raises `OSError`."""
        saved: list[SavedRun] = []
        try:
            for first, count in runs:
                for at in range(first, first + count, self._sectors_most):
                    length = min(self._sectors_most, first + count - at)
                    saved += await self._save_run(at, length)
        except BaseException:
            self._history.give_back(saved)
            raise
        return saved

    async def _save_run(self, first: int, count: int) -> list[SavedRun]:
        """Save neighbouring sectors, at most `IMAGE_MOST`. Raises `OSError`."""
        log, history = self._log, self._history
        offset, whole = first * self._sector, count * self._sector
        size = min(whole, history.size - offset)
        if size <= 0:
            return [(first, count, ZEROES)]
        if self._inline_most:
            run = self._save_run_now(first, count)
            if run is not None:
                return run
        read = await self.read(offset, size)
        while (data := log.room(whole)) is None:
            await log.wait_for_room()
        got = len(read)
        data[:got] = read
        if got < whole:
            data[got:] = bytes(whole - got)
        return log.save_run(history, first, data)

    async def fsync(self, datasync: bool) -> None:
        """See `BackingFile.fsync`; what was written before cannot be lost then."""
        await self.inode.flush(lambda: self._file.fsync(datasync))
        await self._log.tidy(self.inode.key)

    def flush_failed(self) -> None:
        """Note that a flush of the file has failed before it came here."""
        self.inode.fail_flush()

    def resized(self, size: int) -> None:
        """Note that a call on the descriptor made the file *size* bytes long."""
        self.inode.note_size(size)
