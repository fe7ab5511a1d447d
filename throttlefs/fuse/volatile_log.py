"""What the files of a mount that can lose power share: their contents, and the undo log."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from throttlefs import waiting
from throttlefs.backing import Data, Engine
from throttlefs.backing.undo_log import UndoLog
from throttlefs.device.volatile.contents import Contents
from throttlefs.device.volatile.extents import EXTENT
from throttlefs.host.files import FileKey

from .in_thread import RunInThread

SAVED_INLINE: Final = 64 << 10
"""Bytes: what is larger is written to the log by the engine, on another core."""


class VolatileLog:
    """Reads what is overwritten, and writes it to the undo log.

    *stays_dirty* says whether a flush that failed leaves the data to the next one.
    """

    def __init__(
        self,
        contents: Contents,
        undo_log: UndoLog,
        engine: Engine,
        in_thread: RunInThread,
        *,
        stays_dirty: bool,
    ) -> None:
        self.contents = contents
        self.undo_log = undo_log
        self.stays_dirty = stays_dirty
        self.habit = undo_log.habit
        self.save = undo_log.save
        self.buffer = memoryview(bytearray(EXTENT))
        self.one_sector = bytearray(contents.sector)
        self.zero_sector = bytes(contents.sector)
        self._engine = engine
        self._in_thread = in_thread
        self.busy = Busy()
        self.hold: Callable[[FileKey], None] = lambda _: None
        """Called with a file that can lose data now, and could not before."""
        self.let_go: Callable[[], Awaitable[None]]
        """Called after files became clean."""

    @staticmethod
    def read_now(fd: int, buffer: bytearray | memoryview, offset: int, flags: int) -> int:
        """Read from the page cache; returns how many bytes, -1 if not all is there."""
        try:
            return os.preadv(fd, (buffer,), offset, flags)
        except BlockingIOError:
            return -1
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        return -1

    async def save_later(self, data: Data, place: int) -> None:
        """Write to the log, by the engine if that takes long. Raises `OSError`."""
        if len(data) <= SAVED_INLINE:
            self.save(data, place)
            return
        try:
            done = 0
            while done < len(data):
                fd, rest = self.undo_log.fd, data[done:] if done else data
                done += await self._engine.write(fd, place + done, rest, offload=True)
        except OSError as error:
            self.undo_log.failed(error)
            raise

    async def tidy(self) -> None:
        """After a flush: let go of clean files, and free blocks of the log if there are many."""
        await self.let_go()
        extents = self.contents.extents
        places = extents.take_surplus()
        if places:
            try:
                await self._in_thread(self.undo_log.free, places, EXTENT)
            finally:
                extents.punched(places)


class Busy:
    """Counts changes and flushes, from when they come to when they have ended."""

    def __init__(self) -> None:
        self.count = 0
        self._idle: list[Any] = []

    def begin(self) -> None:
        """Count one more."""
        self.count += 1

    def end(self) -> None:
        """Count one less."""
        self.count -= 1
        if not self.count:
            waiters, self._idle = self._idle, []
            for waiter in waiters:
                waiting.wake(waiter)

    async def idle(self) -> None:
        """Wait until there is none."""
        while self.count:
            self._idle.append(waiting.current())
            await waiting.wait(waiting.when_done)
