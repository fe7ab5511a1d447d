"""All the limits of one image or group: which buckets a read or a write has to pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from throttlefs.settings.limits import NO_LIMITS, Limits

from .bucket import FEMTO, MICRO, Bucket

READ: Final = 0
WRITE: Final = 1
DIRECTIONS: Final = (READ, WRITE)

RATES_OF: Final = (("bps", "bps_rd", "iops", "iops_rd"), ("bps", "bps_wr", "iops", "iops_wr"))
"""The rates that each direction is held to, the total first."""

_TOTALS: Final = ("bps", "iops")
_ALL_RATES: Final = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")

Figures = tuple[int, int, int, int]
"""What makes a `Bucket`: rate, fixed, per_byte, credit."""


def figures_of(limits: Limits) -> dict[str, Figures]:
    """The buckets that *limits* ask for, by name: one per rate and one per burst rate."""
    size = limits.iops_size
    wanted: dict[str, Figures] = {}
    for name in _ALL_RATES:
        rate = getattr(limits, name)
        if not rate:
            continue
        if name.startswith("bps"):
            unit, fixed, per_byte = 1, 0, FEMTO
        elif size:
            unit, fixed, per_byte = size, size * FEMTO, FEMTO
        else:
            unit, fixed, per_byte = 1, FEMTO, 0
        burst = getattr(limits, f"{name}_max")
        volume = burst * getattr(limits, f"{name}_max_length")
        # A rate is a whole number of micro-units, so no fraction is lost.
        wanted[name] = (int(rate * MICRO) * unit, fixed, per_byte, int(volume * FEMTO) * unit)
        if burst:
            wanted[f"{name}_max"] = (int(burst * MICRO) * unit, fixed, per_byte, 0)
    return wanted


class Meter:
    """The buckets of one set of limits, and what they owe across changes of it.

    ``buckets[direction]`` are those that a request of that direction has to pass: all of them must
    be due, and all of them are charged. ``several[direction]`` says that they come from more than
    one limit. A limit that is lifted is remembered, with its rate, until it is paid for. Otherwise
    a change from one limit to another and back would evade both.

    ``totals`` and ``own_limits[direction]`` set the pace in the long run: the limits on both
    directions together, and those on one direction alone, without burst rates.
    """

    __slots__ = ("_all", "_known", "buckets", "limits", "own_limits", "several", "totals")

    def __init__(self) -> None:
        self.limits = NO_LIMITS
        self.buckets: tuple[tuple[Bucket, ...], tuple[Bucket, ...]] = ((), ())
        self.several = (False, False)
        self.totals: tuple[Bucket, ...] = ()
        self.own_limits: tuple[tuple[Bucket, ...], tuple[Bucket, ...]] = ((), ())
        self._all: tuple[Bucket, ...] = ()
        self._known: dict[str, Bucket] = {}

    def change(self, limits: Limits, now: int) -> None:
        """Hold to *limits* from *now* on; what is owed stays owed, in bytes and requests."""
        self.limits = limits
        self._hold(figures_of(limits), now)

    def _hold(self, wanted: Mapping[str, Figures], now: int) -> None:
        """Hold to the buckets *wanted*, by name."""
        for name, figures in wanted.items():
            bucket = self._known.get(name)
            if bucket is None:
                self._known[name] = Bucket(*figures, now)
            else:
                bucket.change(*figures, now)
        for name in [name for name in self._known if name not in wanted]:
            if self._known[name].level(now) <= 0:
                del self._known[name]
        read, write = (
            tuple(
                self._known[name]
                for rate in rates
                for name in (rate, f"{rate}_max")
                if name in wanted
            )
            for rates in RATES_OF
        )
        self.buckets = (read, write)
        self._all = tuple(dict.fromkeys(read + write))
        counts = [sum(1 for rate in rates if rate in wanted) for rates in RATES_OF]
        self.several = (counts[READ] > 1, counts[WRITE] > 1)
        self.totals = tuple(self._known[name] for name in _TOTALS if name in wanted)
        reads, writes = (
            tuple(self._known[name] for name in rates if name in wanted and name not in _TOTALS)
            for rates in RATES_OF
        )
        self.own_limits = (reads, writes)

    def due_at(self, direction: int, now: int) -> int:
        """The instant (ns) from which a request may pass; *now* if it may at once."""
        latest = now
        for bucket in self.buckets[direction]:
            due = bucket.due_at(now)
            if due > latest:  # noqa: PLR1730  (max() takes longer)
                latest = due
        return latest

    def is_paid_at(self, instant: int) -> bool:
        """Whether every limit was paid for at *instant* (ns), or before."""
        for bucket in self._all:  # noqa: SIM110  (all() takes three times as long)
            if bucket.paid > instant * bucket.rate:
                return False
        return True

    def gap(self, nbytes: int) -> int:
        """How long (ns, rounded up) a request of up to *nbytes* keeps any of the limits busy."""
        return max((-(-bucket.cost(nbytes) // bucket.rate) for bucket in self._all), default=0)

    def owed_until(self) -> int:
        """The instant (ns) from which nothing is owed; lifted limits count too."""
        return max((bucket.owed_until() for bucket in self._known.values()), default=0)
