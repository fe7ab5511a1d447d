"""What throttlefs is compared with, and throttlefs itself, behind one interface."""

from pathlib import Path

from benchmarks.peers.base import Image, Peer, Served, Setup
from benchmarks.peers.bindfs import Bindfs
from benchmarks.peers.blkio import Blkio
from benchmarks.peers.installations import Installation, installation_in
from benchmarks.peers.native import Native
from benchmarks.peers.qsd import Qsd
from benchmarks.peers.throttlefs import CHECKOUT, Throttlefs, is_throttlefs

_KNOWN = (Throttlefs(), Qsd(), Qsd(threads=2), Bindfs(), Blkio(), Native())
PEERS: dict[str, Peer] = {peer.name: peer for peer in _KNOWN}


def peer_named(text: str) -> Peer:
    """Return the peer that ``--peer`` names; ``checkout:DIRECTORY`` is another throttlefs.

    Raises BenchmarkError if the directory has none, KeyError for any other name.
    """
    if text.startswith(CHECKOUT):
        return Throttlefs(installation_in(Path(text.removeprefix(CHECKOUT))))
    return PEERS[text]


def shows_directories(name: str) -> bool:
    """Return whether a peer of this name shows directories; those that serve images do not."""
    return is_throttlefs(name) or PEERS[name].shows_directories


__all__ = [
    "CHECKOUT",
    "PEERS",
    "Image",
    "Installation",
    "Peer",
    "Served",
    "Setup",
    "Throttlefs",
    "is_throttlefs",
    "peer_named",
    "shows_directories",
]
