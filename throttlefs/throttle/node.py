"""What images and groups have in common: limits, a place in the tree, a weight, a lag.

The limiter is a tree (more exactly: a forest). A leaf is an image with its queues, an inner node
is a group. A request is due when every node from its leaf to the root is due, and is charged to
each of them.

Why there is a lag. Idle time earns only `SLACK`. But where a request has to pass several limits,
one of them may stand still while there is demand: while 256 KiB keep ``bps=10M`` busy for 25 ms,
``iops=500`` lets nothing through. While large requests of others keep a group busy, a member's
own limit stands still too. Without compensation that time is lost, and none of the limits is
reached. So demand that has been waiting may catch up

    lag = SLACK + min(time since this direction was last idle here, L)

where L is the longer of (a) the time that the largest of recent requests takes of one of this
node's own limits, if it has several, and (b) twice the longest time that a member of the parent
which was due recently waited for the parent's next turn. "Recently" is 1 to 2 s; a break of less
than the slack is none. No limit is exceeded in any window by more than lag plus one request, and
with one limit and no parent L is 0.

A daemon that is kept from the CPU lets requests go late that waited and were due. That is no idle
time either: what waited may catch up as much as it was late, up to `CATCH_UP`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from throttlefs.settings.device import NO_DEVICE
from throttlefs.settings.limits import DEFAULT_WEIGHT, NO_LIMITS, Limits

from .clocks import Share
from .meter import Meter
from .turns import ABSENT, Place

if TYPE_CHECKING:
    from .group import Group
    from .station import Station

SLACK: Final = 2_000_000
"""ns of idle time that still count: enough for late timers and for clients that come late."""

CATCH_UP: Final = 20_000_000
"""ns by which requests may go late, because this program did, and lose none of their rate."""

NEVER: Final = 1 << 63
"""An instant that does not come: nothing waits, or only an event lets it go."""


class Node:
    """An image or a group: limits of its own inside those of its parent, if it has one.

    All instants are ns of one monotonic clock, handed in by the caller. In lists of two, the
    first is for reads and the second for writes: ``waiting`` is how many requests wait in this
    node, ``busy_since`` and ``idle_since`` are for the lag. ``turn_pending`` says that a
    direction had its turn here while something above held it up, so that it goes as soon as that
    lets it. ``limits`` are those that were set, of which rates may grow with the size; the meter
    has those in force.

    ``last_wait`` is how long (ns) the last request waited that went, if this node is a root.

    ``shares`` says how much this node has had of its parent, by the parent's clocks; it is empty
    without a parent. ``places`` are its places among the turns of its parent. A root has its place
    among the roots in the first of them (see `Scheduler`).

    ``device`` is this node's own device, by its ``device_settings``. ``station`` is the one that
    its requests go through, and ``gate`` the one whose places they wait for here (see `gates`).
    Each may be None.
    """

    __slots__ = (
        "buckets",
        "busy_since",
        "device",
        "device_settings",
        "gate",
        "idle_since",
        "last_wait",
        "limits",
        "meter",
        "parent",
        "places",
        "shares",
        "station",
        "turn_pending",
        "waiting",
        "weight",
    )

    def __init__(self) -> None:
        self.parent: Group | None = None
        self.weight = DEFAULT_WEIGHT
        self.limits = NO_LIMITS
        self.meter = Meter()
        self.buckets = self.meter.buckets
        self.waiting = [0, 0]
        self.turn_pending = [False, False]
        self.busy_since = [-SLACK - 1, -SLACK - 1]
        self.idle_since = [-SLACK - 1, -SLACK - 1]
        self.last_wait = 0
        self.shares: tuple[Share, ...] = ()
        self.places = (Place(), Place())
        self.device: Station | None = None
        self.device_settings = NO_DEVICE
        self.station: Station | None = None
        self.gate: Station | None = None

    # What a subclass knows about the requests that wait in it.

    def due_at(self, direction: int, now: int) -> int | None:
        """From when something of *direction* may go (ns; *now*: at once), None if nothing waits.

        An instant later than *now* is a lower bound: ask again then.
        """
        raise NotImplementedError

    # Limits.

    def own_due_at(self, direction: int, now: int) -> int:
        """From when this node's own limits let something of *direction* go; *now*: at once.

        `NEVER` while all places of its gate are taken: a place that is freed lets it go.
        """
        if self.gate is not None and self.gate.is_full:
            return NEVER
        if self.turn_pending[direction]:
            return now
        return self.meter.due_at(direction, now)

    def charge(self, direction: int, nbytes: int, now: int, late: int = 0) -> None:
        """Charge a request that goes at *now*, *late* ns after it was due, to its own limits."""
        buckets = self.buckets[direction]
        if not buckets:
            return
        longest = 0
        if self.meter.several[direction]:
            for bucket in buckets:
                longest = max(longest, bucket.longest(nbytes, now))
        if self.parent is not None:
            longest = max(longest, 2 * self.parent.turn_gap[direction].at(now))
        lag = SLACK + late
        if longest:
            lag += min(longest, now - self.busy_since[direction])
        for bucket in buckets:
            bucket.charge(nbytes, now, lag)

    def change_limits(self, limits: Limits, now: int) -> None:
        """Hold to *limits* from now on."""
        self.meter.change(limits, now)
        self.buckets = self.meter.buckets

    def owes(self, now: int) -> bool:
        """Whether any request that went is not yet paid for at *now*."""
        return self.meter.owed_until() > now

    # Demand.

    def arrive(self, direction: int, now: int) -> None:
        """Note that a request of *direction* begins to wait somewhere in this node."""
        self.touch(direction, now)
        if not self.waiting[direction]:
            self.places[direction].due_since = now
        self.waiting[direction] += 1

    def leave(self, direction: int, now: int) -> None:
        """Note that a request of *direction* no longer waits in this node."""
        self.waiting[direction] -= 1
        if not self.waiting[direction]:
            self.idle_since[direction] = now
            self.turn_pending[direction] = False

    def touch(self, direction: int, now: int) -> None:
        """Note that a request of *direction* came; a break above the slack ends a busy period."""
        if not self.waiting[direction]:
            if now - self.idle_since[direction] > SLACK:
                self.busy_since[direction] = now
            self.idle_since[direction] = now

    # The tree.

    def give_up_places(self) -> None:
        """Take the node out of the heaps that it is in."""
        for place in self.places:
            place.stamp = ABSENT

    def find_path(self) -> tuple[Node, ...]:
        """This node and all above it, the root last."""
        nodes: list[Node] = [self]
        while (parent := nodes[-1].parent) is not None:
            nodes.append(parent)
        return tuple(nodes)
