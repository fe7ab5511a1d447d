"""What the same requests cost if more images, deeper queues, groups or mounts ask for them."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import Section
from benchmarks.scale.growth import Growth
from benchmarks.scale.loads import DEPTHS, GROUPS, IMAGES, MOUNTS

QUICK_MOST = 1000
"""A short run has no more images."""


def sections(
    peers: Sequence[str], seconds: float, rounds: int, *, quick: bool = False
) -> list[Section]:
    """Return all sections in the order in which they are run."""
    kinds = (IMAGES, DEPTHS, GROUPS, MOUNTS)
    most = QUICK_MOST if quick else None
    return [Growth(kind, peers, seconds, rounds, most) for kind in kinds]
