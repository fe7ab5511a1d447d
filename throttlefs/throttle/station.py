"""What may stand behind the limits of an image or a group: a device with places.

A request that its limits let go takes a place, and keeps it until it is answered. While all places
are taken, nothing that needs one leaves the limiter. So fairness and limits decide who gets the
next place; a queue behind them would undo both. How long a request is served is up to a `Model`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from heapq import heappop, heappush
from typing import Any, Final, Protocol

from throttlefs.settings.device import Device

from .request import Request

FLUSH: Final = 2
"""The direction of a flush, which no limit holds up; reads and writes have `READ` and `WRITE`."""

ON_THE_WAY_NS: Final = 15_000
"""ns that a request takes at least between a program and the limiter, to and fro: 4 KiB at depth 1.

To that comes what it takes the program to wake up, which a session loop learns from its own
wake-ups. A device behind a mount answers so much earlier, or nothing could take as long as it says.
"""

_FEMTO_PER_NANO: Final = 1_000_000


class Model(Protocol):
    """Decides how long a device takes; `throttlefs.device` has one."""

    @property
    def places(self) -> int:
        """How many requests it works on at once, 0 for any number."""

    @property
    def serial(self) -> bool:
        """Whether it serves one at a time, however many places there are."""

    def change(self, device: Device) -> None:
        """Go on with other settings."""

    def attach(self, key: Hashable, name: str, size: int) -> object:
        """Where the file *key* lies on the device; `serve` gets it back."""

    def serve(
        self, direction: int, durable: bool, spot: Any, offset: int, nbytes: int, start: int
    ) -> tuple[int, int]:
        """How long (ns) the device works on a request from *start* on, and when (ns) it is done."""

    def longest(self) -> int:
        """The longest time (ns) from start to end that a request may take."""


class Ticket(Request):
    """A read, write or flush on its way through a device; see `Station`.

    ``start`` is the instant (ns) at which it got its place, ``end`` when the device is done with
    it. ``durable``: a write that also has to reach the medium. ``station`` is where it has a place;
    None before and afterwards, and if there is no device any more. ``spot`` is what the model knows
    of its file.
    """

    __slots__ = ("durable", "end", "is_leaving", "offset", "spot", "start", "station")

    def __init__(
        self,
        direction: int,
        nbytes: int,
        owner: Any = None,
        *,
        offset: int = 0,
        durable: bool = False,
    ) -> None:
        super().__init__(direction, nbytes, owner)
        self.offset = offset
        self.durable = durable
        self.start = 0
        self.end = 0
        self.station: Station | None = None
        self.spot: Any = None
        self.is_leaving = False  # whether it waits for `end` only


class Station:
    """The places of one device, which an image has to itself or the images of a group share.

    A place that was free late, because a timer was late, counts as free from the instant that the
    model gave. So N places serve N requests in each latency exactly, as long as more wait.

    ``flushes`` wait for a place only. Each has its turn before reads and writes: a write went
    before it, in its turn, and the time it takes counts as its image's.
    """

    __slots__ = ("_free_since", "flushes", "gated", "model", "serving")

    def __init__(self, model: Model) -> None:
        self.model = model
        self.serving: set[Ticket] = set()
        self.flushes: deque[Ticket] = deque()
        # The nodes that are held up while all places are taken; see `gates`.
        self.gated: set[Any] = set()
        self._free_since: list[int] = []  # a heap of instants, at most one for each free place

    @property
    def is_full(self) -> bool:
        """Whether all places are taken."""
        return 0 < self.model.places <= len(self.serving)

    def begin(self, ticket: Ticket, spot: object, due: int, earliest: int) -> int:
        """Let *ticket* take a place; returns its share (fs) of the device's time.

        *spot* is what the model's `attach` returned for its file. It counts from *due*, when its
        limits let it go, or from when its place was free, but not from before *earliest* (ns).
        """
        if self._free_since:
            due = max(due, heappop(self._free_since))
        model = self.model
        start = ticket.start = max(due, earliest)
        service, ticket.end = model.serve(
            ticket.direction,
            ticket.durable,
            spot,
            ticket.offset,
            ticket.nbytes,
            start,
        )
        ticket.station = self
        ticket.spot = spot
        self.serving.add(ticket)
        if not model.places:
            return 0
        return service * _FEMTO_PER_NANO // (1 if model.serial else model.places)

    def take_flushes(self) -> list[Ticket]:
        """The flushes that wait, which no longer do."""
        flushes = [flush for flush in self.flushes if flush.leaf is not None]
        self.flushes.clear()
        for flush in flushes:
            flush.leaf = None
        return flushes

    def free(self, ticket: Ticket, latest: int) -> None:
        """*ticket*, which is answered, gives its place back, which is free by *latest* (ns)."""
        ticket.station = None
        self.serving.discard(ticket)
        left = self.model.places - len(self.serving)
        if left > 0:
            heappush(self._free_since, min(ticket.end, latest))
            while len(self._free_since) > left:
                heappop(self._free_since)

    def changed(self, now: int) -> None:
        """Act on a change of the model: nothing in service takes longer than it allows now."""
        longest = self.model.longest()
        for ticket in self.serving:
            ticket.end = min(ticket.end, max(now, ticket.start + longest))
        self._free_since.clear()
