"""What the way through a mount costs beside its peers."""

from collections.abc import Sequence

from benchmarks.peers import CHECKOUT
from benchmarks.results import Section
from benchmarks.speed.files import Files
from benchmarks.speed.images import Images
from benchmarks.speed.memory import Memory
from benchmarks.speed.names import Names
from benchmarks.speed.stalls import Stalls
from benchmarks.speed.volatile import Volatile
from benchmarks.speed.waiting import Waiting
from benchmarks.speed.workloads import Workloads


def sections(peers: Sequence[str], seconds: float, rounds: int, image_mib: int) -> list[Section]:
    """Return all sections in the order in which they are run."""
    # These are long, and tell enough by one run, unless versions are compared by them.
    few = rounds if any(peer.startswith(CHECKOUT) for peer in peers) else 1
    return [
        Workloads(peers, seconds, rounds, image_mib),
        Images(peers, seconds, rounds),
        Stalls(peers, seconds, few),
        Volatile(peers, seconds, few, image_mib),
        Waiting(peers, seconds, few),
        Files(peers, few),
        Memory(peers, few),
        Names(peers, seconds, rounds),
    ]
