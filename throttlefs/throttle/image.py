"""An image: where a read or write asks whether it may go."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Final

import trio

from throttlefs import waiting
from throttlefs.limits import Limits

from .leaf import Leaf, Request
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
        "_throttle",
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

    def try_admit(self, direction: int, nbytes: int) -> bool:
        """Let a request of *nbytes* go at once if it is due: True, and it is charged.

        False: nothing is charged and the request has to `admit`.
        """
        if self.free[direction]:
            return True
        waiting = self.waiting
        if waiting[0] or waiting[1] or self.parent is not None or self.meter.several[direction]:
            return self._throttle.scheduler.try_pass(self, direction, nbytes, self._clock())
        # One limit and nothing else to look at: the common case.
        now = self._clock()
        buckets = self.meter.buckets[direction]
        for bucket in buckets:
            if bucket.paid > now * bucket.rate + bucket.credit:
                return False
        for bucket in buckets:
            bucket.charge(nbytes, now, SLACK)
        return True

    async def admit(self, direction: int, nbytes: int) -> int:
        """Wait until a request of *nbytes* may go; returns how long that took, in ns.

        Cancelled, the request leaves its queue uncharged. One that turns out to be due goes on
        without a checkpoint.
        """
        if self.free[direction]:
            return 0
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
