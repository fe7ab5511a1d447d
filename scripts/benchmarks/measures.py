"""Statistics over what was measured: pure functions, no clock and no I/O."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence


def median(values: Iterable[float]) -> float:
    """Return the median; NaN for none."""
    listed = list(values)
    return statistics.median(listed) if listed else math.nan


def mean(values: Iterable[float]) -> float:
    """Return the arithmetic mean; NaN for none."""
    listed = list(values)
    return statistics.fmean(listed) if listed else math.nan


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least ``percent`` % of all are not above; NaN for none.

    The nearest-rank definition: always a value that was measured, never one in between.
    """
    if not values:
        return math.nan
    if not 0 <= percent <= 100:
        raise ValueError(f"a percentile lies in 0 to 100, not {percent}")
    rank = max(1, math.ceil(percent / 100 * len(values)))
    return sorted(values)[rank - 1]


def jain_index(shares: Sequence[float]) -> float:
    """Return Jain's fairness index: 1 if all shares are equal, 1/n if one has everything.

    ``(sum x)^2 / (n sum x^2)``; Jain, Chiu, Hawe, "A Quantitative Measure of Fairness and
    Discrimination", DEC-TR-301 (1984). NaN without any share at all.
    """
    squares = sum(share * share for share in shares)
    if squares == 0:
        return math.nan
    return sum(shares) ** 2 / (len(shares) * squares)


def share_errors(amounts: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return for each amount how far it is off its weighted share of the sum: 0.01 is 1 % more."""
    total, weight = sum(amounts), sum(weights)
    if total == 0:
        return [-1.0 for _ in amounts]
    return [
        amount / (total * own / weight) - 1 for amount, own in zip(amounts, weights, strict=True)
    ]


def worst(deviations: Iterable[float]) -> float:
    """Return the deviation that is farthest from 0, with its sign; NaN if none is a number."""
    return max(filter(math.isfinite, deviations), key=abs, default=math.nan)
