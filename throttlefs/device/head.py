"""The head of a hard disk: how long it takes to get to a place."""

from __future__ import annotations

from math import sqrt

from throttlefs.settings.device import Durations

_MINUTE = 60 * 10**9


class Head:
    """Moves over a disk that turns *rpm* times a minute.

    *seek* has the time (ns) to the next track and that over the whole disk. Between them it grows
    with the square root of the distance, as the head accelerates and brakes. Then the head waits
    for the disk to turn. What follows on directly costs neither.
    """

    __slots__ = ("_far", "_near", "_place", "_turn")

    def __init__(self, seek: Durations = (), rpm: int = 0) -> None:
        self._place = 0  # the byte after the last one
        self.change(seek, rpm)

    def change(self, seek: Durations, rpm: int) -> None:
        """Go on with other figures from the same place."""
        self._near = seek[0] if seek else 0
        self._far = seek[-1] if seek else 0
        self._turn = _MINUTE // rpm if rpm else 0

    @property
    def longest(self) -> int:
        """The longest time (ns) that it takes to get anywhere."""
        return self._far + self._turn

    def move(self, place: int, nbytes: int, size: int, turned: float) -> int:
        """Go to the byte *place* and over *nbytes*; returns how long (ns) it takes to get there.

        *size* is that of the disk (bytes, above 0). *turned* is the part of a turn, 0 to 1, after
        which the disk is in the right place.
        """
        distance = abs(place - self._place)
        self._place = place + nbytes
        if not distance:
            return 0
        way = sqrt(min(1.0, distance / size))
        return round(self._near + (self._far - self._near) * way + self._turn * turned)
