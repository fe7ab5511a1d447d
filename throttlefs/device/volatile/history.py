"""What one file was like since it was last flushed, sector by sector. Pure.

Every change has a number, one order for the whole mount. A sector has its oldest version, as the
last flush left it, its newest, which is in SRC, and samples of those in between. A version holds
from the change that made it until the change that overwrote it.

Truncates and punches are changes of two kinds: they change sectors, and a power cut may undo them
as it undoes changes of names. Then no version survives that was written after them. If they stay,
none from before survives.

The caller saves what a change overwrites before it makes the change.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator

from .chunk import LAST, MASK, PLACE, SECTORS, SHIFT, Chunk, Sample
from .extents import Room
from .operations import NO_END, Operations
from .samples import ZEROES, Budget, Sampler

Run = tuple[int, int]
"""Neighbouring sectors: the first one, and how many."""

SavedRun = tuple[int, int, int]
"""A run and the place of its old contents in the undo log (bytes), or `ZEROES`."""


class FileHistory:
    """The versions of one file.

    *sector* is the size of a sector in bytes, *size* that of the file as SRC has it. *room* is for
    its before-images, *draws* decides which versions become samples.
    """

    def __init__(
        self, sector: int, size: int, room: Room, draws: random.Random, budget: Budget
    ) -> None:
        self.sector = sector
        self.size = size
        """Bytes, as SRC is now."""
        self.last_ns: int | None = None
        """When it was last written to (ns, the clock of files); None if that was before."""
        self.changed = 0
        """How many sectors are not flushed."""
        self.chunks: dict[int, Chunk] = {}
        self.operations = Operations(size)
        self.room = room
        """For before-images."""
        self._samples = Sampler(sector, room, draws, budget)
        self._saving = 0  # bytes of room whose owner is not known here yet
        self.newest = 0  # the number of the latest change of data
        self._epoch = 0  # when the latest flush arrived
        self._lost_until = 0  # flushes do not cover what was written before

    @property
    def is_dirty(self) -> bool:
        """Whether a power cut may lose or undo something of the file."""
        return bool(self.chunks or self.operations)

    @property
    def needs_folding(self) -> bool:
        """Whether it holds more than it should until older truncates become final (`fold`)."""
        return self._samples.keeps_too_many or self.operations.are_too_many

    # -- room for before-images ------------------------------------------------------------

    def take_room(self, first: int, count: int) -> list[SavedRun]:
        """Room for *count* sectors from *first* on; hand it to a change, or `give_back`."""
        self._saving += count * self.sector
        runs = []
        for place, length in self.room.take(count * self.sector):
            runs.append((first, length // self.sector, place))
            first += length // self.sector
        return runs

    def take_sector(self) -> int:
        """Room for one sector; as `take_room`, which takes longer."""
        self._saving += self.sector
        return self.room.take_one(self.sector)

    def give_back(self, runs: Iterable[SavedRun]) -> None:
        """Give room back that is not needed after all."""
        for _, count, place in runs:
            if place != ZEROES:
                self._saving -= count * self.sector
                self.room.drop(place, count * self.sector)

    # -- writes ----------------------------------------------------------------------------

    def must_save(self, sector: int) -> bool:
        """Whether a write to this one sector has to save what it overwrites."""
        chunk = self.chunks.get(sector >> SHIFT)
        if chunk is None:
            return True
        last = chunk.table[LAST + (sector & MASK)]
        if last <= self._epoch or self.operations.is_edge(sector, last):
            return True
        return self._samples.takes(chunk)

    def to_save(self, first: int, end: int) -> list[Run]:
        """Which sectors from *first* up to *end* a write to them has to save before."""
        runs: list[Run] = []
        is_edge, epoch = self.operations.is_edge, self._epoch
        for chunk, base, low, high in self._parts(first, end):
            if chunk is None:
                _add_run(runs, base + low, high - low)
                continue
            last = chunk.table[LAST + low : LAST + high]
            if max(last) <= epoch:
                _add_run(runs, base + low, high - low)
                continue
            is_sampled = self._samples.takes(chunk, high - low)
            if min(last) > epoch and not self.operations.has_edges:
                if is_sampled:
                    _add_run(runs, base + low, high - low)
                continue
            for sector, number in enumerate(last, base + low):
                if is_sampled or number <= epoch or is_edge(sector, number):
                    _add_run(runs, sector, 1)
        return runs

    def write_one(self, number: int, sector: int, place: int | None) -> None:
        """As `write`, to one sector; *place* has what it overwrites, if that was saved."""
        chunk = self.chunks.get(sector >> SHIFT)
        if chunk is None:
            chunk = self.chunks[sector >> SHIFT] = Chunk()
        if place is not None:
            if place != ZEROES:
                self._saving -= self.sector
            self._take_one(chunk, sector, number, place, False)
        chunk.table[LAST + (sector & MASK)] = number
        chunk.newest = max(chunk.newest, number)
        self.newest = max(self.newest, number)

    def write(self, number: int, first: int, end: int, saved: Iterable[SavedRun]) -> None:
        """Note the write *number* to the sectors from *first* up to *end*.

        *saved* has all that `to_save` named. A write with a larger number may be noted already, if
        it is to other sectors.
        """
        self._take(number, saved, False)
        for chunk, _, low, high in self._parts(first, end):
            assert chunk is not None
            chunk.table[LAST + low : LAST + high] = array("q", [number]) * (high - low)
            chunk.newest = max(chunk.newest, number)
        self.newest = max(self.newest, number)

    # -- truncates, punches, sizes ---------------------------------------------------------

    def zero(self, number: int, start: int, end: int | None, saved: Iterable[SavedRun]) -> None:
        """Note that *number* made the bytes from *start* up to *end* zeroes; None: to the end.

        *saved* has all sectors that are in it, even in part, and had any data in SRC.
        """
        sector = self.sector
        first = -(-start // sector)
        last = NO_END if end is None else end // sector
        edges = {it // sector for it in (start, end) if it is not None and it % sector}
        self._take(number, saved, True)
        for chunk_number, chunk in self._chunks_in(start // sector, last + 1):
            self._zero_chunk(number, chunk, chunk_number << SHIFT, first, last, edges)
        self.operations.zero(number, first, last, edges)
        self.newest = max(self.newest, number)

    def _zero_chunk(
        self, number: int, chunk: Chunk, base: int, first: int, end: int, edges: set[int]
    ) -> None:
        """Note for one chunk that sectors without data in SRC were made zeroes, as they were."""
        table = chunk.table
        for at in range(SECTORS):
            sector, last = base + at, table[LAST + at]
            if last and last != number and (first <= sector < end or sector in edges):
                self._samples.add(chunk, at, Sample(number, last, ZEROES, True))
                table[LAST + at] = number
                chunk.newest = max(chunk.newest, number)

    def resize(self, number: int, size: int) -> None:
        """Note that *number* gave the file *size* bytes."""
        self.size = size
        self.operations.resize(number, size)

    def barrier(self, number: int) -> None:
        """Note that the data as they are now reach the disk before anything after *number*."""
        self.operations.barrier(number)

    # -- flushes ---------------------------------------------------------------------------

    def begin_flush(self, number: int) -> None:
        """Note that a flush has arrived: writes from now on save what it is about to flush."""
        self._epoch = max(self._epoch, number)
        self._samples.flushing.append(number)

    def end_flush(self, number: int) -> None:
        """Note that the flush *number* has succeeded: what was changed before cannot be lost."""
        self._samples.flushing.remove(number)
        if self._lost_until:
            self.fold(number)
        else:
            self.operations.flushed(number)
            if self.newest <= number and not self._saving:
                self._clear()
                return
        for chunk_number, chunk in list(self.chunks.items()):
            self._flush_chunk(number, chunk)
            if not chunk.newest:
                del self.chunks[chunk_number]
        if not self.chunks:
            self._lost_until = 0

    def fail_flush(self, number: int, *, stays_dirty: bool) -> None:
        """Note that the flush *number* has failed.

        If what it was about to flush does not stay dirty, no later flush covers it.
        """
        self._samples.flushing.remove(number)
        if not stays_dirty and self.chunks:
            self._lost_until = max(self._lost_until, number)

    def flush_range(self, number: int, first: int, end: int, final: int) -> None:
        """Note that the write *number* to the sectors from *first* up to *end* is durable.

        Nor are the changes up to *final* undone any more.
        """
        if self.operations:
            self.fold(final)
        for chunk, base, low, high in self._parts(first, end):
            if chunk is None:
                continue
            for at in range(low, high):
                if chunk.table[LAST + at] == number:
                    self._clean_sector(chunk, at)
            if not chunk.changed():
                del self.chunks[base >> SHIFT]

    def forget(self) -> None:
        """Forget everything; the file is gone, or as durable as it is. Nothing may be saving."""
        self._clear()
        self.operations = Operations(self.size)
        self._lost_until = 0

    def _flush_chunk(self, number: int, chunk: Chunk) -> None:
        """Let the version of each sector that was the newest at *number* be the oldest."""
        table, lost_until = chunk.table, self._lost_until
        newest = 0
        for at in range(SECTORS):
            last = table[LAST + at]
            if not last:
                continue
            if lost_until < last <= number:
                self._clean_sector(chunk, at)
                continue
            newest = max(newest, last)
            if table[at] > number or last <= number:
                continue  # its oldest version is what was flushed, or nothing of it was
            flushed = next(it for it in chunk.samples[at] if it.begin <= number < it.end)
            if flushed.begin <= lost_until:
                continue
            self._begin_with(chunk, at, flushed)
        chunk.newest = newest

    def _begin_with(self, chunk: Chunk, at: int, sample: Sample) -> None:
        """Let *sample* be the oldest version of the sector *at*."""
        self._samples.drop(chunk, at, lambda it: it.begin < sample.begin)
        self._samples.take_out(chunk, at, sample)
        self._samples.drop_place(chunk.table[PLACE + at])
        chunk.table[at], chunk.table[PLACE + at] = sample.end, sample.place

    def _clean_sector(self, chunk: Chunk, at: int) -> None:
        self._samples.drop_place(chunk.table[PLACE + at])
        chunk.table[at] = chunk.table[LAST + at] = chunk.table[PLACE + at] = 0
        self.changed -= 1
        self._samples.drop(chunk, at, lambda _: True)

    def _clear(self) -> None:
        """Forget all versions: the file is as it is in SRC."""
        for chunk in self.chunks.values():
            self._samples.drop_all(chunk)
        self.chunks.clear()
        self.room.drop_all()
        self.changed = 0

    # -- bounds ----------------------------------------------------------------------------

    def fold(self, number: int) -> None:
        """Note that no truncate up to *number* will be undone, and forget what that allows.

        The data of the file are no more durable than before.
        """
        self._samples.keeps_too_many = False
        edges = [edge for edge in self.operations.edges if edge[0] <= number]
        zeroings = self.operations.finish(number)
        for zeroing in zeroings:
            for chunk_number, chunk in self._chunks_in(zeroing.first, zeroing.end):
                base = chunk_number << SHIFT
                for at in range(max(zeroing.first - base, 0), min(zeroing.end - base, SECTORS)):
                    self._begin_with_zeroes(chunk, at, zeroing.number)
        for edge, sector in edges:
            found = self.chunks.get(sector >> SHIFT)
            if found is not None:
                self._begin_after_edge(found, sector & MASK, edge)
                if not found.changed():
                    del self.chunks[sector >> SHIFT]
        if zeroings or edges:
            for chunk in self.chunks.values():
                self._samples.let_go(chunk, number)

    def _begin_with_zeroes(self, chunk: Chunk, at: int, number: int) -> None:
        """Let what the truncate *number* made of a sector be its oldest version."""
        table = chunk.table
        if not table[LAST + at] or table[at] > number:
            return
        self._samples.drop(chunk, at, lambda it: it.end <= number)
        self._samples.drop_place(table[PLACE + at])
        # It is known to hold only at *number*: a write after that may not have been saved.
        table[at], table[PLACE + at] = number + 1, ZEROES

    def _begin_after_edge(self, chunk: Chunk, at: int, number: int) -> None:
        """Let what is left of a sector by a truncate of its part be its oldest version."""
        table = chunk.table
        if not table[LAST + at] or table[at] > number:
            return
        if table[LAST + at] == number:
            self._clean_sector(chunk, at)  # SRC has the only version that may survive
            return
        self._samples.drop(chunk, at, lambda it: it.end <= number)
        left = next((it for it in chunk.samples.get(at, ()) if it.begin == number), None)
        if left is not None:
            self._begin_with(chunk, at, left)

    # -- what was saved --------------------------------------------------------------------

    def _take(self, number: int, saved: Iterable[SavedRun], kept: bool) -> None:
        """Take over what was saved before the change *number*."""
        sector = self.sector
        for first, count, start in saved:
            place, step = start, sector
            if start == ZEROES:
                step = 0
            else:
                self._saving -= count * sector
            for found, base, low, high in self._parts(first, first + count):
                chunk = found
                if chunk is None:
                    chunk = self.chunks[base >> SHIFT] = Chunk()
                table = chunk.table
                length = high - low
                if any(table[LAST + low : LAST + high]):
                    for n in range(length):
                        self._take_one(chunk, base + low + n, number, place + n * step, kept)
                else:
                    table[low:high] = array("q", [number]) * length
                    table[LAST + low : LAST + high] = table[low:high]
                    places = (
                        range(place, place + length * step, step) if step else [ZEROES] * length
                    )
                    table[PLACE + low : PLACE + high] = array("q", places)
                    self.changed += length
                place += length * step
                chunk.newest = max(chunk.newest, number)

    def _take_one(self, chunk: Chunk, sector: int, number: int, place: int, kept: bool) -> None:
        table, at = chunk.table, sector & MASK
        last = table[LAST + at]
        if not last:
            table[at] = number
            table[PLACE + at] = place
            self.changed += 1
        else:
            kept = kept or self.operations.is_edge(sector, last)
            self._samples.add(chunk, at, Sample(number, last, place, kept))
        table[LAST + at] = number

    # -- chunks ----------------------------------------------------------------------------

    def _parts(self, first: int, end: int) -> Iterator[tuple[Chunk | None, int, int, int]]:
        """The chunks of sectors: each with its first sector, and from where to where it counts."""
        for number in range(first >> SHIFT, ((end - 1) >> SHIFT) + 1):
            base = number << SHIFT
            yield self.chunks.get(number), base, max(first - base, 0), min(end - base, SECTORS)

    def _chunks_in(self, first: int, end: int) -> list[tuple[int, Chunk]]:
        """The chunks that there are of the sectors from *first* up to *end*, with their numbers."""
        low, high = first >> SHIFT, end >> SHIFT
        if high - low < len(self.chunks):
            numbers = range(low, high + 1)
            return [(n, chunk) for n in numbers if (chunk := self.chunks.get(n)) is not None]
        return [(n, chunk) for n, chunk in self.chunks.items() if low <= n <= high]


def _add_run(runs: list[Run], first: int, count: int) -> None:
    """Add sectors to *runs*, to the last one if they go on there."""
    if runs and runs[-1][0] + runs[-1][1] == first:
        runs[-1] = (runs[-1][0], runs[-1][1] + count)
    else:
        runs.append((first, count))
