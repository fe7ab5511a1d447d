"""What the sections on profiles have in common: a case for each profile and kind of load."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

from benchmarks.bench import Bench
from benchmarks.fio import OVERHEAD
from benchmarks.results import Figures, Section, Step, in_turn

IMAGE_MIB = 256


class ProfileSection(Section):
    """Measures each profile with each of `kinds`."""

    kinds: ClassVar[Iterable[Any]]
    engine: ClassVar[str]
    """fio's, for the report."""
    beside: ClassVar[str]
    """What is reported beside what, for the report."""

    def __init__(
        self, peers: Sequence[str], seconds: float, rounds: int, profiles: Sequence[str]
    ) -> None:
        self._peers = peers
        self._seconds = seconds
        self._rounds = rounds
        self._profiles = profiles
        self.method = (
            f"4 KiB, {self.engine}, an image of {IMAGE_MIB} MiB, {seconds:g} s each; "
            f"{self.beside} the profile has on a virtual clock."
        )

    @abstractmethod
    def measure(self, bench: Bench, peer: str, profile: str, kind: Any, seconds: float) -> Figures:
        """Return what fio saw in so many seconds, and what the model has."""

    def steps(self) -> Iterable[Step]:
        for profile in self._profiles:
            for kind in self.kinds:
                yield from in_turn(
                    self.name,
                    f"{profile}/{kind}",
                    self._peers,
                    self._rounds,
                    self._seconds + OVERHEAD + 1,
                    partial(self.measure, profile=profile, kind=kind, seconds=self._seconds),
                )
