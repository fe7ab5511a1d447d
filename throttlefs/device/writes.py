"""What a flush of one file has to wait for, and whether there is anything to flush.

A disk has a cache for writes: a flush makes durable what was written before it. So it waits for the
writes that the disk has begun before, and costs nothing if none came since the last one. Programs
that flush at the same time share one flush, as long as it has not begun (group commit).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import trio

from throttlefs import waiting


class _Gathering:
    """Handlers that wait for the same event."""

    def __init__(self) -> None:
        self._owners: dict[Any, None] = {}

    async def wait(self) -> None:
        owner = waiting.current()
        self._owners[owner] = None

        def abort(_: object) -> trio.lowlevel.Abort:
            del self._owners[owner]
            return trio.lowlevel.Abort.SUCCEEDED

        await waiting.wait(abort)

    def wake_all(self) -> None:
        owners, self._owners = self._owners, {}
        for owner in owners:
            waiting.wake(owner)


class Flush:
    """A flush that others may join. ``has_begun``: later writes are not part of it."""

    def __init__(self) -> None:
        self.has_begun = False
        self.has_worked = False
        self._followers = _Gathering()

    async def wait(self) -> bool:
        """Wait for its end; whether it was carried out."""
        await self._followers.wait()
        return self.has_worked

    def end(self, has_worked: bool) -> None:
        """Let those go on that have joined."""
        self.has_worked = has_worked
        self._followers.wake_all()


class Writes:
    """The writes of one file under way in its device, and its flushes.

    ``is_dirty``: something was written that no flush has begun to make durable.
    """

    def __init__(self) -> None:
        self.is_dirty = False
        self._under_way: set[Hashable] = set()
        self._barriers: dict[_Gathering, set[Hashable]] = {}
        self._flush: Flush | None = None

    def begin(self, write: Hashable) -> None:
        """The device begins with a *write*."""
        self._under_way.add(write)

    def end(self, write: Hashable, *, durable: bool) -> None:
        """The *write* is answered. A *durable* one needs no flush."""
        self._under_way.discard(write)
        self.is_dirty |= not durable
        for barrier, pending in list(self._barriers.items()):
            pending.discard(write)
            if not pending:
                del self._barriers[barrier]
                barrier.wake_all()

    async def settled(self) -> None:
        """Wait until all writes that are under way now are answered."""
        if not self._under_way:
            return
        barrier = _Gathering()
        self._barriers[barrier] = set(self._under_way)
        try:
            await barrier.wait()
        finally:
            self._barriers.pop(barrier, None)

    def flush_to_join(self) -> Flush | None:
        """The flush that makes everything durable that was answered by now; None if there is none.

        One that has begun will do if nothing was written since.
        """
        flush = self._flush
        if flush is None or (flush.has_begun and self.is_dirty):
            return None
        return flush

    def new_flush(self) -> Flush:
        """A flush that is going to wait for its place; call `flush_begins` and `flush_ends`."""
        self._flush = Flush()
        return self._flush

    def flush_begins(self, flush: Flush) -> None:
        """The device begins with *flush*."""
        flush.has_begun = True
        self.is_dirty = False

    def flush_ends(self, flush: Flush, *, has_worked: bool) -> None:
        """*flush* is over. Unless it *has_worked*, what was written still has to be flushed."""
        if self._flush is flush:
            self._flush = None
        self.is_dirty |= not has_worked
        flush.end(has_worked)
