"""What a set of limits allows, and how what was let go compares with it: pure arithmetic.

The definitions, which the report repeats:

* A run is judged from its first answer, ``t0``. A limiter that lets a request go as soon as all
  earlier ones are paid for answers the first at once, and request n when the n - 1 before it are
  paid. So up to the last answer within the run, at ``t0 + T``, everything *but the last request*
  should be exactly the allowance over T: measured/limit is the one divided by the other.
* Where a single request is a large part of the allowance (more than 1 %), that quotient says
  little; such *coarse* cases are judged in requests: how many more were answered in the whole
  run than it allows. One more is the request that is paid for afterwards.
* A burst of rate ``max`` and volume ``max x length`` over a rate allows, of an image that was
  idle before, ``min(max x T, max x length + rate x T)``: QEMU's leaky bucket of that size
  (QEMU, docs/throttle.txt). The first
  half of the burst is judged by itself too: one that is too fast ends the sooner, and the whole
  of it would hide that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.completions import Completion, Cost, most_in_window, span, total

RATES = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")
"""The limits by their underscore names; ``NAME_max`` and ``NAME_max_length`` are their bursts."""

Limits = Mapping[str, int]
"""Option name to value: bytes/s, requests/s, seconds (``_max_length``) or bytes (iops_size)."""

COARSE = 0.01
"""A case is coarse if one request is more than this part of the run's allowance."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One limit of a set: which requests it counts, in which units, and what it allows."""

    name: str
    per_second: float
    burst_per_second: float = 0.0
    burst_seconds: float = 0.0
    iops_size: int = 0

    @classmethod
    def of(cls, limits: Limits, name: str) -> Rate:
        """Return the limit ``name`` of a set of limits."""
        peak = limits.get(f"{name}_max", 0)
        return cls(
            name=name,
            per_second=limits[name],
            burst_per_second=peak,
            burst_seconds=limits.get(f"{name}_max_length", 1) if peak else 0,
            iops_size=limits.get("iops_size", 0) if name.startswith("iops") else 0,
        )

    def cost(self, completion: Completion) -> float:
        """Return what a completion counts against this limit: bytes or requests."""
        if self.name.endswith("_rd" if completion.write else "_wr"):
            return 0.0
        if self.name.startswith("bps"):
            return completion.size
        if self.iops_size and completion.size > self.iops_size:
            return completion.size / self.iops_size
        return 1.0

    def allows(self, seconds: float) -> float:
        """Return the units allowed in the first ``seconds`` of a run that follows idleness."""
        steady = self.per_second * seconds
        if not self.burst_per_second:
            return steady
        return min(self.burst_per_second * seconds, self.burst_volume + steady)

    @property
    def burst_volume(self) -> float:
        """The units an idle image may spend at the burst rate, beside what the rate gives."""
        return self.burst_per_second * self.burst_seconds

    @property
    def burst_lasts(self) -> float:
        """Seconds until a burst of an image that was idle is spent; 0 without a burst."""
        if self.burst_per_second <= self.per_second:
            return 0.0
        return self.burst_volume / (self.burst_per_second - self.per_second)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one limit was kept in one run."""

    limit: str
    ratio: float
    """Measured/limit up to the last answer, that last request not counted."""
    requests_over: float
    """What the whole run had beyond its allowance, in requests of its largest size: 0 to 1."""
    coarse: bool

    @property
    def deviation(self) -> float:
        """How far the ratio is from 1, as a fraction."""
        return abs(self.ratio - 1)


def judge(rate: Rate, completions: Sequence[Completion], seconds: float) -> Verdict:
    """Compare what was answered within ``seconds`` with what ``rate`` allows.

    ``completions`` are in order of time and lie within the run (see ``completions.span``).
    A run of a single request has no ratio (NaN). Raises ValueError if there is none at all.
    """
    counted = [completion for completion in completions if rate.cost(completion)]
    if not counted:
        raise ValueError(f"no request that {rate.name} limits was answered in {seconds:g} s")
    units = total(counted, rate.cost)
    largest = max(map(rate.cost, counted))
    allowed = rate.allows(seconds)
    lasted = (counted[-1].time - counted[0].time) / 1e9
    up_to_last = rate.allows(lasted)
    return Verdict(
        limit=rate.name,
        ratio=(units - rate.cost(counted[-1])) / up_to_last if up_to_last else math.nan,
        requests_over=(units - allowed) / largest,
        coarse=largest > COARSE * allowed,
    )


def judge_throughout(
    rate: Rate, completions: Sequence[Completion], seconds: float
) -> list[Verdict]:
    """Judge the whole run and, of a burst that ends within it, the first half of the burst too.

    A burst that is too fast ends the sooner, and the whole of it would hide that.
    """
    verdicts = [judge(rate, completions, seconds)]
    if 0 < rate.burst_lasts < seconds:
        half = rate.burst_lasts / 2
        verdicts.append(judge(rate, span(completions, half), half))
    return verdicts


def worst_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict that is farthest off its limit."""

    def distance(verdict: Verdict) -> float:
        # One request more is right, so the middle of what is right is half a request.
        return abs(verdict.requests_over - 0.5) if verdict.coarse else verdict.deviation

    return max(verdicts, key=lambda verdict: (verdict.coarse, distance(verdict)))


def window_excess(
    cost: Cost, per_second: float, completions: Sequence[Completion], window: float
) -> float:
    """Return by which fraction the fullest window exceeds its allowance plus one request.

    0 or less: no window of ``window`` seconds held more than ``per_second x window`` and one
    request, the largest of the run. ``completions`` are in order of time.
    """
    if not completions:
        return 0.0
    allowed = per_second * window
    largest = max(map(cost, completions))
    return (most_in_window(completions, cost, window) - largest) / allowed - 1
