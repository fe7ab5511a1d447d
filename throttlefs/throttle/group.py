"""A group: its members share its limits by weight, whatever the size and number of their requests.

Three clocks (see `clocks`) say who is behind. Under a total, one clock counts reads and writes
together. A direction with limits of its own has a clock of its own. Where there are both, the
scarce limit decides. As long as a direction uses its own limits up, its clock orders its
requests, and the total's clock only chooses between the first read and the first write.
Otherwise the total's clock orders both. Either clock alone would be unfair:

- With the total's alone, the reads of an image that also writes would starve under
  ``bps=1000M,bps_rd=10M,bps_wr=5M`` beside an image that only reads.
- With the direction's alone, an image that only reads would get less than its share of
  ``bps=20M,bps_rd=19M``.
"""

from __future__ import annotations

from .bucket import Bucket
from .clocks import TOTAL, Clock
from .meter import DIRECTIONS, READ, WRITE
from .node import Node
from .recent import RecentMaximum
from .turns import Turns


class Group(Node):
    """A node with members; ``members`` have it as their ``parent``."""

    __slots__ = (
        "_clocks",
        "_counting",
        "_last_release",
        "_own_limits",
        "_turns",
        "gates_leaves",
        "members",
        "name",
        "turn_gap",
    )

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.members: set[Node] = set()
        self._clocks = (Clock(READ), Clock(WRITE), Clock(TOTAL))
        # Per direction: the clocks that count a request of it.
        self._counting: list[list[Clock]] = [[], []]
        self._turns: tuple[Turns[Node], Turns[Node]] = (
            Turns(READ, self.members),
            Turns(WRITE, self.members),
        )
        # Per direction: the limits of that direction alone, of this group and those above it.
        self._own_limits: tuple[list[Bucket], list[Bucket]] = ([], [])
        self._last_release = [0, 0]
        self.turn_gap = (RecentMaximum(), RecentMaximum())
        self.gates_leaves = False  # whether leaves in it are gates; see `gates`

    # Members.

    def add(self, node: Node) -> None:
        """Make *node*, which has no parent, a member."""
        node.parent = self
        node.give_up_places()
        node.shares = tuple(clock.join() for clock in self._clocks)
        self.members.add(node)

    def remove(self, node: Node) -> None:
        """Let *node* go; its requests are no longer waiting here."""
        self.members.discard(node)
        node.parent = None
        node.give_up_places()
        node.shares = ()

    def change_weight(self, member: Node, weight: int, now: int) -> None:
        """Give *member* another weight."""
        for clock, share in zip(self._clocks, member.shares, strict=True):
            clock.reweigh(share, member.weight, weight)
        member.weight = weight
        for turns in self._turns:
            turns.relist(member, now)

    def limits_changed(self, now: int) -> None:
        """Count by the limits as they are now, after a change in this group or in one above it."""
        totals: list[Bucket] = []
        own: tuple[list[Bucket], list[Bucket]] = ([], [])
        for node in self.find_path():
            totals += node.meter.totals
            for direction in DIRECTIONS:
                own[direction].extend(node.meter.own_limits[direction])
        self._own_limits = own
        shares_device = self.station is not None
        for clock, limits in zip(self._clocks, (*own, []), strict=True):
            shares = (member.shares[clock.index] for member in self.members)
            clock.count_by(limits + totals, shares, now, by_service=shares_device)
        for direction in DIRECTIONS:
            clocks = (direction, TOTAL) if own[direction] else (TOTAL,)
            if not totals and not shares_device:
                clocks = (direction,)
            self._counting[direction] = [
                self._clocks[clock] for clock in clocks if self._clocks[clock].running
            ]
            self._turns[direction].reorder(clocks)
            self.turn_gap[direction].forget()
            self._last_release[direction] = now
        for member in self.members:
            if isinstance(member, Group):
                member.limits_changed(now)

    def enlist(self, member: Node, direction: int, instant: int) -> None:
        """*member* has something waiting: look at it at *instant* (ns) or before."""
        self._turns[direction].enlist(member, instant)

    # Who is next.

    def due_at(self, direction: int, now: int) -> int | None:
        """From when some member may go; see `Node.due_at`."""
        if not self.waiting[direction]:
            return None
        own = self.own_due_at(direction, now)
        if own > now:
            return own
        if self._first(direction, now) is not None:
            return now
        return self._turns[direction].next_look()

    def choose(self, directions: tuple[int, ...], now: int) -> tuple[Node, tuple[int, ...]]:
        """The member that is next in one of *directions*, all due, and those it may go in."""
        if len(directions) == 2:
            return self._choose_direction(now)
        chosen = directions[0]
        member = self._known_first(chosen, now)
        other = 1 - chosen
        if self.meter.totals and self.waiting[other] and self.own_due_at(other, now) <= now:
            # Both directions may go here, and one is held up above. If it had its turn, it keeps
            # the turn, whatever goes first. Otherwise it might never again find the limits here and
            # above due at the same time.
            rival = self._first(other, now)
            if rival is not None and rival is not member and _goes_before(rival, member):
                self.turn_pending[other] = True
        return member, directions

    def _choose_direction(self, now: int) -> tuple[Node, tuple[int, ...]]:
        reader, writer = self._known_first(READ, now), self._known_first(WRITE, now)
        if reader is writer:
            return reader, DIRECTIONS
        if _goes_before(reader, writer):
            member, chosen, passed_over = reader, READ, writer
        else:
            member, chosen, passed_over = writer, WRITE, reader
        other = 1 - chosen
        if self._order(other) == TOTAL:
            # One clock counts both directions: it is the member's turn in either.
            due = member.due_at(other, now)
            if due is not None and due <= now:
                return member, DIRECTIONS
        elif self._clocks[TOTAL].running:
            # The first in the other direction had more of the total than *member*. Those that had
            # less may still go there, or the other direction's limit would stay unused. But they
            # must not get too far ahead of the first one: it has to have its turn some time.
            rival = self._turns[other].first(TOTAL, now)
            if rival is not None and _goes_before(rival, member):
                ahead = rival.shares[other].finish - passed_over.shares[other].finish
                if ahead <= self._clocks[other].lead:
                    return rival, (other,)
        return member, (chosen,)

    def _order(self, direction: int) -> int:
        """The clock that orders *direction* now."""
        if not self._clocks[TOTAL].running:
            return direction
        for bucket in self._own_limits[direction]:
            if not bucket.has_slack:
                return direction
        return TOTAL

    def _first(self, direction: int, now: int) -> Node | None:
        return self._turns[direction].first(self._order(direction), now)

    def _known_first(self, direction: int, now: int) -> Node:
        member = self._first(direction, now)
        assert member is not None
        return member

    # Requests that go.

    def note_turn(self, member: Node, direction: int, now: int) -> None:
        """Remember for how long *member*, which waited and is about to go, has been due."""
        gap = now - max(member.places[direction].due_since, self._last_release[direction])
        recent = self.turn_gap[direction]
        if gap > recent.current or now >= recent.until:
            recent.note(gap, now)

    def account(
        self, member: Node, direction: int, nbytes: int, now: int, service: int = 0
    ) -> None:
        """Count a request of *member* that goes at *now*, with its *service* (fs) by a device."""
        self._last_release[direction] = now
        shares, weight = member.shares, member.weight
        for clock in self._counting[direction]:
            clock.advance(shares[clock.index], weight, nbytes, now, service)

    def account_flush(self, member: Node, service: int, now: int) -> None:
        """Count a flush of *member* that goes at *now*, with its *service* (fs) by a device."""
        for clock in self._clocks:
            if clock.running:
                clock.advance_by(member.shares[clock.index], member.weight, service, now)

    def refund(self, member: Node, direction: int, nbytes: int, done: int | None, now: int) -> None:
        """Count only *done* bytes of a request of *member* that was counted as *nbytes*.

        None: do not count it.
        """
        if self.station is not None:
            return  # a request that found nothing kept the device busy all the same
        for clock in self._counting[direction]:
            clock.refund(member.shares[clock.index], member.weight, nbytes, done)
        for turns in self._turns:
            turns.relist(member, now)


def _goes_before(one: Node, other: Node) -> bool:
    """Whether *one* is behind *other* in what both had of the total."""
    return one.shares[TOTAL].finish < other.shares[TOTAL].finish
