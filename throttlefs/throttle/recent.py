"""The largest of recent values."""

from __future__ import annotations

from typing import Final

MEMORY: Final = 1_000_000_000
"""For how long (ns) a value is remembered at least; at most twice that, and ``lasting``."""


class RecentMaximum:
    """The largest of the values of this period and the one before.

    On a hot path, skip `note` for a value that is not above ``current`` before the instant
    ``until`` (ns): it would change nothing.
    """

    __slots__ = ("_previous", "current", "until")

    def __init__(self) -> None:
        self._previous = 0
        self.current = 0
        self.until = 0

    def note(self, value: int, now: int, lasting: int = 0) -> None:
        """Note *value* at *now* (ns), for something that goes on for *lasting* ns."""
        if now >= self.until:
            self._previous = self.current if now < self.until + MEMORY else 0
            self.current = value
            self.until = now + MEMORY + lasting
        elif value > self.current:
            self.current = value
            self.until = max(self.until, now + lasting)

    def at(self, now: int) -> int:
        """The largest value that is remembered at *now*, 0 if there is none."""
        if now < self.until:
            return max(self.current, self._previous)
        return self.current if now < self.until + MEMORY else 0

    def rescale(self, numerator: int, denominator: int) -> None:
        """Count in another unit."""
        self._previous = self._previous * numerator // denominator
        self.current = self.current * numerator // denominator

    def forget(self) -> None:
        """Start anew."""
        self._previous = self.current = self.until = 0
