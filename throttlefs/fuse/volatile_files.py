"""The files of a mount that can lose power: opens them, and truncates, discards and allocates."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import TypeVar

from throttlefs.backing import BackingFile, Engine
from throttlefs.backing.undo_log import Piece, UndoLog
from throttlefs.device.volatile.contents import Contents
from throttlefs.device.volatile.history import SavedRun
from throttlefs.host import syscalls
from throttlefs.host.files import FileKey

from .in_thread import RunInThread
from .inode import Inode
from .inodes import InodeTable
from .volatile_file import VolatileFile, VolatileInode
from .volatile_log import VolatileLog

T = TypeVar("T")

CLOSED_MOST = 20_000
"""With so many files that are closed and not flushed the oldest become durable by themselves.

A kernel writes back what is some seconds old. Each such file takes up 4 KB of memory or more.
"""

_AT_ONCE = 64
"""So many of them at a time."""

_BLOCK = 4096
"""Bytes of a block of filesystems that can clone."""

_ZEROES = syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_ZERO_RANGE


class VolatileFiles:
    """All inodes whose contents a power cut may change, and those that are open.

    *forget* is the handler of the kernel's FORGET. *stays_dirty*: a flush that failed leaves the
    data to the next one. *flushes_at_close*: a file that was truncated to nothing reaches the disk
    when it is closed, before any later change (mount option auto_da_alloc of ext4).
    *all_durable*: every write is durable, without being asked.
    """

    def __init__(
        self,
        contents: Contents,
        undo_log: UndoLog,
        inodes: InodeTable,
        in_thread: RunInThread,
        engine: Engine,
        forget: Callable[[Sequence[tuple[int, int]]], Awaitable[None]],
        *,
        stays_dirty: bool,
        flushes_at_close: bool,
        all_durable: bool,
    ) -> None:
        self.contents = contents
        self.undo_log = undo_log
        self._inodes = inodes
        self._in_thread = in_thread
        self._forget = forget
        self._flushes_at_close = flushes_at_close
        self._all_durable = all_durable
        self._log = VolatileLog(contents, undo_log, engine, in_thread, stays_dirty=stays_dirty)
        self._log.hold = self._hold
        self._log.let_go = self.let_go
        self._known: dict[FileKey, VolatileInode] = {}
        self._held: dict[FileKey, Inode] = {}
        self._closed: dict[FileKey, VolatileInode] = {}  # and not flushed then; the oldest first

    # -- opening and closing ---------------------------------------------------------------

    def covers(self, key: FileKey) -> bool:
        """Whether a power cut concerns the file: it is on the filesystem of SRC."""
        return key[0] == self._inodes.root.key[0]

    def opened(self, inode: Inode, file: BackingFile, size: int) -> VolatileFile:
        """*file* as a file that can lose data; it has *size* bytes."""
        volatile = self._inode(inode, size)
        volatile.files += 1
        return VolatileFile(file, volatile, is_durable=self._all_durable)

    def closed(self, file: VolatileFile, *, may_write: bool) -> None:
        """Note that a file is being closed."""
        inode = file.inode
        inode.files -= 1
        if inode.was_emptied and may_write:
            inode.was_emptied = False
            if self._flushes_at_close and inode.history.is_dirty:
                journal = self.contents.journal
                number = journal.tick()
                journal.note(inode.key, number)
                self.contents.barrier(inode.key, number)
        self._drop_if_unused(inode)
        if not inode.files and inode.history.is_dirty:
            self._closed.pop(inode.key, None)
            self._closed[inode.key] = inode
            if len(self._closed) > CLOSED_MOST:
                self._write_back()

    def _write_back(self) -> None:
        """Let the files that were closed first be durable."""
        for key in list(islice(self._closed, _AT_ONCE)):
            inode = self._closed.pop(key)
            if self._known.get(key) is inode and inode.is_idle:
                self.contents.write_back(key)
                self._drop_if_unused(inode)

    def _inode(self, inode: Inode, size: int) -> VolatileInode:
        key = inode.key
        found = self._known.get(key)
        if found is None or found.history is not self.contents.find(key):
            found = VolatileInode(key, inode, self.contents.history(key, size), self._log)
            self._known[key] = found
        return found

    def _drop_if_unused(self, inode: VolatileInode) -> None:
        if inode.files or inode.history.is_dirty or inode.order.under_way:
            return
        if self._known.get(inode.key) is inode:
            del self._known[inode.key]
            self._closed.pop(inode.key, None)
            self.contents.drop_if_clean(inode.key)

    # -- keeping inodes --------------------------------------------------------------------

    def _hold(self, key: FileKey) -> None:
        inode = self._known[key].inode
        inode.lookups += 1
        self._held[key] = inode

    async def let_go(self, of: FileKey | None = None) -> None:
        """Let go of the inodes that are clean by now, or if it is clean of that one."""
        keys = [it for it in ([of] if of is not None else self._held) if it in self._held]
        clean = []
        for key in [key for key in keys if not self.contents.is_dirty(key)]:
            clean.append((self._held.pop(key).number, 1))
            known = self._known.get(key)
            if known is not None:
                known.is_held = False
                self._drop_if_unused(known)
        if clean:
            await self._forget(clean)

    # -- truncates, discards, allocations --------------------------------------------------

    async def truncating(
        self, inode: Inode, path_fd: int, size: int, uid: int, change: Callable[[], Awaitable[T]]
    ) -> T:
        """Have *change* give the file *size* bytes, after what it cuts off was saved.

        *path_fd* is a descriptor (O_PATH), *uid* is who asks. Raises what *change* does, and
        `OSError`: ENOSPC if the log has no room.
        """
        volatile = self._inode(inode, await self._size(path_fd, uid))
        under_way = await volatile.begin(size, None)
        try:
            before = await self._size(path_fd, uid)
            volatile.note_size(before)
            saved = await self._save(volatile, path_fd, size, before, uid)
            try:
                result = await change()
            finally:
                self._note_truncate(volatile, saved, await self._size(path_fd, uid), before)
            volatile.was_emptied = size == 0
        finally:
            volatile.end(under_way)
        self._drop_if_unused(volatile)
        return result

    async def allocating(
        self,
        inode: Inode,
        fd: int,
        mode: int,
        offset: int,
        length: int,
        uid: int,
        change: Callable[[], Awaitable[None]],
    ) -> None:
        """Have *change* do fallocate(2) on *fd* for *uid*, after what it makes zeroes was saved."""
        volatile = self._inode(inode, await self._size(fd, uid))
        under_way = await volatile.begin(offset, length)
        try:
            before = await self._size(fd, uid)
            volatile.note_size(before)
            end = min(offset + length, before)
            makes_zeroes = bool(mode & _ZEROES) and offset < end
            saved = await self._save(volatile, fd, offset, end, uid) if makes_zeroes else []
            try:
                await change()
            except BaseException:
                volatile.history.give_back(saved)
                raise
            after = await self._size(fd, uid)
            if makes_zeroes:
                self._note_zeroes(volatile, saved, offset, None if end == before else end, after)
            else:
                volatile.note_size(after)
        finally:
            volatile.end(under_way)

    async def _size(self, fd: int, uid: int) -> int:
        st: os.stat_result = await self._in_thread(os.fstat, fd, owner=uid)
        return st.st_size

    def _note_truncate(
        self, volatile: VolatileInode, saved: list[SavedRun], size: int, before: int
    ) -> None:
        """Note that the file had *before* bytes and has *size*, whether all went well or not."""
        if size < before:
            self._note_zeroes(volatile, saved, size, None, size)
        else:
            volatile.history.give_back(saved)
            volatile.note_size(size)

    def _note_zeroes(
        self,
        volatile: VolatileInode,
        saved: list[SavedRun],
        start: int,
        end: int | None,
        size: int,
    ) -> None:
        """Note that bytes became zeroes, and that the file has *size* bytes then."""
        history, journal = volatile.history, self.contents.journal
        number = journal.tick()
        history.zero(number, start, end, saved)
        if size != history.size:
            history.resize(number, size)
        journal.note(volatile.key, number)

    async def _save(
        self, volatile: VolatileInode, fd: int, start: int, end: int, uid: int
    ) -> list[SavedRun]:
        """Save all data of the file from *start* up to *end*. Raises `OSError`."""
        if start >= end:
            return []
        history = volatile.history
        sector = history.sector
        place = (fd, start // sector, -(-end // sector), sector)
        runs = await self._in_thread(_data_in, *place, owner=uid)
        saved: list[SavedRun] = []
        try:
            for first, count in runs:
                # What begins within a block goes apart, so that the rest can be cloned.
                head = min(count, -first % max(1, _BLOCK // sector))
                saved += history.take_room(first, head)
                saved += history.take_room(first + head, count - head)
            pieces = [(first * sector, count * sector, place) for first, count, place in saved]
            if pieces:
                name = os.fsdecode(volatile.inode.path)
                await self._log.hand_over()
                await self._in_thread(_save_pieces, self.undo_log, fd, pieces, name, owner=uid)
        except BaseException:
            history.give_back(saved)
            raise
        return saved

    # -- everything ------------------------------------------------------------------------

    async def idle(self) -> None:
        """Wait until no change and no flush is in the backing."""
        await self._log.busy.idle()

    async def flush_all(self, flush: Callable[[], Awaitable[None]]) -> None:
        """Have *flush* make all of SRC durable, and note that it is. Raises what it raises."""
        number = self.contents.journal.tick()
        inodes = [it for it in self._known.values() if it.history.is_dirty]
        for inode in inodes:
            inode.history.begin_flush(number)
        try:
            for inode in inodes:
                await inode.order.settled()
            await flush()
        except BaseException:
            for inode in inodes:
                inode.history.fail_flush(number, stays_dirty=self._log.stays_dirty)
            raise
        for inode in inodes:
            inode.history.end_flush(number)
            self.contents.journal.commit(inode.key, number)
        await self._log.tidy(None)

    def begin_anew(self) -> None:
        """Forget everything after a power cut; files that were open stay as they were.

        The undo log has begun anew before.
        """
        self.contents.begin_anew()
        self._known.clear()
        self._closed.clear()


def _data_in(fd: int, first: int, end: int, sector: int) -> list[tuple[int, int]]:
    """The sectors from *first* up to *end* of the file that are no holes, as runs."""
    own = os.open(b"/proc/self/fd/%d" % fd, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        runs = []
        at = first * sector
        while at < end * sector:
            begin = _seek(own, at, os.SEEK_DATA)
            if begin is None or begin >= end * sector:
                break
            stop = _seek(own, begin, os.SEEK_HOLE) or end * sector
            low, high = max(at, begin) // sector, min(-(-stop // sector), end)
            runs.append((low, high - low))
            at = high * sector
        return runs
    finally:
        os.close(own)


def _seek(fd: int, offset: int, whence: int) -> int | None:
    try:
        return os.lseek(fd, offset, whence)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def _save_pieces(undo_log: UndoLog, fd: int, pieces: list[Piece], name: str) -> None:
    own = os.open(b"/proc/self/fd/%d" % fd, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        undo_log.save_file(own, pieces, name)
    finally:
        os.close(own)
