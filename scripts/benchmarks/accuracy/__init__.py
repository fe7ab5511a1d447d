"""How exactly, how evenly and how soon limits are kept."""

from collections.abc import Sequence

from benchmarks.accuracy.fairness import Fairness
from benchmarks.accuracy.grid import Grid
from benchmarks.accuracy.latency import Latency
from benchmarks.accuracy.live import Live
from benchmarks.accuracy.neighbours import Neighbours
from benchmarks.accuracy.release import Release
from benchmarks.accuracy.windows import Windows
from benchmarks.results import Section


def sections(peers: Sequence[str], seconds: float, rounds: int = 1) -> list[Section]:
    """Return all sections in the order in which they are run."""
    kinds = (Grid, Latency, Windows, Fairness, Neighbours, Live, Release)
    return [kind(peers, seconds, rounds) for kind in kinds]
