"""Whose turn it is among the members of a group, in one direction."""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .node import Node

Entry = tuple[int, int, "Node"]
"""A place in a heap: key, stamp, whose it is. It holds as long as it has its member's stamp."""

ABSENT: Final = 0
"""The stamp of a member without a place."""

next_stamp = count(1).__next__
"""Stamps are unique: a place in a group that a member left never holds again."""

_STALE_AT_LEAST: Final = 64


class Turns:
    """The members that have requests of one direction waiting, in the order they may go.

    A member is *blocked*, with the instant (ns) at which to look at it again, or *ready*, in the
    order of its finish on whichever clocks are in use. All keys are lower bounds: a finish only
    grows and a charge only puts off an instant, so a key is brought up to date when it gets to
    the top. Where that does not hold, after a change, the member is listed anew.

    So a release touches what is on its path and nothing else, however many members there are.
    """

    __slots__ = ("_blocked", "_direction", "_ready")

    def __init__(self, direction: int) -> None:
        self._direction = direction
        self._blocked: list[Entry] = []
        # By clock. With two clocks a ready member is in both heaps, under one stamp.
        self._ready: dict[int, list[Entry]] = {direction: []}

    def reorder(self, clocks: tuple[int, ...]) -> None:
        """Order by these *clocks* from now on, and by what they say now."""
        direction = self._direction
        some_heap = next(iter(self._ready.values()))
        ready = [entry for entry in some_heap if entry[2].stamp[direction] == entry[1]]
        self._ready = {
            clock: [(member.finish[clock], stamp, member) for _, stamp, member in ready]
            for clock in clocks
        }
        for heap in self._ready.values():
            heapify(heap)

    def enlist(self, member: Node, instant: int) -> None:
        """*member* has something waiting: look at it at *instant* or before."""
        direction = self._direction
        if member.stamp[direction] == ABSENT or member.blocked_until[direction] > instant:
            self._block(member, instant)

    def relist(self, member: Node, now: int) -> None:
        """Look at *member* anew, whatever was thought of it."""
        if member.stamp[self._direction] != ABSENT:
            self._block(member, now)

    def first(self, clock: int, now: int) -> Node | None:
        """The member furthest behind on *clock* of those that may go, None if none may."""
        direction = self._direction
        blocked = self._blocked
        while blocked and blocked[0][0] <= now:
            instant, stamp, member = heappop(blocked)
            if member.stamp[direction] == stamp:
                due = member.due_at(direction, now)
                if due is None:
                    member.stamp[direction] = ABSENT
                elif due > now:
                    self._block(member, due)
                else:
                    self._make_ready(member, instant)
        ready = self._ready[clock]
        while ready:
            key, stamp, member = ready[0]
            if member.stamp[direction] != stamp:
                heappop(ready)
                continue
            due = member.due_at(direction, now)
            if due is None:
                heappop(ready)
                member.stamp[direction] = ABSENT
            elif due > now:
                heappop(ready)
                self._block(member, due)
            elif key != member.finish[clock]:
                heapreplace(ready, (member.finish[clock], stamp, member))
            else:
                return member
        return None

    def next_look(self) -> int | None:
        """The instant at which to look at the next blocked member, None if there is none."""
        direction = self._direction
        blocked = self._blocked
        while blocked and blocked[0][2].stamp[direction] != blocked[0][1]:
            heappop(blocked)
        return blocked[0][0] if blocked else None

    def _block(self, member: Node, instant: int) -> None:
        stamp = member.stamp[self._direction] = next_stamp()
        member.blocked_until[self._direction] = instant
        self._push(self._blocked, (instant, stamp, member))

    def _make_ready(self, member: Node, instant: int) -> None:
        direction = self._direction
        stamp = member.stamp[direction] = next_stamp()
        member.blocked_until[direction] = 0
        member.ready_at[direction] = max(member.ready_at[direction], instant)
        for clock, ready in self._ready.items():
            self._push(ready, (member.finish[clock], stamp, member))

    def _push(self, heap: list[Entry], entry: Entry) -> None:
        heappush(heap, entry)
        # Stale entries go when they get to the top; a heap mostly of them is cleared at once.
        group = entry[2].parent
        if group is not None and len(heap) > 2 * len(group.members) + _STALE_AT_LEAST:
            direction = self._direction
            heap[:] = [entry for entry in heap if entry[2].stamp[direction] == entry[1]]
            heapify(heap)
