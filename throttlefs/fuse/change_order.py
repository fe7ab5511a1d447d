"""The order of changes of one file: those that overlap wait for each other.

What a change overwrites is read before it is made. Another change of the same bytes must not come
in between.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from trio.lowlevel import Abort, RaiseCancelT

from throttlefs import waiting

NO_END: Final = 1 << 62


class Change:
    """A change of the sectors from *first* up to *end*, under way or waiting."""

    __slots__ = ("end", "first", "waiter")

    def __init__(self, first: int, end: int) -> None:
        self.first = first
        self.end = end
        self.waiter: Any = None

    def overlaps(self, first: int, end: int) -> bool:
        """Whether it changes any sector from *first* up to *end*."""
        return self.first < end and first < self.end


class ChangeOrder:
    """The changes of one file that are under way, and those that wait for them."""

    def __init__(self) -> None:
        self.under_way: list[Change] = []
        self._waiting: deque[Change] = deque()
        self._settling: list[tuple[Any, set[Change]]] = []

    def is_free(self, first: int, end: int) -> bool:
        """Whether a change of these sectors need not wait."""
        for change in self.under_way:
            if change.first < end and first < change.end:
                return False
        return not self._waiting or not any(it.overlaps(first, end) for it in self._waiting)

    def try_begin(self, first: int, end: int) -> Change | None:
        """As `begin`, if the change need not wait; None if it must."""
        if not self.is_free(first, end):
            return None
        change = Change(first, end)
        self.under_way.append(change)
        return change

    async def begin(self, first: int, end: int) -> Change:
        """Wait until no earlier change overlaps; hand the result to `end`."""
        begun = self.try_begin(first, end)
        if begun is not None:
            return begun
        change = Change(first, end)
        change.waiter = waiting.current()
        self._waiting.append(change)

        def give_up(_: RaiseCancelT) -> Abort:
            self._waiting.remove(change)
            self._let_in()  # others may have waited for it only
            return Abort.SUCCEEDED

        await waiting.wait(give_up)
        return change

    def end(self, change: Change) -> None:
        """Note that a change is made, or given up."""
        self.under_way.remove(change)
        if self._waiting:
            self._let_in()
        for settling in self._settling[:] if self._settling else ():
            waiter, left = settling
            left.discard(change)
            if not left:
                self._settling.remove(settling)
                waiting.wake(waiter)

    async def settled(self) -> None:
        """Wait until all changes that are under way now have ended."""
        if not self.under_way:
            return
        self._settling.append((waiting.current(), set(self.under_way)))
        await waiting.wait(waiting.when_done)

    def _let_in(self) -> None:
        admitted = []
        still: deque[Change] = deque()
        for change in self._waiting:
            if any(it.overlaps(change.first, change.end) for it in (*self.under_way, *still)):
                still.append(change)
            else:
                self.under_way.append(change)
                admitted.append(change)
        self._waiting = still
        for change in admitted:
            waiting.wake(change.waiter)
