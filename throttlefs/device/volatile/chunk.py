"""The versions of a few neighbouring sectors since they were last flushed, kept compactly."""

from __future__ import annotations

from array import array
from typing import Final, NamedTuple

SHIFT: Final = 6
SECTORS: Final = 1 << SHIFT
"""How many sectors a chunk has."""

MASK: Final = SECTORS - 1

_EMPTY: Final = array("q", bytes(8 * 3 * SECTORS))

LAST: Final = SECTORS
"""Where the table of a chunk has the number of the latest change of each sector."""

PLACE: Final = 2 * SECTORS
"""Where it has the place of the oldest version of each sector."""


class Sample(NamedTuple):
    """A version between the oldest and the newest, which holds from *begin* until *end*."""

    end: int
    """The number of the change that overwrote it."""
    begin: int
    """The number of the change that made it."""
    place: int
    """Where it lies in the undo log, in bytes."""
    kept: bool
    """Whether it has to stay as long as the sector is not flushed."""


class Chunk:
    """The changes of `SECTORS` neighbouring sectors.

    The table has three numbers for each sector: that of its first change since the flush (0 if
    there was none), that of its last change, and where its oldest version lies. They are in one
    array, 24 bytes for a sector: 10 GiB of changed data take 70 MB.
    """

    __slots__ = ("newest", "rewrites", "samples", "table")

    def __init__(self) -> None:
        self.table = _EMPTY[:]
        self.newest = 0
        """The number of the latest change of any of the sectors."""
        self.rewrites = 0
        """How many writes have changed sectors that were not flushed since an earlier one."""
        self.samples: dict[int, list[Sample]] = {}
        """By sector, in the order of time."""

    def changed(self) -> int:
        """How many sectors are not flushed."""
        return SECTORS - self.table[LAST:PLACE].count(0)
