"""An image: where a read or write asks whether it may go.

Limits that are far from being reached should cost nothing. A request that finds everything paid
for at least a slack ago leaves each of its buckets at ``now - SLACK`` plus its own cost, whatever
came before it. So as long as requests leave each other that much time (`Meter.gap`), the charges
can be *deferred*: only the last request of each direction is remembered. It is charged, as of its
own instant, when something else happens to the image. The buckets are then exactly what they
would have been.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import trio

from throttlefs import waiting

from .dispatcher import Dispatcher
from .image_policy import NO_OVERRIDE
from .leaf import Leaf
from .meter import DIRECTIONS, WRITE
from .node import SLACK
from .request import Request
from .station import FLUSH, Ticket


class Image(Leaf):
    """One file's place in the limiter; `Throttle.image` makes them.

    ``override`` is what was set for this image alone; `Throttle.set_override` changes it.
    ``unlimited[direction]`` says that nothing can hold a request up; the throttle keeps it up to
    date. ``waiting[direction]`` is how many requests wait now, ``waiting_most[direction]`` how many
    did at most.
    """

    __slots__ = (
        "_clock",
        "_deferred",
        "_deferred_at",
        "_deferred_gap",
        "_deferred_size",
        "_dispatcher",
        "_hold",
        "_traffic",
        "_try_pass",
        "forgotten",
        "listed",
        "note_wait",
        "override",
        "unlimited",
    )

    def __init__(
        self, dispatcher: Dispatcher, key: Hashable, hold: Callable[[Image], None]
    ) -> None:
        super().__init__(key)
        self._dispatcher = dispatcher
        self._hold = hold
        self._clock = dispatcher.clock
        self._traffic = dispatcher.scheduler.traffic
        self._try_pass = dispatcher.scheduler.try_pass
        self.override = NO_OVERRIDE
        self.note_wait: Callable[[int, int], None] = _ignore
        self.unlimited = [True, True]
        # Set by the throttle: whether nobody has it open, and whether it is listed to be dropped.
        self.forgotten = False
        self.listed = False
        # Charges are deferred for requests of at most _deferred_size bytes (-1: for none) that come
        # at least _deferred_gap ns after the last one, which went at _deferred_at (ns).
        self._deferred_size = -1
        self._deferred_at = 0
        self._deferred_gap = 0
        # Per direction the instant and size of a request that has gone and is not yet charged.
        self._deferred: list[tuple[int, int] | None] = [None, None]

    def try_admit(self, direction: int, nbytes: int) -> bool:
        """Let a request of *nbytes* go at once if it is due: True, and it is charged.

        False: nothing is charged, and the caller must await `admit` or, if the image has a
        device, `enter`.
        """
        if self.unlimited[direction]:
            return True
        if self.station is not None:
            return False
        now = self._clock()
        if nbytes <= self._deferred_size and now - self._deferred_at >= self._deferred_gap:
            self._deferred_at = now
            self._deferred[direction] = (now, nbytes)
            return True
        if self._deferred_size >= 0:
            self.settle()
        waiting = self.waiting
        if waiting[0] or waiting[1] or self.parent is not None:
            return self._try_pass_near(direction, nbytes, now)
        buckets = self.meter.buckets[direction]
        for bucket in buckets:
            if bucket.paid > now * bucket.rate + bucket.credit:
                return False
        if self._begin_to_defer(direction, nbytes, now):
            return True
        if self.meter.several[direction]:
            return self._try_pass_near(direction, nbytes, now)
        # One limit and nothing else to look at.
        traffic = self._traffic
        lag = SLACK + traffic.note(self, now)
        for bucket in buckets:
            bucket.charge(nbytes, now, lag)
        if traffic.hushed_ns:
            self.note_wait(direction, traffic.hushed_ns)
        return True

    def _try_pass_near(self, direction: int, nbytes: int, now: int) -> bool:
        """Try to pass where there is more than one limit to look at."""
        if not self._try_pass(self, direction, nbytes, now):
            return False
        if self._traffic.hushed_ns:
            self.note_wait(direction, self._traffic.hushed_ns)
        return True

    def _begin_to_defer(self, direction: int, nbytes: int, now: int) -> bool:
        """Whether a request of *nbytes* finds everything paid for; then it has gone."""
        if not self.meter.is_paid_at(now - SLACK):
            return False
        self._traffic.note(self, now)
        self._deferred_size = nbytes
        self._deferred_at = now
        self._deferred_gap = self.meter.gap(nbytes)
        self._deferred[direction] = (now, nbytes)
        return True

    def settle(self) -> None:
        """Charge what is not yet charged; call this before anything else happens to the image."""
        if self._deferred_size < 0:
            return
        self._deferred_size = -1
        deferred = self._deferred
        for direction in DIRECTIONS if self._read_went_first() else reversed(DIRECTIONS):
            request = deferred[direction]
            if request is not None:
                deferred[direction] = None
                went, nbytes = request
                self.busy_since[direction] = self.idle_since[direction] = went
                for bucket in self.meter.buckets[direction]:
                    bucket.charge(nbytes, went, SLACK)

    def _read_went_first(self) -> bool:
        read, write = self._deferred
        return read is None or write is None or read[0] <= write[0]

    async def admit(self, direction: int, nbytes: int) -> int:
        """Wait until a request of *nbytes* may go; returns how long that took, in ns.

        If it is cancelled, the request leaves its queue uncharged. A request that turns out to be
        due goes on without a checkpoint.
        """
        if self.unlimited[direction]:
            return 0
        if self._deferred_size >= 0:
            self.settle()
        dispatcher = self._dispatcher
        request = Request(direction, nbytes, waiting.current())
        dispatcher.enqueue(self, request)
        if not request.waits:
            return 0

        def abort(_: object) -> trio.lowlevel.Abort:
            dispatcher.withdraw(request)
            return trio.lowlevel.Abort.SUCCEEDED

        waited: int = await waiting.wait(abort)
        return waited

    def note_end(self, end: int) -> None:
        """Note that the file reaches at least to the byte before *end*."""
        if end > self.size:
            self.note_size(end)

    def note_size(self, size: int) -> None:
        """Note that the file has *size* bytes, by which its rates may grow."""
        if size != self.size:
            self.size = size
            if self.limits.grows:
                self._hold(self)

    async def enter(
        self, direction: int, nbytes: int, offset: int = 0, *, durable: bool = False
    ) -> Ticket | None:
        """Wait until a request may go and its device has a place; None if there is no device.

        Await `finish` when the backing is done, or call `abandon`. *durable*: a write that must
        reach the medium.
        """
        if self.station is None or self.unlimited[direction]:
            await self.admit(direction, nbytes)
            return None
        self.settle()
        ticket = Ticket(direction, nbytes, waiting.current(), offset=offset, durable=durable)
        self._dispatcher.enqueue(self, ticket)
        await self._wait_for_place(ticket)
        return ticket

    async def enter_flush(self) -> Ticket | None:
        """Wait until a flush has a place of the device; None if there is no device."""
        if self.station is None or self.unlimited[WRITE]:
            return None
        ticket = Ticket(FLUSH, 0, waiting.current())
        self._dispatcher.enqueue_flush(self, ticket)
        await self._wait_for_place(ticket)
        return ticket

    async def _wait_for_place(self, ticket: Ticket) -> None:
        if not ticket.waits:
            return
        dispatcher = self._dispatcher

        def abort(_: object) -> trio.lowlevel.Abort:
            dispatcher.withdraw(ticket)
            return trio.lowlevel.Abort.SUCCEEDED

        await waiting.wait(abort)

    async def finish(self, ticket: Ticket) -> None:
        """Wait until the device is done with *ticket* too, and give its place back."""
        await self._dispatcher.finish(ticket)

    def abandon(self, ticket: Ticket) -> None:
        """Do not wait for *ticket*; the device works on it to its end."""
        self._dispatcher.abandon(ticket)

    def refund(self, direction: int, nbytes: int, done: int | None) -> None:
        """Charge a request that went as *nbytes* for only the *done* bytes that it found.

        So a program that reads a small file 128 KiB at a time owes no more than its size. The
        request itself stays charged, unless *done* is None: then it was withdrawn after the limiter
        had let it go, and counts for nothing.
        """
        if not self.unlimited[direction]:
            self.settle()
            self._dispatcher.refund(self, direction, nbytes, done)


def _ignore(_direction: int, _waited: int) -> None:
    pass
