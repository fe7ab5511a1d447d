"""The changes of a file that a power cut undoes in their order: sizes, truncates, punches. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Final, NamedTuple

MOST: Final = 1 << 16
"""When there are so many of a kind, older ones have to become final."""

NO_END: Final = 1 << 62


class Zeroing(NamedTuple):
    """A truncate or punch, as far as it made whole sectors zeroes."""

    number: int
    first: int
    end: int


class Operations:
    """Those since the last flush. *size* is that of the file in bytes."""

    def __init__(self, size: int) -> None:
        self.flushed_size = size
        self._size_numbers = array("q")
        self._sizes = array("q")
        self._barriers = array("q")
        self._zeroing_numbers = array("q")
        self._first = array("q")
        self._end = array("q")
        self.edges: list[tuple[int, int]] = []
        """Truncates and punches that made a part of a sector zeroes: the number, the sector."""
        self.are_too_many = False
        """Whether older ones have to become final."""
        self._edge_of: dict[int, int] = {}  # the latest of them, by sector

    def __bool__(self) -> bool:
        return bool(self._sizes or self._zeroing_numbers or self.edges)

    def resize(self, number: int, size: int) -> None:
        """Note that *number* gave the file *size* bytes."""
        self._size_numbers.append(number)
        self._sizes.append(size)
        self._look_at_bounds()

    def zero(self, number: int, first: int, end: int, edges: set[int]) -> None:
        """Note that *number* made sectors from *first* up to *end* zeroes, and *edges* in part."""
        if first < end:
            self._zeroing_numbers.append(number)
            self._first.append(first)
            self._end.append(end)
        for edge in sorted(edges):
            self.edges.append((number, edge))
            self._edge_of[edge] = number
        self._look_at_bounds()

    def barrier(self, number: int) -> None:
        """Note that the data as they are now reach the disk before anything after *number*."""
        self._barriers.append(number)
        self._look_at_bounds()

    def _look_at_bounds(self) -> None:
        most = max(len(self._sizes), len(self._zeroing_numbers), len(self.edges))
        self.are_too_many = max(most, len(self._barriers)) > MOST

    def size_at(self, number: int) -> int:
        """The size in bytes if the changes up to *number* survive, and none after it."""
        found = bisect_right(self._size_numbers, number)
        return self._sizes[found - 1] if found else self.flushed_size

    def barrier_at(self, number: int) -> int:
        """The last barrier up to *number*; 0 if there is none."""
        found = bisect_right(self._barriers, number)
        return self._barriers[found - 1] if found else 0

    @property
    def has_edges(self) -> bool:
        """Whether `is_edge` may be true for any sector."""
        return bool(self._edge_of)

    def is_edge(self, sector: int, last: int) -> bool:
        """Whether the change *last* of *sector* made only a part of it zeroes."""
        return bool(self._edge_of) and self._edge_of.get(sector) == last

    def zeroings(self) -> list[Zeroing]:
        """All, in the order of time."""
        return [*map(Zeroing, self._zeroing_numbers, self._first, self._end)]

    def latest(self) -> int:
        """The number of the latest size, truncate or punch; 0 if there is none."""
        numbers = (self._size_numbers, self._zeroing_numbers)
        return max(
            [*(it[-1] for it in numbers if it), *(edge[0] for edge in self.edges[-1:])] or [0]
        )

    def middle(self) -> int:
        """The number up to which they must become final, so that half of them can go."""
        numbers = sorted([*self._size_numbers, *self._zeroing_numbers, *self._barriers])
        return numbers[len(numbers) // 2] if numbers else 0

    def flushed(self, number: int) -> None:
        """Forget what was before *number*: it is flushed, and so are the data."""
        self.finish(number)
        del self._barriers[: bisect_right(self._barriers, number)]
        self._edge_of = {sector: edge for edge, sector in self.edges}

    def finish(self, number: int) -> list[Zeroing]:
        """Forget what was before *number*, and can no longer be undone; returns truncates of it.

        The last barrier stays, for the data are not flushed. So does the knowledge which sectors
        were made zeroes in part: the next write to them saves what is left.
        """
        found = bisect_right(self._size_numbers, number)
        if found:
            self.flushed_size = self._sizes[found - 1]
            del self._size_numbers[:found], self._sizes[:found]
        found = bisect_right(self._zeroing_numbers, number)
        gone = self.zeroings()[:found] if found else []
        del self._zeroing_numbers[:found], self._first[:found], self._end[:found]
        del self._barriers[: max(0, bisect_right(self._barriers, number) - 1)]
        self.edges = [edge for edge in self.edges if edge[0] > number]
        self._look_at_bounds()
        return gone
