"""The clocks by which the members of a group share: start-time fair queueing.

The rule is that of Goyal, Vin and Cheng ("Start-time Fair Queueing: A Scheduling Algorithm for
Integrated Services Packet Switching Networks", SIGCOMM 1996), applied at every node of the tree.
Each member has a finish. Each clock has a virtual time V, the latest start of all requests that
went. The member with the smallest finish goes first:

    start = max(finish, V - B);  finish = start + cost / weight;  V = max(V, start)

All starts below V - B count as V - B, and the smaller finish wins among equals. So the order is
simply that of the finishes. They can be the keys of a heap, and V never changes a key.

- *cost* is the time that a request takes of the scarcest limit, of the group or of any above it.
  So members with small and with large requests get the same bytes of a byte limit and the same
  number of requests of a request limit.
- *B* is the cost of the largest of recent requests at the heaviest of recent weights. The plain
  rule has no B, and limits inside limits need one: a member that its own limits held up while
  others had their turn may catch up by B. If it started at V, it would queue behind large requests
  each time and never reach its share. B gives nothing away: over any time a member has at most the
  advance of V, B and one request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from throttlefs.settings.limits import DEFAULT_WEIGHT

from .recent import RecentMaximum

if TYPE_CHECKING:
    from .bucket import Bucket

TOTAL: Final = 2
"""The clock that counts reads and writes together; `READ` and `WRITE` are the other two."""

_FEMTO_PER_NANO: Final = 1_000_000
_MOST_COSTS: Final = 256


class Share:
    """How much one member of a group has had by one clock; `Clock.join` makes it.

    ``finish`` is in fs of the clock's virtual time. ``last_size`` is the size (bytes) of the
    member's last request, -1 before the first.
    """

    __slots__ = ("finish", "last_size")

    def __init__(self, finish: int) -> None:
        self.finish = finish
        self.last_size = -1


class Clock:
    """Counts how much the members of a group have had, by the limits that `count_by` names.

    Times are in femtoseconds, so that a byte at 10^15 bytes/s still takes one. ``index`` says
    which of a member's shares is this clock's.
    """

    __slots__ = (
        "_costs",
        "_heaviest",
        "_largest",
        "_longest_service",
        "_terms",
        "index",
        "lead",
        "running",
        "virtual",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.virtual = 0
        # Whether there are any limits to count by.
        self.running = False
        self._terms: list[tuple[int, int, int]] = []
        self._costs: dict[int, int] = {}
        self._largest = RecentMaximum()
        self._longest_service = RecentMaximum()
        self._heaviest = RecentMaximum()
        self.lead = 0

    def join(self) -> Share:
        """Return the share of a new member: it starts where the others are."""
        return Share(self.virtual)

    def advance(self, share: Share, weight: int, nbytes: int, now: int, service: int = 0) -> None:
        """Count a request of *nbytes* that goes at *now* (ns), of a member of this *weight*.

        *service* is how long (fs) it keeps a device busy that the members share.
        """
        cost = self._cost(nbytes)
        if service:
            cost = self._longer(cost, service, weight, now)
        largest = self._largest
        if nbytes > largest.current or weight > self._heaviest.current or now >= largest.until:
            lasting = cost // _FEMTO_PER_NANO
            largest.note(nbytes, now, lasting)
            self._heaviest.note(weight, now, lasting)
            self._find_lead(now)
        if weight != DEFAULT_WEIGHT:
            cost = cost * DEFAULT_WEIGHT // weight
        start = self.virtual - self.lead
        finish = share.finish
        if finish > start:
            start = finish
            self.virtual = max(self.virtual, start)
        if share.last_size < 0:
            # A member's first request. From now on its finish is between V and V + cost. So a
            # member with large requests would be ahead by half a request on average. This puts
            # the average at V for all.
            start += cost >> 1
        share.finish = start + cost
        share.last_size = nbytes

    def advance_by(self, share: Share, weight: int, service: int, now: int) -> None:
        """Count a flush, which takes the shared device for *service* fs and nothing else."""
        cost = self._longer(0, service, weight, now) * DEFAULT_WEIGHT // weight
        share.finish = max(share.finish, self.virtual - self.lead) + cost

    def _longer(self, cost: int, service: int, weight: int, now: int) -> int:
        """The longer of *cost* and *service*, which counts for the lead."""
        longest = self._longest_service
        if service > longest.current or weight > self._heaviest.current or now >= longest.until:
            longest.note(service, now, service // _FEMTO_PER_NANO)
            self._heaviest.note(weight, now)
            self._find_lead(now)
        return max(cost, service)

    def refund(self, share: Share, weight: int, nbytes: int, done: int | None) -> None:
        """Count only *done* bytes of a request that was counted as *nbytes*; None: count none."""
        excess = self._cost(nbytes) - (0 if done is None else self._cost(done))
        share.finish -= excess * DEFAULT_WEIGHT // weight

    def reweigh(self, share: Share, old_weight: int, weight: int) -> None:
        """Scale how far the member is ahead or behind, because it gets another *weight*."""
        ahead = share.finish - self.virtual
        share.finish = self.virtual + ahead * old_weight // weight

    def count_by(
        self, buckets: list[Bucket], shares: Iterable[Share], now: int, *, by_service: bool = False
    ) -> None:
        """Count by the limits *buckets* from now on; *shares* are those of all members.

        *by_service*: count by the time that requests take of a shared device as well.

        A member that is ahead stays ahead by the same number of bytes or requests. Otherwise a
        group raised from 1M to 100M would starve, for a second, a member that happens to have had
        1 MiB last. And a group retuned in a loop would favour those with large requests.
        """
        terms = _scarcest(buckets)
        self.running = bool(terms) or by_service
        if terms == self._terms:
            return
        counted = [share for share in shares if share.last_size >= 0]
        old = [self._cost(share.last_size) for share in counted]
        self._terms = terms
        self._costs = {}
        self._find_lead(now)
        for share, cost in zip(counted, old, strict=True):
            ahead = share.finish - self.virtual
            ahead = ahead * self._cost(share.last_size) // cost if cost else 0
            share.finish = self.virtual + ahead

    def _find_lead(self, now: int) -> None:
        cost = max(self._cost(self._largest.at(now)), self._longest_service.at(now))
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
