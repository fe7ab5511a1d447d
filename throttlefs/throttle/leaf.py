"""An image as the limiter sees it: two queues of waiting requests under one set of limits."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from .node import Node
from .request import Request

if TYPE_CHECKING:
    from collections.abc import Hashable

    from .station import Station


_NOTHING: Final[deque[Request]] = deque(maxlen=0)


class Leaf(Node):
    """An image's two queues. Order holds within each; a total makes them take turns by arrival.

    ``key``, ``name`` and ``size`` (bytes) say which file it is, for a device.
    """

    __slots__ = ("_queues", "_spot", "_spot_of", "key", "name", "path", "size", "waiting_most")

    def __init__(self, key: Hashable = None) -> None:
        super().__init__()
        self.key = key
        self.name = ""
        self.size = 0
        self._spot: object = None
        self._spot_of: Station | None = None
        # Made when first needed: most images never have anything waiting.
        self._queues: list[deque[Request]] = [_NOTHING, _NOTHING]
        self.waiting_most = [0, 0]
        # This leaf and all above it, the root last; kept up to date by the scheduler.
        self.path: tuple[Node, ...] = (self,)

    def due_at(self, direction: int, now: int) -> int | None:
        """From when the first request of *direction* may go; see `Node.due_at`."""
        if not self.waiting[direction]:
            return None
        return self.own_due_at(direction, now)

    def append(self, request: Request) -> None:
        """Put *request* at the end of its queue."""
        request.leaf = self
        direction = request.direction
        queue = self._queues[direction]
        if queue is _NOTHING:
            queue = self._queues[direction] = deque()
        queue.append(request)
        waiting = self.waiting[direction]
        self.waiting_most[direction] = max(self.waiting_most[direction], waiting)

    def first(self, direction: int) -> Request:
        """The request that is next in *direction*; there must be one."""
        queue = self._queues[direction]
        while queue[0].leaf is None:  # withdrawn
            queue.popleft()
        return queue[0]

    def take(self, direction: int) -> Request:
        """Remove and return the request that is next in *direction*."""
        request = self.first(direction)
        self._queues[direction].popleft()
        request.leaf = None
        return request

    def withdraw(self, request: Request) -> None:
        """Forget *request*, at any place in its queue."""
        request.leaf = None
        if not self.waiting[request.direction]:
            self._queues[request.direction].clear()

    def spot_on(self, station: Station) -> object:
        """Where the file lies on the device of *station*."""
        if self._spot_of is not station:
            self._spot = station.model.attach(self.key, self.name, self.size)
            self._spot_of = station
        return self._spot

    def choose(self, directions: tuple[int, ...], now: int) -> int:
        """Which of *directions*, all due, goes next: the one whose request came first.

        The other direction may have an older request that is due here and held up above. Then it
        keeps its turn: it stays due here whatever goes first.
        """
        if len(directions) == 2:
            read, write = directions
            return read if self.first(read).number < self.first(write).number else write
        chosen = directions[0]
        other = 1 - chosen
        if (
            self.waiting[other]
            and self.meter.totals
            and self.first(other).number < self.first(chosen).number
            and self.own_due_at(other, now) <= now
        ):
            self.turn_pending[other] = True
        return chosen
