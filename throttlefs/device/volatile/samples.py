"""Decides which versions between the oldest and the newest are kept, and frees their room. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from .chunk import Chunk, Sample
from .extents import Room

ZEROES: Final = -1
"""In the place of a place in the undo log: the version is all zeroes."""

SAMPLES: Final = 3
"""How many samples a sector has at most, beside those that must be kept."""

REWRITES_SAVED: Final = 16
"""So many rewrites of a chunk are all saved; of n, later on, the same number by chance."""

WIDE: Final = 32
"""Sectors: a write to so many of a chunk is saved more rarely, for it costs more."""

WIDE_SAVED: Final = 0.25
"""Of n wide rewrites of a chunk the last one is saved with this chance, divided by n."""

KEPT_AT_MOST: Final = 256
"""When a sector has so many samples that must be kept, older truncates have to become final."""


class Budget:
    """How many samples all files may have together, of those that need not be kept."""

    def __init__(self, samples: int = 250_000) -> None:
        self.left = samples


class Sampler:
    """The samples of one file.

    *sector* is the size of a sector in bytes, *room* is for the before-images of the file, *draws*
    decides by chance.
    """

    def __init__(self, sector: int, room: Room, draws: random.Random, budget: Budget) -> None:
        self.flushing: list[int] = []
        """The numbers of flushes that are under way."""
        self.keeps_too_many = False
        """Whether a sector has more than `KEPT_AT_MOST`."""
        self._sector = sector
        self._room = room
        self._draws = draws
        self._budget = budget

    def takes(self, chunk: Chunk, sectors: int = 1) -> bool:
        """Whether what one more write to *sectors* of a chunk overwrites becomes a sample."""
        chunk.rewrites = count = chunk.rewrites + 1
        if self._budget.left <= 0:
            return False
        if sectors >= WIDE:
            return self._draws.random() * count < WIDE_SAVED
        return count <= REWRITES_SAVED or self._draws.random() * count < REWRITES_SAVED

    def add(self, chunk: Chunk, at: int, sample: Sample) -> None:
        """Add a sample of the sector *at*, in the place of another one if there are many."""
        samples = chunk.samples.setdefault(at, [])
        if not self._is_needed(sample):
            loose = [n for n, it in enumerate(samples) if not self._is_needed(it)]
            if len(loose) >= SAMPLES:
                self.drop_place(samples.pop(self._draws.choice(loose)).place)
                self._budget.left += 1
        elif len(samples) > KEPT_AT_MOST:
            self.keeps_too_many = True
        samples.append(sample)
        self._budget.left -= 1

    def drop(self, chunk: Chunk, at: int, is_useless: Callable[[Sample], bool]) -> None:
        """Drop those samples of a sector that are useless."""
        samples = chunk.samples.get(at)
        if samples is None:
            return
        left = []
        for sample in samples:
            if is_useless(sample):
                self.drop_place(sample.place)
            else:
                left.append(sample)
        self._budget.left += len(samples) - len(left)
        if left:
            chunk.samples[at] = left
        else:
            del chunk.samples[at]

    def take_out(self, chunk: Chunk, at: int, sample: Sample) -> None:
        """Take a sample out of those of its sector; its place stays in use."""
        samples = chunk.samples[at]
        samples.remove(sample)
        self._budget.left += 1
        if not samples:
            del chunk.samples[at]

    def drop_all(self, chunk: Chunk) -> None:
        """Forget all samples of a chunk, whose room is given back otherwise."""
        for samples in chunk.samples.values():
            self._budget.left += len(samples)

    def let_go(self, chunk: Chunk, number: int) -> None:
        """Note that samples which were overwritten up to *number* need not be kept any more."""
        for at, samples in chunk.samples.items():
            chunk.samples[at] = [it._replace(kept=it.kept and it.end > number) for it in samples]

    def drop_place(self, place: int) -> None:
        """Give the room of one sector back."""
        if place != ZEROES:
            self._room.drop(place, self._sector)

    def _is_needed(self, sample: Sample) -> bool:
        """Whether a sample must stay: for a truncate, or for a flush that is under way."""
        return sample.kept or any(sample.begin <= it < sample.end for it in self.flushing)
