"""The limits of a group that other hosts share: held to a part of them while a lease lasts.

The limits are those of all hosts together; the buckets run at the rates that this host holds. A
lease stands before the buckets of each direction. It is a bucket as well, so it costs nothing where
no group is shared: it is due while the lease lasts, and is looked at before each request. So a
process that was stopped, or a machine that slept, finds its lease over before anything goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from throttlefs.settings.limits import RATES, Limits

from .bucket import MICRO, Bucket
from .meter import DIRECTIONS, RATES_OF, Figures, Meter, figures_of
from .node import NEVER

Rates = tuple[float, ...]
"""What each of `RATES` is, in bytes or requests a second, in their order."""

NOTHING: Final[Rates] = (0.0,) * len(RATES)

_INDEX: Final = {name: index for index, name in enumerate(RATES)}
_LONG_NS: Final = 10_000_000
"""Who has to wait for longer than this needs more than is held."""

_FROZEN: Final = 1
"""Micro-units a second: what is owed stays owed while a rate is 0."""


class Lease(Bucket):
    """Lets requests pass while *clock* (ns) is before ``until`` and ``open`` is true."""

    __slots__ = ("_clock", "open", "until")

    def __init__(self, clock: Callable[[], int]) -> None:
        # A request is due if paid <= now * rate + credit, so 0 is due and 1 is not.
        self.rate = self.credit = self.fixed = self.per_byte = 0
        self.has_slack = True
        self.open = False
        self.until = 0
        self._clock = clock

    @property
    def paid(self) -> int:  # type: ignore[override]
        """0 while the lease lasts, 1 when it is over."""
        return 0 if self.open and self._clock() < self.until else 1

    def due_at(self, now: int) -> int:
        """*now* while the lease lasts, then never."""
        return NEVER if self.paid else now

    def due_since(self) -> int:
        """A lease that lasts held nothing up."""
        return 0

    def charge(self, nbytes: int, now: int, lag: int) -> None:
        """A lease costs nothing."""

    def refund(self, nbytes: int, done: int | None) -> None:
        """A lease costs nothing."""

    def longest(self, nbytes: int, now: int) -> int:
        """A lease takes no time."""
        return 0


class _WholeRate(Bucket):
    """The *live* bucket as the clocks of fairness count it: by the rate of all hosts together."""

    __slots__ = ("_live",)

    def __init__(self, live: Bucket, whole_rate: int) -> None:
        self._live = live
        self.rate, self.fixed, self.per_byte = whole_rate, live.fixed, live.per_byte

    @property
    def has_slack(self) -> bool:  # type: ignore[override]
        """Whether time goes unused at the rate that is held."""
        return self._live.has_slack


class SharedMeter(Meter):
    """``limits`` are those of all hosts together; ``held`` is what this host may use of them.

    *lease_clock* gives ns and counts on while the machine sleeps (CLOCK_BOOTTIME). Bursts are not
    held here: whoever grants the rates counts them for all hosts.
    """

    __slots__ = ("_whole", "held", "leases")

    def __init__(self, lease_clock: Callable[[], int]) -> None:
        super().__init__()
        self.held: Rates = NOTHING
        self.leases = (Lease(lease_clock), Lease(lease_clock))
        self._whole: dict[str, Figures] = {}

    def change(self, limits: Limits, now: int) -> None:
        """Share other *limits* from *now* on; the rates that are held stay, if they are no more."""
        self.limits = limits
        self._whole = {name: figure for name, figure in figures_of(limits).items() if name in RATES}
        self.held = self._at_most_whole(self.held)
        super()._hold({name: self._figures(name) for name in self._whole}, now)
        whole = {
            id(bucket): _WholeRate(bucket, self._whole[name][0])
            for name, bucket in self._known.items()
            if name in self._whole
        }
        self.totals = tuple(whole[id(bucket)] for bucket in self.totals)
        reads, writes = self.own_limits
        self.own_limits = (
            tuple(whole[id(bucket)] for bucket in reads),
            tuple(whole[id(bucket)] for bucket in writes),
        )
        read, write = self.buckets
        self.buckets = (
            (self.leases[0], *read) if read else (),
            (self.leases[1], *write) if write else (),
        )
        self._open_leases()

    def hold(self, rates: Rates, until: int, now: int) -> None:
        """Hold *rates* from *now* on, until the instant *until* of the lease clock."""
        self.held = self._at_most_whole(rates)
        for name in self._whole:
            self._known[name].change(*self._figures(name), now)
        for lease in self.leases:
            lease.until = until
        self._open_leases()

    def is_over(self, direction: int) -> bool:
        """Whether the lease lets nothing of *direction* pass now."""
        return bool(self.buckets[direction]) and self.leases[direction].paid == 1

    def is_used_up(self, direction: int) -> bool:
        """Whether requests of *direction* use all that is held of one of its limits."""
        return any(not bucket.has_slack for bucket in self.buckets[direction])

    def owes_for_long(self, direction: int, now: int) -> bool:
        """Whether what waits at *now* (ns) has to wait for long for what went.

        That may have been the first request after idleness, so that time was to spare before it.
        """
        return any(bucket.due_at(now) > now + _LONG_NS for bucket in self.buckets[direction])

    def due_at(self, direction: int, now: int) -> int:
        """The instant (ns) from which a request may pass; see `Meter.due_at`."""
        return NEVER if self.is_over(direction) else super().due_at(direction, now)

    def _open_leases(self) -> None:
        for direction in DIRECTIONS:
            names = [name for name in RATES_OF[direction] if name in self._whole]
            self.leases[direction].open = all(self.held[_INDEX[name]] > 0 for name in names)

    def _at_most_whole(self, rates: Rates) -> Rates:
        limits = self.limits
        return tuple(
            min(rate, float(max(getattr(limits, name), getattr(limits, f"{name}_max"))))
            for name, rate in zip(RATES, rates, strict=True)
        )

    def _figures(self, name: str) -> Figures:
        _, fixed, per_byte, _ = self._whole[name]
        unit = self.limits.iops_size or 1 if name.startswith("iops") else 1
        rate = int(self.held[_INDEX[name]] * MICRO) * unit
        return max(rate, _FROZEN), fixed, per_byte, 0
