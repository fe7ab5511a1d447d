"""Whether a mount is as slow as its profile says: latencies by quantile, and rates by depth."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.profiles.depths import Depths
from benchmarks.profiles.quantiles import Quantiles
from benchmarks.results import Section

PROFILES = ("hdd-7200", "sd-card", "azure-p10", "aws-gp3")
"""Those that are measured if nothing else is said: a head, one place, a burst, and a limit."""


def sections(
    peers: Sequence[str], seconds: float, rounds: int = 1, profiles: Sequence[str] = PROFILES
) -> list[Section]:
    """Return all sections in the order in which they are run."""
    return [kind(peers, seconds, rounds, profiles) for kind in (Quantiles, Depths)]
