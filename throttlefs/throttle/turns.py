"""Decides whose turn it is among the members of a group, in one direction."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Final, Generic, Protocol, TypeVar

from .clocks import Share

ABSENT: Final = 0
"""The stamp of a member that has no place in a heap."""

next_stamp = count(1).__next__
"""Stamps are unique, so a place in a group that a member left never becomes valid again."""

_STALE_AT_LEAST: Final = 64


class Place:
    """Where a member stands in the heaps of one direction.

    ``stamp`` is that of the valid heap entries, `ABSENT` if there are none. ``blocked_until`` is
    the instant (ns) at which to look at the member again, 0 if it is ready. ``due_since`` is the
    instant (ns) since which it has had something waiting that is due.
    """

    __slots__ = ("blocked_until", "due_since", "stamp")

    def __init__(self) -> None:
        self.stamp = ABSENT
        self.blocked_until = 0
        self.due_since = 0


class Member(Protocol):
    """A member of a group, which gets turns."""

    @property
    def places(self) -> Sequence[Place]:
        """Its place in each direction."""

    @property
    def shares(self) -> Sequence[Share]:
        """How much it has had, by each clock of its group."""

    def due_at(self, direction: int, now: int) -> int | None:
        """From when something of *direction* may go (ns; *now*: at once), None if nothing waits.

        An instant later than *now* is a lower bound: ask again then.
        """


M = TypeVar("M", bound=Member)

Entry = tuple[int, int, M]
"""An entry of a heap: key, stamp, member. It is valid while its member's place has its stamp.
"""


class Turns(Generic[M]):
    """The members that have requests of one direction waiting, in the order they may go.

    A member is either *blocked* or *ready*. Blocked members are ordered by the instant (ns) at
    which to look at them again, ready ones by their finish on each of the clocks in use.

    All keys are lower bounds: a finish only grows, and a charge only puts off an instant. So a key
    is brought up to date when it gets to the top. After a change keys may be too late; then the
    member is listed anew. So a release touches only the nodes on its path, however many members
    there are.

    *members* are all members of the group, with or without something waiting.
    """

    __slots__ = ("_blocked", "_direction", "_members", "_ready")

    def __init__(self, direction: int, members: Sized) -> None:
        self._direction = direction
        self._members = members
        self._blocked: list[Entry[M]] = []
        # By clock. With two clocks a ready member is in both heaps, under one stamp.
        self._ready: dict[int, list[Entry[M]]] = {direction: []}

    def reorder(self, clocks: tuple[int, ...]) -> None:
        """Order by these *clocks* from now on, and by what they say now."""
        some_heap = next(iter(self._ready.values()))
        ready = [entry for entry in some_heap if self._holds(entry)]
        self._ready = {
            clock: [(member.shares[clock].finish, stamp, member) for _, stamp, member in ready]
            for clock in clocks
        }
        for heap in self._ready.values():
            heapify(heap)

    def enlist(self, member: M, instant: int) -> None:
        """*member* has something waiting: look at it at *instant* or before."""
        place = member.places[self._direction]
        if place.stamp == ABSENT or place.blocked_until > instant:
            self._block(member, place, instant)

    def relist(self, member: M, now: int) -> None:
        """Look at *member* anew, because its entries may be wrong."""
        place = member.places[self._direction]
        if place.stamp != ABSENT:
            self._block(member, place, now)

    def first(self, clock: int, now: int) -> M | None:
        """The member furthest behind on *clock* of those that may go, None if none may."""
        direction = self._direction
        blocked = self._blocked
        while blocked and blocked[0][0] <= now:
            instant, stamp, member = heappop(blocked)
            place = member.places[direction]
            if place.stamp == stamp:
                due = member.due_at(direction, now)
                if due is None:
                    place.stamp = ABSENT
                elif due > now:
                    self._block(member, place, due)
                else:
                    self._make_ready(member, place, instant)
        ready = self._ready[clock]
        while ready:
            key, stamp, member = ready[0]
            place = member.places[direction]
            if place.stamp != stamp:
                heappop(ready)
                continue
            due = member.due_at(direction, now)
            if due is None:
                heappop(ready)
                place.stamp = ABSENT
            elif due > now:
                heappop(ready)
                self._block(member, place, due)
            elif key != (finish := member.shares[clock].finish):
                heapreplace(ready, (finish, stamp, member))
            else:
                return member
        return None

    def next_look(self) -> int | None:
        """The instant at which to look at the next blocked member, None if there is none."""
        blocked = self._blocked
        while blocked and not self._holds(blocked[0]):
            heappop(blocked)
        return blocked[0][0] if blocked else None

    def _holds(self, entry: Entry[M]) -> bool:
        return entry[2].places[self._direction].stamp == entry[1]

    def _block(self, member: M, place: Place, instant: int) -> None:
        stamp = place.stamp = next_stamp()
        place.blocked_until = instant
        self._push(self._blocked, (instant, stamp, member))

    def _make_ready(self, member: M, place: Place, instant: int) -> None:
        stamp = place.stamp = next_stamp()
        place.blocked_until = 0
        place.due_since = max(place.due_since, instant)
        for clock, ready in self._ready.items():
            self._push(ready, (member.shares[clock].finish, stamp, member))

    def _push(self, heap: list[Entry[M]], entry: Entry[M]) -> None:
        heappush(heap, entry)
        # A stale entry is dropped when it gets to the top. A heap with mostly stale entries is
        # cleared.
        if len(heap) > 2 * len(self._members) + _STALE_AT_LEAST:
            direction = self._direction
            heap[:] = [entry for entry in heap if entry[2].places[direction].stamp == entry[1]]
            heapify(heap)
