"""A group: its members share its limits by weight, by start-time fair queueing.

The rule is that of Goyal, Vin and Cheng ("Start-time Fair Queuing", SIGCOMM 1996), at each node
of the tree. Each member has a clock that a request of it moves on by ``cost / weight``. The group
has the clock V, the latest start of what went. Who is behind, goes first:

    start = max(member's finish, V - B);  finish = start + cost / weight;  V = max(V, start)

Since all starts below V - B count as V - B, and the smaller finish wins among equals, the order
is simply that of the finishes: they are the keys of a heap and V never changes a key.

- *cost* is the time a request takes of the scarcest limit of the group and of those above it, in
  femtoseconds. So members with small and with large requests get the same bytes of a byte limit
  and the same requests of a request limit.
- *B*, the time of one of the largest recent requests, lets a member catch up that its own limits
  held up while others had their turn. In the plain rule it would start at V, behind all large
  requests of others, and never reach its share.
- There are three clocks. Under a total, reads and writes are counted together. A direction with
  limits of its own orders its requests by a clock of its own, in which whoever is ahead in the
  total is ahead as well; the total then only chooses between the first read and the first write.
"""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace
from typing import Final

from .meter import DIRECTIONS, READ, WRITE
from .node import DEFAULT_WEIGHT, TOTAL, Entry, Node
from .recent import RecentMaximum

FEMTO_PER_NANO: Final = 1_000_000

Term = tuple[int, int, int]
"""rate, fixed, per_byte: what a request costs in one bucket (see `Bucket`)."""


class Group(Node):
    """A node with members, in the order in which each may go."""

    __slots__ = (
        "_blocked",
        "_clock",
        "_largest",
        "_last_release",
        "_ready",
        "_sequence",
        "_terms",
        "_virtual",
        "members",
        "name",
        "turn_gap",
    )

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.members: set[Node] = set()
        # Per direction: members that may go, by finish; the others, by the instant (ns) they may.
        # Keys are lower bounds, brought up to date when they get to the top.
        self._ready: tuple[list[Entry], list[Entry]] = ([], [])
        self._blocked: tuple[list[Entry], list[Entry]] = ([], [])
        self._sequence = 0
        self._virtual = [0, 0, 0]
        self._largest = (RecentMaximum(), RecentMaximum(), RecentMaximum())
        self._last_release = [0, 0]
        self.turn_gap = (RecentMaximum(), RecentMaximum())
        self._terms: tuple[list[Term], list[Term], list[Term]] = ([], [], [])
        self._clock = [READ, WRITE]

    # Membership.

    def add(self, node: Node) -> None:
        """Make *node*, which has no parent, a member: it begins where the others are."""
        node.parent = self
        node.finish = list(self._virtual)
        node.entry = [None, None]
        self.members.add(node)

    def remove(self, node: Node) -> None:
        """Let *node* go; its requests are no longer waiting here."""
        self.members.discard(node)
        node.parent = None
        node.entry = [None, None]

    def limits_changed(self, now: int) -> None:
        """Limits of this group or above it have changed: what a request costs is another."""
        totals: list[Term] = []
        own: tuple[list[Term], list[Term]] = ([], [])
        for node in self.path:
            for direction in DIRECTIONS:
                for is_total, bucket in node.meter.sustained(direction):
                    term = (bucket.rate, bucket.fixed, bucket.per_byte)
                    if not is_total:
                        own[direction].append(term)
                    elif direction == READ:
                        totals.append(term)
        self._terms = (
            _scarcest(own[READ] + totals),
            _scarcest(own[WRITE] + totals),
            _scarcest(totals),
        )
        for direction in DIRECTIONS:
            shared = bool(totals) and not own[direction]
            self._clock[direction] = TOTAL if shared else direction
        self._restart_clocks()
        for direction in DIRECTIONS:
            self.turn_gap[direction].forget()
            self._last_release[direction] = now
        for member in self.members:
            if isinstance(member, Group):
                member.limits_changed(now)
        self._relist(now)

    def _restart_clocks(self) -> None:
        for member in self.members:
            for clock in (READ, WRITE, TOTAL):
                member.finish[clock] = self._virtual[clock]
        for largest in self._largest:
            largest.forget()

    def _relist(self, now: int) -> None:
        """Look at every member anew: something may be due earlier than was thought."""
        for direction in DIRECTIONS:
            self._ready[direction].clear()
            self._blocked[direction].clear()
            for member in self.members:
                member.entry[direction] = None
                if member.waiting[direction]:
                    self.enlist(member, direction, now)

    # Who is next.

    def enlist(self, member: Node, direction: int, instant: int) -> None:
        """*member* has something waiting: look at it at *instant* (ns) or before."""
        if member.entry[direction] is None or member.blocked_until[direction] > instant:
            self._push_blocked(member, direction, instant)

    def _push_blocked(self, member: Node, direction: int, instant: int) -> None:
        self._sequence += 1
        entry = (instant, self._sequence, member)
        member.entry[direction] = entry
        member.blocked_until[direction] = instant
        heappush(self._blocked[direction], entry)

    def _push_ready(self, member: Node, direction: int, instant: int) -> None:
        self._sequence += 1
        entry = (member.finish[self._clock[direction]], self._sequence, member)
        member.entry[direction] = entry
        member.blocked_until[direction] = 0
        member.ready_at[direction] = instant
        heappush(self._ready[direction], entry)

    def first(self, direction: int, now: int) -> Node | None:
        """The member whose turn it is in *direction*, None if none may go at *now*."""
        blocked, ready = self._blocked[direction], self._ready[direction]
        clock = self._clock[direction]
        while blocked and blocked[0][0] <= now:
            entry = heappop(blocked)
            member = entry[2]
            if member.entry[direction] is not entry:
                continue
            due = member.due_at(direction, now)
            if due is None:
                member.entry[direction] = None
            elif due > now:
                self._push_blocked(member, direction, due)
            else:
                self._push_ready(member, direction, entry[0])
        while ready:
            entry = ready[0]
            member = entry[2]
            if member.entry[direction] is not entry:
                heappop(ready)
                continue
            due = member.due_at(direction, now)
            if due is None:
                heappop(ready)
                member.entry[direction] = None
            elif due > now:
                heappop(ready)
                self._push_blocked(member, direction, due)
            elif entry[0] != member.finish[clock]:
                entry = (member.finish[clock], entry[1], member)
                member.entry[direction] = entry
                heapreplace(ready, entry)
            else:
                return member
        return None

    def due_at(self, direction: int, now: int) -> int | None:
        """From when some member may go; see `Node.due_at`."""
        if not self.waiting[direction]:
            return None
        own = self.own_due_at(direction, now)
        if own > now:
            return own
        if self.first(direction, now) is not None:
            return now
        blocked = self._blocked[direction]
        return blocked[0][0] if blocked else None

    def choose(self, directions: tuple[int, ...], now: int) -> tuple[Node, tuple[int, ...]]:
        """The member that is next in one of *directions*, all due, and those it may go in."""
        if len(directions) == 2:
            return self._choose_direction(now)
        chosen = directions[0]
        member = self.first(chosen, now)
        assert member is not None
        other = 1 - chosen
        if self.meter.has_total and self.waiting[other] and self.own_due_at(other, now) <= now:
            rival = self.first(other, now)
            if rival is not None and rival is not member and self._goes_before(rival, member):
                self.kept[other] = True
        return member, directions

    def _choose_direction(self, now: int) -> tuple[Node, tuple[int, ...]]:
        reader, writer = self.first(READ, now), self.first(WRITE, now)
        assert reader is not None
        assert writer is not None
        if reader is writer:
            return reader, DIRECTIONS
        if self._goes_before(reader, writer):
            member, chosen = reader, READ
        else:
            member, chosen = writer, WRITE
        # Where one clock counts both directions, it is the member's turn in either.
        other = 1 - chosen
        if self._clock[other] == TOTAL:
            due = member.due_at(other, now)
            if due is not None and due <= now:
                return member, DIRECTIONS
        return member, (chosen,)

    def _goes_before(self, one: Node, other: Node) -> bool:
        """Whether *one* is behind *other* in what both had of the total."""
        return one.finish[TOTAL] < other.finish[TOTAL]

    # What went.

    def note_turn(self, member: Node, direction: int, now: int) -> None:
        """*member*, which waited, is about to go: remember for how long it has been due."""
        gap = now - max(member.ready_at[direction], self._last_release[direction])
        self.turn_gap[direction].note(gap, now)

    def account(self, member: Node, direction: int, nbytes: int, now: int) -> None:
        """Move on the clocks: a request of *member* goes at *now*."""
        self._last_release[direction] = now
        if self._terms[TOTAL]:
            self._advance(member, TOTAL, nbytes, now)
        if self._clock[direction] == direction:
            self._advance(member, direction, nbytes, now)
        if self._terms[TOTAL]:
            ahead = member.finish[TOTAL] - self._virtual[TOTAL]
            for clock in DIRECTIONS:
                if self._clock[clock] == clock:
                    least = self._virtual[clock] + ahead
                    member.finish[clock] = max(member.finish[clock], least)

    def _advance(self, member: Node, clock: int, nbytes: int, now: int) -> None:
        cost = _cost(self._terms[clock], nbytes)
        largest = self._largest[clock]
        largest.note(cost, now + cost // FEMTO_PER_NANO)
        weight = member.weight
        catch_up = largest.value(now)
        if weight != DEFAULT_WEIGHT:
            cost = cost * DEFAULT_WEIGHT // weight
            catch_up = catch_up * DEFAULT_WEIGHT // weight
        virtual = self._virtual[clock]
        start = max(member.finish[clock], virtual - catch_up)
        if start > virtual:
            self._virtual[clock] = start
        member.finish[clock] = start + cost


def _cost(terms: list[Term], nbytes: int) -> int:
    """The time (fs) that a request of *nbytes* takes of the limit it takes most of."""
    longest = 0
    for rate, fixed, per_byte in terms:
        cost = max(fixed, nbytes * per_byte) * FEMTO_PER_NANO // rate
        longest = max(longest, cost)
    return longest


def _scarcest(terms: list[Term]) -> list[Term]:
    """*terms* without those that another makes superfluous: a lower rate of the same unit."""
    lowest: dict[tuple[int, int], int] = {}
    for rate, fixed, per_byte in terms:
        unit = (fixed, per_byte)
        lowest[unit] = min(rate, lowest.get(unit, rate))
    return [(rate, fixed, per_byte) for (fixed, per_byte), rate in lowest.items()]
