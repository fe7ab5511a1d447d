"""The clocks by which the members of a group share: start-time fair queueing.

The rule is that of Goyal, Vin and Cheng ("Start-time Fair Queueing: A Scheduling Algorithm for
Integrated Services Packet Switching Networks", SIGCOMM 1996), applied at every node of the tree.
Each member has a finish, each clock a virtual time V, the latest start of what went. Whoever is
furthest behind goes first:

    start = max(finish, V - B);  finish = start + cost / weight;  V = max(V, start)

All starts below V - B count as V - B and the smaller finish wins among equals, so the order is
simply that of the finishes: they can be the keys of a heap, and V never changes a key.

- *cost* is the time a request takes of the scarcest limit, of the group or of any above it. So
  members with small and with large requests get the same bytes of a byte limit and the same
  number of requests of a request limit.
- *B*, the cost of the largest of recent requests by the heaviest of recent weights, is what the
  plain rule lacks for limits inside limits: a member that its own limits held up while others
  had their turn may catch up. Starting at V it would queue behind large requests each time and
  never reach its share. It earns nothing: over any time a member has at most what V has gone on,
  B and a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from throttlefs.settings.limits import DEFAULT_WEIGHT

from .recent import RecentMaximum

if TYPE_CHECKING:
    from .bucket import Bucket
    from .node import Node

TOTAL: Final = 2
"""The clock that counts reads and writes together; `READ` and `WRITE` are the other two."""

_FEMTO_PER_NANO: Final = 1_000_000
_MOST_COSTS: Final = 256


class Clock:
    """One way of counting what members had: by the limits that it was last given.

    Times are in femtoseconds, so that a byte at 10^15 a second is still one. The finish and the
    size of the last request of each member are with the member, ``finish[index]`` and
    ``last_size[index]``.
    """

    __slots__ = (
        "_costs",
        "_heaviest",
        "_index",
        "_largest",
        "_terms",
        "lead",
        "running",
        "virtual",
    )

    def __init__(self, index: int) -> None:
        self._index = index
        self.virtual = 0
        # Whether there are any limits to count by.
        self.running = False
        self._terms: list[tuple[int, int, int]] = []
        self._costs: dict[int, int] = {}
        self._largest = RecentMaximum()
        self._heaviest = RecentMaximum()
        self.lead = 0

    def advance(self, member: Node, nbytes: int, now: int) -> None:
        """Count a request of *nbytes* of *member* that goes at *now* (ns)."""
        cost = self._cost(nbytes)
        weight = member.weight
        largest = self._largest
        if nbytes > largest.current or weight > self._heaviest.current or now >= largest.until:
            lasting = cost // _FEMTO_PER_NANO
            largest.note(nbytes, now, lasting)
            self._heaviest.note(weight, now, lasting)
            self._find_lead(now)
        if weight != DEFAULT_WEIGHT:
            cost = cost * DEFAULT_WEIGHT // weight
        index = self._index
        start = self.virtual - self.lead
        finish = member.finish[index]
        if finish > start:
            start = finish
            self.virtual = max(self.virtual, start)
        if member.last_size[index] < 0:
            # Its first. A finish is between V and V + cost from now on, so who has large requests
            # would be ahead by half a request on average; this puts the average at V for all.
            start += cost >> 1
        member.finish[index] = start + cost
        member.last_size[index] = nbytes

    def refund(self, member: Node, nbytes: int, done: int) -> None:
        """A request of *member* counted as *nbytes* and moved only *done* of them."""
        excess = self._cost(nbytes) - self._cost(done)
        member.finish[self._index] -= excess * DEFAULT_WEIGHT // member.weight

    def join(self, member: Node) -> None:
        """*member* is new: it starts where the others are."""
        member.finish[self._index] = self.virtual
        member.last_size[self._index] = -1

    def reweigh(self, member: Node, weight: int) -> None:
        """*member* gets another *weight*: by that, too, it is ahead or behind what it was."""
        index = self._index
        ahead = member.finish[index] - self.virtual
        member.finish[index] = self.virtual + ahead * member.weight // weight

    def count_by(self, buckets: list[Bucket], members: set[Node], now: int) -> None:
        """Count by other limits from now on: whoever is ahead stays so, in bytes or requests.

        Else a group raised from 1M to 100M would starve, for a second, a member that happens to
        have had 1 MiB last, and one retuned in a loop would favour those with large requests.
        """
        terms = _scarcest(buckets)
        if terms == self._terms:
            return
        index = self._index
        counted = [member for member in members if member.last_size[index] >= 0]
        old = [self._cost(member.last_size[index]) for member in counted]
        self._terms = terms
        self._costs = {}
        self._find_lead(now)
        self.running = bool(terms)
        for member, cost in zip(counted, old, strict=True):
            ahead = member.finish[index] - self.virtual
            ahead = ahead * self._cost(member.last_size[index]) // cost if cost else 0
            member.finish[index] = self.virtual + ahead

    def _find_lead(self, now: int) -> None:
        cost = self._cost(self._largest.at(now))
        self.lead = cost * DEFAULT_WEIGHT // max(self._heaviest.at(now), 1)

    def _cost(self, nbytes: int) -> int:
        """The time (fs) that a request of *nbytes* takes of the limit it takes most of."""
        cost = self._costs.get(nbytes)
        return self._find_cost(nbytes) if cost is None else cost

    def _find_cost(self, nbytes: int) -> int:
        longest = 0
        for rate, fixed, per_byte in self._terms:
            cost = max(fixed, nbytes * per_byte) * _FEMTO_PER_NANO // rate
            longest = max(longest, cost)
        if len(self._costs) >= _MOST_COSTS:
            self._costs.clear()
        self._costs[nbytes] = longest
        return longest


def _scarcest(buckets: list[Bucket]) -> list[tuple[int, int, int]]:
    """Rate, fixed and per_byte of *buckets* (see `Bucket`); of each unit only the lowest rate."""
    lowest: dict[tuple[int, int], int] = {}
    for bucket in buckets:
        unit = (bucket.fixed, bucket.per_byte)
        lowest[unit] = min(bucket.rate, lowest.get(unit, bucket.rate))
    return [(rate, fixed, per_byte) for (fixed, per_byte), rate in lowest.items()]
