"""Picks what is left of a file after a power cut: one version of each sector, and a size. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final, NamedTuple

from .chunk import LAST, PLACE, SECTORS, SHIFT, Chunk, Sample
from .history import FileHistory
from .operations import NO_END, Zeroing
from .samples import ZEROES

NEWEST: Final = -2
"""In the place of a place in the undo log: the version that SRC has."""

_KEPT: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How likely the newest version of a sector of one file is; one of these is drawn for the file."""

_FEW: Final = 1 << 16
"""If more sectors of a file are not flushed, neighbours may have one draw together."""


class Restore(NamedTuple):
    """What is to be done to a file in SRC, so that it is as a power cut has left it."""

    key: tuple[int, int]
    size: int | None
    """Bytes; None: as it is."""
    pieces: list[tuple[int, int, int]]
    """Offset and length in bytes, and the place in the undo log, or `ZEROES`."""
    lost: int
    """Bytes of sectors that do not hold their newest version."""


def pick(
    key: tuple[int, int], history: FileHistory, limit: int, rng: random.Random
) -> Iterator[Restore | None]:
    """What a power cut has left of a file; nothing comes if that is all.

    Changes of its size, truncates, punches and barriers survive up to the number *limit*. None
    comes after each chunk. The file may change then: what comes of it is between before and after.
    """
    size = history.operations.size_at(limit)
    pieces = _Pieces(history.sector, size)
    lost = 0
    newest_is_likely = rng.choice(_KEPT)
    share_draws = history.changed > _FEW
    constraints = _Constraints(history, limit)
    for number in sorted(history.chunks):
        chunk = history.chunks.get(number)
        if chunk is None:
            continue  # it was flushed meanwhile
        base = number << SHIFT
        if constraints.matter_in(number, chunk):
            floor, zeroed, until = constraints.of(number)
            picked = [
                _pick_one(chunk, at, floor[at], zeroed[at], until[at], newest_is_likely, rng)
                for at in range(SECTORS)
            ]
        else:
            picked = _pick_simply(chunk, newest_is_likely, share_draws, rng)
        for at, place in enumerate(picked):
            offset = (base + at) * history.sector
            if place != NEWEST:
                pieces.add(offset, place)
            if chunk.table[LAST + at] and (place != NEWEST or offset >= size):
                lost += max(0, min(history.sector, history.size - offset))
        yield None
    if pieces.all or size != history.size:
        yield Restore(key, None if size == history.size else size, pieces.all, lost)


class _Pieces:
    """Collects what is to be restored, and joins neighbours."""

    def __init__(self, sector: int, size: int) -> None:
        self.all: list[tuple[int, int, int]] = []
        self._sector = sector
        self._size = size

    def add(self, offset: int, place: int) -> None:
        """Add a sector, as far as it is within the file."""
        length = min(self._sector, self._size - offset)
        if length <= 0:
            return
        if self.all:
            begin, before, old = self.all[-1]
            goes_on = place == ZEROES if old == ZEROES else place == old + before
            if begin + before == offset and goes_on:
                self.all[-1] = (begin, before + length, old)
                return
        self.all.append((offset, length, place))


class _Constraints:
    """Which versions of each sector may survive, as truncates, punches and barriers have it."""

    def __init__(self, history: FileHistory, limit: int) -> None:
        operations = history.operations
        self._limit = limit
        self._barrier = operations.barrier_at(limit)
        self._zeroings: dict[int, list[Zeroing]] = {}
        self._edges: dict[int, list[tuple[int, int]]] = {}
        chunks = history.chunks
        for zeroing in operations.zeroings():
            low, high = zeroing.first >> SHIFT, (zeroing.end - 1) >> SHIFT
            if high - low < len(chunks):
                numbers = [n for n in range(low, high + 1) if n in chunks]
            else:
                numbers = [n for n in chunks if low <= n <= high]
            for n in numbers:
                self._zeroings.setdefault(n, []).append(zeroing)
        for number, sector in operations.edges:
            self._edges.setdefault(sector >> SHIFT, []).append((number, sector))

    def matter_in(self, number: int, chunk: Chunk) -> bool:
        """Whether any sector of the chunk *number* may be without a choice, or have more."""
        return bool(
            self._barrier or chunk.samples or number in self._zeroings or number in self._edges
        )

    def of(self, number: int) -> tuple[list[int], list[int], list[int]]:
        """For each sector of the chunk *number* the changes that bound its version.

        It must hold at the first or be later; the second is that of a truncate that left zeroes
        then, or 0; it must be older than the third.
        """
        base = number << SHIFT
        floor, zeroed, until = [self._barrier] * SECTORS, [0] * SECTORS, [NO_END] * SECTORS
        for change, first, end in self._zeroings.get(number, ()):
            for at in range(max(first - base, 0), min(end - base, SECTORS)):
                if change > self._limit:
                    until[at] = min(until[at], change)
                elif change >= floor[at]:
                    floor[at] = zeroed[at] = change
        for change, sector in self._edges.get(number, ()):
            at = sector - base
            if change > self._limit:
                until[at] = min(until[at], change)
            elif change >= floor[at]:
                floor[at], zeroed[at] = change, 0
        return floor, zeroed, until


def _pick_one(
    chunk: Chunk,
    at: int,
    floor: int,
    zeroed: int,
    until: int,
    newest_is_likely: float,
    rng: random.Random,
) -> int:
    """The place of one version of a sector that may survive."""
    table = chunk.table
    last = table[LAST + at]
    if not last:
        return NEWEST
    oldest = Sample(table[at], 0, table[PLACE + at], True)
    newest = Sample(NO_END, last, NEWEST, True)
    places: list[int] = [
        it.place
        for it in (oldest, *chunk.samples.get(at, ()), newest)
        if it.end > floor and it.begin < until
    ]
    if zeroed and zeroed == floor:
        places.insert(0, ZEROES)
    if len(places) == 1 or rng.random() < newest_is_likely:
        return places[-1]
    return rng.choice(places[:-1])


def _pick_simply(
    chunk: Chunk, newest_is_likely: float, share_draw: bool, rng: random.Random
) -> list[int]:
    """The same for all sectors of a chunk that have two versions each, and both may survive."""
    table = chunk.table
    if newest_is_likely == 1 or (share_draw and rng.random() < newest_is_likely):
        return [NEWEST] * SECTORS
    certain = newest_is_likely == 0 or share_draw
    return [
        place if last and (certain or rng.random() >= newest_is_likely) else NEWEST
        for last, place in zip(table[LAST:PLACE], table[PLACE:], strict=True)
    ]
