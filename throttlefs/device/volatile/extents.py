"""Shares the undo log out: extents for files, and room in them for before-images. Pure.

An extent belongs to one file, whose before-images become useless together when it is flushed. The
log is sparse: an extent takes up what was written to it.
"""

from __future__ import annotations

from typing import Final

EXTENT: Final = 1 << 20
"""Bytes of an extent."""

_SHIFT: Final = 20


def extent_of(place: int) -> int:
    """The extent that a place of the log is in."""
    return place >> _SHIFT << _SHIFT


_KEPT: Final = 64
"""So many free extents keep their blocks, for those that are used next."""


class Extents:
    """The extents of the log, each free or of one file."""

    def __init__(self) -> None:
        self._free: list[int] = []  # the latest one that was given back is used first
        self._with_blocks = 0  # how many at the end of `_free` may have blocks
        self._end = 0
        self.in_use = 0
        """How many extents files have."""

    def take(self) -> int:
        """A free extent: the number of its first byte in the log."""
        self.in_use += 1
        if self._free:
            self._with_blocks = max(0, self._with_blocks - 1)
            return self._free.pop()
        place, self._end = self._end, self._end + EXTENT
        return place

    def give_back(self, place: int) -> None:
        """Note that nobody needs the contents of the extent at *place* any more."""
        self.in_use -= 1
        self._free.append(place)
        self._with_blocks += 1

    def take_surplus(self, *, all_of_it: bool = False) -> list[int]:
        """Take the free extents whose blocks should be freed now; give them to `punched` then.

        With *all_of_it* no free extent keeps its blocks.
        """
        if not all_of_it and self._with_blocks <= 2 * _KEPT:
            return []
        kept = 0 if all_of_it else _KEPT
        first, end = len(self._free) - self._with_blocks, len(self._free) - kept
        taken = self._free[first:end]
        del self._free[first:end]
        self._with_blocks = kept
        return taken

    def free(self) -> set[int]:
        """The places of all free extents."""
        return set(self._free)

    def punched(self, places: list[int]) -> None:
        """Take back free extents that have no blocks any more."""
        self._free[:0] = places


class Room:
    """The extents of one file, with the number of bytes in each that are needed."""

    def __init__(self, extents: Extents) -> None:
        self._extents = extents
        self.needed: dict[int, int] = {}
        """How many bytes of each extent are needed."""
        self._extent = -1  # the one that is being filled
        self._filled = EXTENT

    def take(self, size: int) -> list[tuple[int, int]]:
        """Room for *size* bytes: pieces of the log, each with its place and length."""
        pieces = []
        while size:
            if self._filled + min(size, EXTENT) > EXTENT:  # it may be filled in part only
                self._begin_extent()
            length = min(size, EXTENT)
            pieces.append((self._extent + self._filled, length))
            self._filled += length
            self.needed[self._extent] += length
            size -= length
        return pieces

    def take_one(self, size: int) -> int:
        """Room for *size* bytes, of which an extent holds a whole number; its place."""
        if self._filled == EXTENT:
            self._begin_extent()
        extent = self._extent
        place = extent + self._filled
        self._filled += size
        self.needed[extent] += size
        return place

    def drop(self, place: int, size: int) -> None:
        """Note that the *size* bytes at *place*, in one extent, are not needed any more."""
        extent = extent_of(place)
        left = self.needed[extent] - size
        self.needed[extent] = left
        if not left and extent != self._extent:
            del self.needed[extent]
            self._extents.give_back(extent)

    def drop_all(self) -> None:
        """Give all extents back."""
        for extent in self.needed:
            self._extents.give_back(extent)
        self.needed.clear()
        self._extent = -1
        self._filled = EXTENT

    def _begin_extent(self) -> None:
        old = self._extent
        if old >= 0 and not self.needed[old]:
            self._filled = 0
            return
        self._extent = self._extents.take()
        self.needed[self._extent] = 0
        self._filled = 0
