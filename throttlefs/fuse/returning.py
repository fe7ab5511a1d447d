"""Bounds the memory for data that come back from the spill file.

When limits are lifted, or a mount ends, hundreds of writes may go at once. If all took their data
back at once, these would fill the memory until SRC has written them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from trio.lowlevel import Abort, RaiseCancelT, Task

from throttlefs import waiting


class Returning:
    """Lets in writes whose data come back, in order of arrival within each image.

    They hold at most *most* bytes in all, and at most *share* for an image. An image may always
    have one write, so a file of SRC that hangs keeps up only its own writes.
    """

    def __init__(self, most: int, share: int) -> None:
        self._most = most
        self._share = share
        self._all = 0
        self._is_short = False  # whether somebody waits only because of what all hold together
        self._of: dict[Hashable, int] = {}
        self._queues: dict[Hashable, deque[tuple[Task | waiting.Waiter, int]]] = {}

    async def enter(self, image: Hashable, size: int) -> None:
        """Wait until there is room for *size* bytes; `leave` must follow."""
        if image not in self._queues and self._has_room(image, size):
            self._take(image, size)
            return
        place = (waiting.current(), size)
        self._queues.setdefault(image, deque()).append(place)

        def give_up(_: RaiseCancelT) -> Abort:
            self._queues[image].remove(place)
            self._let_in(image)  # those behind it may need less
            return Abort.SUCCEEDED

        await waiting.wait(give_up)

    def leave(self, image: Hashable, size: int) -> None:
        """Note that *size* bytes are held no longer."""
        self._all -= size
        left = self._of.pop(image, 0) - size
        if left:
            self._of[image] = left
        if image in self._queues:
            self._let_in(image)
        if self._is_short:
            self._is_short = False
            for waits in list(self._queues):
                self._let_in(waits)

    def _has_room(self, image: Hashable, size: int) -> bool:
        held = self._of.get(image, 0)
        if not held:
            return True
        if held + size > self._share:
            return False
        if self._all + size > self._most:
            self._is_short = True
            return False
        return True

    def _take(self, image: Hashable, size: int) -> None:
        self._all += size
        self._of[image] = self._of.get(image, 0) + size

    def _let_in(self, image: Hashable) -> None:
        queue = self._queues[image]
        while queue and self._has_room(image, queue[0][1]):
            waiter, size = queue.popleft()
            self._take(image, size)
            waiting.wake(waiter)
        if not queue:
            del self._queues[image]
