"""What the way through a mount costs beside its peers."""

from collections.abc import Sequence

from benchmarks.results import Section
from benchmarks.speed.files import Files
from benchmarks.speed.images import Images
from benchmarks.speed.memory import Memory
from benchmarks.speed.names import Names
from benchmarks.speed.stalls import Stalls
from benchmarks.speed.workloads import Workloads


def sections(peers: Sequence[str], seconds: float, rounds: int, image_mib: int) -> list[Section]:
    """Return all sections in the order in which they are run."""
    return [
        Workloads(peers, seconds, rounds, image_mib),
        Images(peers, seconds, rounds),
        Stalls(peers, seconds),
        Files(peers),
        Memory(peers),
        Names(peers, seconds, rounds),
    ]
