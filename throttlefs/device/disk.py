"""A disk as the limiter sees it: a model that says how long each request takes."""

from __future__ import annotations

from collections.abc import Hashable
from random import Random
from typing import Final

from throttlefs.settings.device import Device

from .head import Head
from .latency import Curve, Deck
from .writes import Writes

_KINDS: Final = ("latency_rd", "latency_wr", "latency_flush")
"""The latencies of reads, writes and flushes; a direction of the limiter is a place in this."""

_WRITE: Final = 1
_FLUSH: Final = 2

_EXTENT: Final = 1 << 20
"""Bytes: files begin at multiples of this."""

_MOST_PLACES: Final = 65_536
"""How many files keep their place on a disk that they share; then those that came first lose it."""


class Spot:
    """Where a file lies on a disk, what its next requests draw, and its ``writes``.

    ``size`` is that of the file (bytes), as far as it is known.
    """

    __slots__ = ("_decks", "_random", "_turns", "base", "size", "writes")

    def __init__(self, base: int, size: int, generator: Random) -> None:
        self.base = base
        self.size = size
        self.writes = Writes()
        self._random = generator
        self._decks: list[Deck | None] = [None, None, None]
        self._turns: Deck | None = None

    def draw(self, kind: int) -> float:
        """A number between 0 and 1 for the latency of a read, write or flush."""
        deck = self._decks[kind]
        if deck is None:
            deck = self._decks[kind] = Deck(self._random)
        return deck.draw()

    def draw_turn(self) -> float:
        """A number between 0 and 1 for the rotation."""
        if self._turns is None:
            self._turns = Deck(self._random)
        return self._turns.draw()


class Disk:
    """The device of one image, or of the images of a group, which lie on it one behind another.

    Pure: instants and times (ns) go in and come out. All its random numbers come from generators
    whose seeds are the device's and the name of the file, so they are the same each time.
    """

    def __init__(self, device: Device) -> None:
        self._places_of: dict[Hashable, int] = {}
        self._used = 0  # bytes of the disk that files have taken
        self._head_free = 0  # the instant from which the head is idle
        self._head = Head()
        self.change(device)

    def change(self, device: Device) -> None:
        """Go on with other settings; files, generators and the head stay where they are."""
        self.device = device
        self._curves = [Curve(device.latency_of(name)) for name in _KINDS]
        self._head.change(device.seek, device.rpm)

    @property
    def places(self) -> int:
        """How many requests it works on at once, or lets wait before its head; 0 for any number."""
        return self.device.queue_depth or int(self.serial)

    @property
    def serial(self) -> bool:
        """Whether it has a head, which serves one request at a time."""
        return self.device.has_head

    def attach(self, key: Hashable, name: str, size: int) -> Spot:
        """The place of the file *key*, which keeps it, with a generator of its own."""
        base = self._places_of.get(key)
        if base is None:
            base = self._places_of[key] = self._used
            # Beyond the last byte the files begin at the first one again.
            self._used += -(-max(size, 1) // _EXTENT) * _EXTENT
            self._used %= self.device.size or self._used + 1
            if len(self._places_of) > _MOST_PLACES:
                del self._places_of[next(iter(self._places_of))]
        seed = self.device.seed
        return Spot(base, size, Random() if seed is None else Random(f"{seed} {name}"))

    def serve(
        self, direction: int, durable: bool, spot: Spot, offset: int, nbytes: int, start: int
    ) -> tuple[int, int]:
        """How long (ns) the disk works on a request from *start* on, and when (ns) it is done.

        *direction*: 0 a read, 1 a write, 2 a flush. A *durable* write has the latency of a flush
        beside its own.
        """
        service = self._latency(direction, spot)
        if durable and direction == _WRITE:
            service += self._latency(_FLUSH, spot)
        if not self.serial:
            return service, start + service
        if direction != _FLUSH:
            size = self.device.size
            if not size:
                size = spot.size = max(spot.size, offset + nbytes, 1)
            turned = spot.draw_turn() if self.device.rpm else 0.0
            service += self._head.move(spot.base + offset, nbytes, size, turned)
        self._head_free = max(self._head_free, start) + service
        return service, self._head_free

    def longest(self) -> int:
        """The longest time (ns) from start to end that a request may take."""
        read, write, flush = (curve.longest for curve in self._curves)
        longest = max(read, write + flush)
        return (longest + self._head.longest) * self.places if self.serial else longest

    def _latency(self, kind: int, spot: Spot) -> int:
        curve = self._curves[kind]
        return curve.longest if curve.is_constant else curve.at(spot.draw(kind))
