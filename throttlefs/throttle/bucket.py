"""One limit as an instant: the virtual scheduling algorithm of a leaky bucket.

A bucket of GCRA (ITU-T I.371, "generic cell rate algorithm") is one number, the theoretical
arrival time TAT: the instant at which everything that went so far is paid for. With *credit*,
the volume of a burst, a request is due when

    TAT - credit / rate <= now

Each request that goes moves TAT on by its own cost, and the next one waits for that:

    TAT = max(TAT, now - lag) + cost / rate

*lag* is how much idle time still counts. QEMU's ``docs/throttle.txt`` describes the same thing as
a bucket that leaks at *rate*: its level is ``(TAT - now) * rate`` and its size is the credit.

Numbers are exact integers. A unit is a byte, a request, or 1/iops_size of a request. A rate is
kept in micro-units a second, so that it may be a fraction, and a cost in femto-units. So ``rate *
nanoseconds`` is a number of femto-units as well, and nothing is ever rounded: instead of TAT the
bucket holds ``TAT * rate``.
"""

from __future__ import annotations

from .recent import RecentMaximum

MICRO = 1_000_000
"""Micro-units in a unit: the steps of a rate."""

FEMTO = 1_000_000_000_000_000
"""Femto-units in a unit: the steps of a cost."""


class Bucket:
    """One rate that holds for a stream of requests, with or without a burst.

    ``rate`` is in micro-units a second. A request of n bytes costs ``max(fixed, n * per_byte)``
    femto-units: a byte limit has ``fixed == 0``, a request limit ``per_byte == 0``, and one with
    an ``iops_size`` counts in units of 1/iops_size of a request and has both. ``paid`` is TAT
    times the rate and ``credit`` a burst's volume, both in femto-units. ``has_slack`` says whether
    time goes unused: the last request could have gone half a lag before it did.
    """

    __slots__ = (
        "_credit_target",
        "_recent",
        "credit",
        "fixed",
        "has_slack",
        "paid",
        "per_byte",
        "rate",
    )

    def __init__(self, rate: int, fixed: int, per_byte: int, credit: int, now: int) -> None:
        self.rate = rate
        self.fixed = fixed
        self.per_byte = per_byte
        self.credit = credit
        self._credit_target = credit
        self.paid = now * rate
        self._recent = RecentMaximum()
        self.has_slack = True

    def cost(self, nbytes: int) -> int:
        """What a request of *nbytes* costs, in femto-units."""
        cost = nbytes * self.per_byte
        return cost if cost > self.fixed else self.fixed

    def due_at(self, now: int) -> int:
        """The instant (ns, rounded up) from which a request may go; *now* or earlier: at once."""
        if self.paid <= now * self.rate + self.credit:
            return now
        return -((self.credit - self.paid) // self.rate)

    def due_since(self) -> int:
        """The instant (ns, rounded up) from which a request may go, which may have passed."""
        return -((self.credit - self.paid) // self.rate)

    def charge(self, nbytes: int, now: int, lag: int) -> None:
        """Let a request of *nbytes* go at *now*; at most *lag* ns before it still count."""
        floor = (now - lag) * self.rate
        paid = self.paid
        self.has_slack = paid - self.credit < floor + lag * self.rate // 2
        if paid < floor:  # noqa: PLR1730  (max() takes three times as long, on the hot path)
            paid = floor
        if self.credit != self._credit_target:
            self._shrink_credit(paid - now * self.rate)
        cost = nbytes * self.per_byte
        self.paid = paid + (cost if cost > self.fixed else self.fixed)

    def refund(self, nbytes: int, done: int | None) -> None:
        """Charge a request that went as *nbytes* for only the *done* bytes that it moved.

        None: it was withdrawn, and counts for nothing.
        """
        if done is None:
            self.paid -= self.cost(nbytes)
            return
        per_byte, fixed = self.per_byte, self.fixed
        charged, owed = nbytes * per_byte, done * per_byte
        if charged > fixed:
            self.paid -= charged - (owed if owed > fixed else fixed)

    def longest(self, nbytes: int, now: int) -> int:
        """How long (ns) the largest of recent requests takes, with one of *nbytes* at *now*."""
        cost = nbytes * self.per_byte
        if cost < self.fixed:  # noqa: PLR1730
            cost = self.fixed
        recent = self._recent
        if cost > recent.current or now >= recent.until:
            recent.note(cost, now, cost // self.rate)
        return recent.at(now) // self.rate

    def level(self, now: int) -> int:
        """The level: the femto-units that are not yet paid for; negative after idleness."""
        return self.paid - now * self.rate

    def owed_until(self) -> int:
        """The instant (ns, rounded up) at which everything that went is paid for."""
        return -(-self.paid // self.rate)

    def change(self, rate: int, fixed: int, per_byte: int, credit: int, now: int) -> None:
        """Go on with other figures; the level, in units, stays the same.

        A burst's credit grows at once. It shrinks only as the level falls: requests that were
        within the old credit when they went do not block the bucket under the new one.
        """
        level = self.level(now)
        if (fixed, per_byte) != (self.fixed, self.per_byte):
            # An iops_size came, went or changed, and with it the unit; a request costs `fixed`.
            level = -(-level * fixed // self.fixed)
            self.credit = self.credit * fixed // self.fixed
            self._recent.rescale(fixed, self.fixed)
        self.rate = rate
        self.fixed = fixed
        self.per_byte = per_byte
        self._credit_target = credit
        self.credit = max(credit, min(self.credit, level))
        self.paid = now * rate + level

    def _shrink_credit(self, level: int) -> None:
        self.credit = max(self._credit_target, min(self.credit, level))
