"""An image: where a read or write asks whether it may go.

Limits that are far from being reached should cost nothing. A request that finds everything paid
for at least a slack ago leaves each of its buckets at ``now - SLACK`` plus its own cost, whatever
came before it. So as long as requests leave each other that much time (`Meter.gap`) only the last
one of each direction has to be remembered, and is charged, as of its own instant, when something
else happens to the image: the image is *quiet*. The buckets are exactly what they would be.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Final

import trio

from throttlefs import waiting
from throttlefs.settings.limits import Limits

from .leaf import Leaf, Request
from .meter import DIRECTIONS
from .node import SLACK

if TYPE_CHECKING:
    from .throttle import Throttle

NO_GROUP: Final = ""
"""For `Image.set_group`: in no group, whatever the default is."""


class Image(Leaf):
    """One file's place in the limiter; `Throttle.image` makes them.

    ``own_limits``, ``own_group`` and ``own_weight`` are what was said of this image, None where
    it follows the mount's default. ``waiting[direction]`` is how many requests wait now,
    ``waiting_most[direction]`` how many did at most.
    """

    __slots__ = (
        "_clock",
        "_quiet_at",
        "_quiet_gap",
        "_quiet_size",
        "_throttle",
        "_uncharged",
        "forgotten",
        "free",
        "key",
        "own_group",
        "own_limits",
        "own_weight",
        "remembered",
    )

    def __init__(self, throttle: Throttle, key: Hashable) -> None:
        super().__init__()
        self.key = key
        self._throttle = throttle
        self._clock = throttle.clock
        self.own_limits: Limits | None = None
        self.own_group: str | None = None
        self.own_weight: int | None = None
        # Per direction: nothing can hold a request up; kept up to date by the throttle.
        self.free = [True, True]
        # Nobody has it open; and it is on the throttle's list of those to look at again.
        self.forgotten = False
        self.remembered = False
        # Quiet: up to how many bytes (-1: not quiet), since when, how much later the next.
        self._quiet_size = -1
        self._quiet_at = 0
        self._quiet_gap = 0
        # Per direction the instant and size of a request that has gone and is not yet charged.
        self._uncharged: list[tuple[int, int] | None] = [None, None]

    def try_admit(self, direction: int, nbytes: int) -> bool:
        """Let a request of *nbytes* go at once if it is due: True, and it is charged.

        False: nothing is charged and the request has to `admit`.
        """
        if self.free[direction]:
            return True
        now = self._clock()
        if nbytes <= self._quiet_size:
            if now - self._quiet_at >= self._quiet_gap:
                self._quiet_at = now
                self._uncharged[direction] = (now, nbytes)
                return True
        elif self._goes_quiet(direction, nbytes, now):
            return True
        self.settle()
        waiting = self.waiting
        if waiting[0] or waiting[1] or self.parent is not None or self.meter.several[direction]:
            return self._throttle.scheduler.try_pass(self, direction, nbytes, now)
        # One limit and nothing else to look at.
        buckets = self.meter.buckets[direction]
        for bucket in buckets:
            if bucket.paid > now * bucket.rate + bucket.credit:
                return False
        for bucket in buckets:
            bucket.charge(nbytes, now, SLACK)
        return True

    def _goes_quiet(self, direction: int, nbytes: int, now: int) -> bool:
        """Whether a request of *nbytes* finds everything paid for; then it has gone."""
        self.settle()
        waiting = self.waiting
        if waiting[0] or waiting[1] or self.parent is not None:
            return False
        if not self.meter.is_paid_at(now - SLACK):
            return False
        self._quiet_size = nbytes
        self._quiet_at = now
        self._quiet_gap = self.meter.gap(nbytes)
        self._uncharged[direction] = (now, nbytes)
        return True

    def settle(self) -> None:
        """Charge what is not yet charged; before anything else is done with the image."""
        if self._quiet_size < 0:
            return
        self._quiet_size = -1
        uncharged = self._uncharged
        for direction in DIRECTIONS if self._read_went_first() else reversed(DIRECTIONS):
            request = uncharged[direction]
            if request is not None:
                uncharged[direction] = None
                went, nbytes = request
                self.busy_since[direction] = self.idle_since[direction] = went
                for bucket in self.meter.buckets[direction]:
                    bucket.charge(nbytes, went, SLACK)

    def _read_went_first(self) -> bool:
        read, write = self._uncharged
        return read is None or write is None or read[0] <= write[0]

    async def admit(self, direction: int, nbytes: int) -> int:
        """Wait until a request of *nbytes* may go; returns how long that took, in ns.

        Cancelled, the request leaves its queue uncharged. One that turns out to be due goes on
        without a checkpoint.
        """
        if self.free[direction]:
            return 0
        self.settle()
        throttle = self._throttle
        request = Request(direction, nbytes, waiting.current())
        throttle.enqueue(self, request)
        if not request.waits:
            return 0

        def abort(_: object) -> trio.lowlevel.Abort:
            throttle.withdraw(request)
            return trio.lowlevel.Abort.SUCCEEDED

        waited: int = await waiting.wait(abort)
        return waited

    def refund(self, direction: int, nbytes: int, done: int) -> None:
        """A request of *nbytes* that went found only *done* bytes: the rest is not owed.

        So a program that reads a small file 128 KiB at a time owes no more than its size. The
        request itself stays charged.
        """
        if not self.free[direction]:
            self.settle()
            self._throttle.refund(self, direction, nbytes, done)

    def set_limits(self, limits: Limits | None) -> None:
        """Hold the image to *limits* from now on; None: to the mount's default."""
        self.own_limits = limits
        self._throttle.apply(self)

    def set_group(self, name: str | None) -> None:
        """Make the image a member of the group *name*, or of none with `NO_GROUP`.

        None: of the default's group, if it has one. Raises `UnknownGroupError`.
        """
        if name:
            self._throttle.group(name)
        self.own_group = name
        self._throttle.apply(self)

    def set_weight(self, weight: int | None) -> None:
        """Set its weight among the members of its group, 1 to 10,000; None: the default.

        Raises `WeightError` for anything else.
        """
        if weight is not None:
            self._throttle.check_weight(weight)
        self.own_weight = weight
        self._throttle.apply(self)
