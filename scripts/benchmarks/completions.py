"""Requests as they were answered: the raw material of every accuracy figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Completion(NamedTuple):
    """One answered read or write."""

    time: int
    """When it was answered: ns of CLOCK_MONOTONIC."""
    write: bool
    size: int
    """Bytes."""


Cost = Callable[[Completion], float]
"""What a completion counts against a limit, in the limit's units; 0 if it does not."""


def span(completions: Sequence[Completion], seconds: float) -> list[Completion]:
    """Return, in order of time, what was answered within ``seconds`` of the first answer."""
    ordered = sorted(completions)
    if not ordered:
        return []
    end = ordered[0].time + round(seconds * 1e9)
    return [completion for completion in ordered if completion.time <= end]


def total(completions: Iterable[Completion], cost: Cost) -> float:
    """Return what all the completions cost together."""
    return sum(map(cost, completions))


def most_in_window(completions: Sequence[Completion], cost: Cost, window: float) -> float:
    """Return the most units answered in any window of so many seconds.

    A window is half open, so of requests that are paced exactly ``window`` apart each has one.
    The completions have to be in order of time.
    """
    width = round(window * 1e9)
    most = held = 0.0
    first = 0
    costs = list(map(cost, completions))
    for last, completion in enumerate(completions):
        held += costs[last]
        while completions[first].time <= completion.time - width:
            held -= costs[first]
            first += 1
        most = max(most, held)
    return most


def cumulative_curve(
    completions: Sequence[Completion], cost: Cost, points: int
) -> list[tuple[float, float]]:
    """Return (seconds since the first answer, units so far) at no more than ``points`` instants.

    The completions have to be in order of time; the last one is always there.
    """
    if not completions:
        return []
    start = completions[0].time
    step = max(1, -(-len(completions) // max(1, points - 1)))
    curve = []
    units = 0.0
    for number, completion in enumerate(completions, start=1):
        units += cost(completion)
        if number % step == 0 or number == len(completions):
            curve.append(((completion.time - start) / 1e9, units))
    return curve
