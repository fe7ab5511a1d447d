"""How long the tests of tests/trust go on, and what they count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Soak:
    """Whether a test is to run in its long form (``scripts/soak``) or in its quick one (CI)."""

    long: bool

    def choose(self, quick: T, long: T) -> T:
        """The one of the two that is asked for."""
        return long if self.long else quick


@dataclass
class Tally:
    """What a test tried: ``runs`` of its scenario, ``lost`` bytes or requests, what was checked."""

    scenario: str
    runs: int = 0
    lost: int = 0
    checked: str = ""

    def note(self, runs: int = 1, *, lost: int = 0, checked: str = "") -> None:
        """Add to the counts; *checked* says in a few words what was compared."""
        self.runs += runs
        self.lost += lost
        self.checked = checked or self.checked
