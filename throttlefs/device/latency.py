"""Random latencies that keep to given percentiles.

A curve goes through the median, the 99th and the 99.9th percentile, as many of them as are given.
Between two points the logarithm of the latency is linear in the logarithm of the part of requests
that take longer: so it is on most disks, whose percentiles lie on a line on such a paper. Below the
first point and above the last the latency is constant.

Draws come as cards of a shuffled deck: each thousand of them has one in each thousandth of the
distribution. So the percentiles of a thousand requests are those of the curve, and not only in the
long run.
"""

from __future__ import annotations

import math
from array import array
from itertools import pairwise
from random import Random
from typing import Final

from throttlefs.settings.device import Durations

CARDS: Final = 1000
"""Cards in a deck."""

_IN_ORDER: Final = array("H", range(CARDS))
"""2 bytes a card: each open file on a slow device may have four decks."""

_SLOWER: Final = (0.5, 0.01, 0.001)
"""The part of requests that take longer than the median, the 99th and the 99.9th percentile."""


class Curve:
    """Latencies (ns) by the part of requests that take no longer."""

    __slots__ = ("_bottom", "_segments", "_top")

    def __init__(self, percentiles: Durations) -> None:
        self._bottom = percentiles[0] if percentiles else 0
        self._top = percentiles[-1] if percentiles else 0
        # Of each segment: the parts that take longer at its begin and its end, the latency at its
        # begin, and the exponent.
        self._segments: list[tuple[float, float, float, float]] = []
        for number, (low, high) in enumerate(pairwise(percentiles)):
            begin, end = _SLOWER[number], _SLOWER[number + 1]
            # A latency of 0 has no logarithm; nothing takes less than 1 ns.
            start = max(low, 1)
            exponent = math.log(max(high, 1) / start) / math.log(begin / end)
            self._segments.append((begin, end, start, exponent))

    @property
    def is_constant(self) -> bool:
        """Whether every draw is the same."""
        return self._bottom == self._top

    @property
    def longest(self) -> int:
        """The longest latency (ns)."""
        return self._top

    def at(self, fraction: float) -> int:
        """The latency (ns) that *fraction* (0 to 1) of the requests do not exceed."""
        slower = 1 - fraction
        if slower >= _SLOWER[0]:
            return self._bottom
        for begin, end, start, exponent in self._segments:
            if slower > end:
                return int(start * (begin / slower) ** exponent + 0.5)
        return self._top


class Deck:
    """Uniform numbers between 0 and 1, from a generator with a seed; one in each thousandth."""

    __slots__ = ("_cards", "_left", "_random")

    def __init__(self, generator: Random) -> None:
        self._random = generator.random
        self._cards = _IN_ORDER[:]
        self._left = 0

    def draw(self) -> float:
        """The next number."""
        if not self._left:
            self._left = CARDS
        draw, cards = self._random, self._cards
        # One step of the shuffle of Fisher and Yates; a card that was drawn lies behind the others.
        chosen = int(draw() * self._left)
        self._left -= 1
        card = cards[chosen]
        cards[chosen], cards[self._left] = cards[self._left], card
        return (card + draw()) / CARDS
