"""What the files of a mount that can lose power share: their contents, and the undo log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from throttlefs import waiting
from throttlefs.backing import Engine
from throttlefs.backing.undo_log import UndoLog
from throttlefs.device.volatile.contents import Contents
from throttlefs.device.volatile.extents import EXTENT, extent_of
from throttlefs.device.volatile.history import FileHistory, SavedRun
from throttlefs.device.volatile.samples import ZEROES
from throttlefs.host.files import FileKey

from .in_thread import RunInThread


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
        self.room = undo_log.room
        self.put = undo_log.put
        self.zero_sector = bytes(contents.sector)
        self.call = engine.call
        self._in_thread = in_thread
        self.busy = Busy()
        self.hold: Callable[[FileKey], None] = lambda _: None
        """Called with a file that can lose data now, and could not before."""
        self.let_go: Callable[[FileKey | None], Awaitable[None]]
        """Called after a file was flushed, or with None after all were."""

    def save_run(self, history: FileHistory, first: int, data: memoryview) -> list[SavedRun]:
        """Save *data*, the contents of neighbouring sectors, which lie in `UndoLog.room`."""
        sector = history.sector
        count = len(data) // sector
        if not any(data[:64]) and not bytes(data).strip(b"\0"):
            return [(first, count, ZEROES)]
        runs = history.take_room(first, count)
        for _, length, place in runs:
            self.put(length * sector, place)
        return runs

    async def wait_for_room(self) -> None:
        """Wait until `UndoLog.room` gives some. Raises nothing."""
        await self.call(self.undo_log.wait_for_room)

    async def hand_over(self) -> None:
        """Have all that was put written to the file, so that `UndoLog.drain` can wait for it."""
        while not self.undo_log.hand_over():
            await self.wait_for_room()

    async def tidy(self, key: FileKey | None) -> None:
        """After a flush of the file *key*, or of all: let go, and free many blocks of the log."""
        await self.let_go(key)
        extents, undo_log = self.contents.extents, self.undo_log
        has_failed = undo_log.has_failed
        if has_failed:
            free = extents.free()
            undo_log.drop(lambda place: extent_of(place) in free)
        places = extents.take_surplus(all_of_it=has_failed)
        if places:
            try:
                await self._in_thread(undo_log.free, places, EXTENT)
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
