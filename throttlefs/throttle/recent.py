"""The largest of recent values."""

from __future__ import annotations

from typing import Final

MEMORY: Final = 1_000_000_000
"""ns that a maximum is remembered for after its time."""


class RecentMaximum:
    """The largest value noted, until a second after the instant it was noted for."""

    __slots__ = ("_until", "_value")

    def __init__(self) -> None:
        self._value = 0
        self._until = 0

    def note(self, value: int, instant: int) -> None:
        """Take *value* into account until a second after *instant* (ns)."""
        if value >= self._value or instant > self._until:
            self._value = value
            self._until = instant + MEMORY

    def value(self, now: int) -> int:
        """The largest value that is still remembered at *now*, 0 if there is none."""
        return self._value if now <= self._until else 0

    def forget(self) -> None:
        """Start anew."""
        self._value = 0
        self._until = 0
