"""What throttlefs is compared with, and throttlefs itself, behind one interface."""

from benchmarks.peers.base import Image, Peer, Served, Setup
from benchmarks.peers.bindfs import Bindfs
from benchmarks.peers.native import Native
from benchmarks.peers.qsd import Qsd
from benchmarks.peers.throttlefs import Throttlefs

PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Throttlefs, Qsd, Bindfs, Native)}

__all__ = ["PEERS", "Image", "Peer", "Served", "Setup"]
