"""A small disk for the histories of a file: SRC, the undo log, and a naive model of what may be
lost, which keeps every state that the file was ever in."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from throttlefs.device.volatile.contents import Choice, Contents
from throttlefs.device.volatile.picking import Restore
from throttlefs.device.volatile.samples import ZEROES

SECTOR = 4
KEY = (1, 2)


class Numbers:
    """A journal that only counts."""

    def __init__(self) -> None:
        self.latest = 0
        self.final = 0

    @property
    def newest(self) -> int:
        return self.latest

    def tick(self) -> int:
        self.latest += 1
        return self.latest

    def note(self, key: tuple[int, int], seq: int) -> None:
        assert 0 < seq <= self.latest

    def commit(self, key: tuple[int, int], upto: int) -> None:
        self.final = max(self.final, upto)

    def committed(self, key: tuple[int, int]) -> int:
        return self.final


@dataclass
class Limit:
    """The choice of names, for the only file."""

    number: int

    def limit_of(self, key: tuple[int, int]) -> int:
        return self.number


def all_restores(contents: Contents, choice: Choice, rng: random.Random) -> list[Restore]:
    """What a power cut leaves, chosen at one go."""
    return [one for one in contents.choose(choice, rng) if one is not None]


@dataclass
class State:
    """What the file was like after the change *number*."""

    number: int
    data: bytes
    zeroed: frozenset[int] = frozenset()
    """The sectors that the change made zeroes, in whole or in part."""
    size: int = SECTOR
    """Bytes of a sector."""

    def sector(self, at: int) -> bytes:
        return self.data[at * self.size : (at + 1) * self.size].ljust(self.size, b"\0")


@dataclass
class Model:
    """Every state of the file, and from which one on each sector must survive."""

    states: list[State]
    sizes: list[tuple[int, int]] = field(default_factory=list)
    barriers: list[int] = field(default_factory=list)
    floors: dict[int, int] = field(default_factory=dict)
    lost_until: int = 0
    sectors: int = 0

    def flushed(self, number: int) -> None:
        """All that was there at *number* must survive, but for what a failed flush has lost."""
        for at in range(self.sectors):
            made = max(self._changes_of(at, number), default=0)
            if made > self.lost_until or not made:
                self.floors[at] = max(self.floors.get(at, 0), number)

    def _changes_of(self, at: int, until: int) -> list[int]:
        return [
            state.number
            for before, state in zip(self.states, self.states[1:], strict=False)
            if state.number <= until
            and (before.sector(at) != state.sector(at) or at in state.zeroed)
        ]

    def allowed(self, at: int, limit: int) -> list[bytes]:
        """The contents that the sector *at* may have if changes up to *limit* survive."""
        floor = self.floors.get(at, 0)
        floor = max([floor, *(it for it in self.barriers if it <= limit)])
        until = 1 << 62
        for state in self.states:
            if at in state.zeroed:
                if state.number <= limit:
                    floor = max(floor, state.number)
                else:
                    until = min(until, state.number)
        first = max(n for n, state in enumerate(self.states) if state.number <= floor)
        return [state.sector(at) for state in self.states[first:] if state.number < until]

    def size_at(self, limit: int) -> int:
        return [size for number, size in self.sizes if number <= limit][-1]


class World:
    """A file of a few sectors on a disk that may lose what was not flushed."""

    def __init__(
        self,
        data: bytes,
        sectors: int,
        seed: int = 0,
        key: tuple[int, int] = KEY,
        contents: Contents | None = None,
    ) -> None:
        """*contents*: those of the disk that the file is on; without, it is alone."""
        self.key = key
        self.contents = contents or Contents(Numbers(), SECTOR, seed)
        self.numbers: Any = self.contents.journal
        self.history = self.contents.history(key, len(data))
        self.src = data
        self.log: dict[int, bytes] = {}
        self.model = Model([State(0, data)], [(0, len(data))], sectors=sectors)
        self.flushes: list[int] = []

    # -- changes ---------------------------------------------------------------------------

    def _save(self, runs: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
        saved = []
        for first, count in runs:
            for sector, length, place in self.history.take_room(first, count):
                for n in range(length):
                    at = sector + n
                    old = self.src[at * SECTOR : (at + 1) * SECTOR].ljust(SECTOR, b"\0")
                    self.log[place + n * SECTOR] = old
                saved.append((sector, length, place))
        result = []
        for run in saved:  # what is all zeroes costs nothing
            sector, length, place = run
            if not any(b"".join(self.log[place + n * SECTOR] for n in range(length))):
                self.history.give_back([run])
                run = (sector, length, ZEROES)
            result.append(run)
        return result

    def write(self, offset: int, data: bytes, *, one: bool = False, durable: bool = False) -> None:
        """Write to the file; *one*: by the way of writes to one sector, if it is to one."""
        first, end = offset // SECTOR, -(-(offset + len(data)) // SECTOR)
        number = self.numbers.tick()
        if one and end - first == 1:
            place = None
            if self.history.must_save(first):
                ((_, _, place),) = self._save([(first, 1)])
            self.history.write_one(number, first, place)
        else:
            self.history.write(number, first, end, self._save(self.history.to_save(first, end)))
        old = self.src.ljust(offset, b"\0")
        self.src = old[:offset] + data + old[offset + len(data) :]
        self._changed(number)
        if durable:
            if self.history.operations:
                self._make_final(self.numbers.newest)
            self.history.flush_range(number, first, end, self.numbers.committed(self.key))
            for at in range(first, end):
                self.model.floors[at] = number

    def truncate(self, size: int) -> None:
        if size < len(self.src):
            self._zero(size, None, size)
        elif size > len(self.src):
            self.src = self.src.ljust(size, b"\0")
            self._changed(self.numbers.tick())

    def punch(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.src))
        if offset < end:
            self._zero(offset, end if end < len(self.src) else offset + length, len(self.src))

    def _zero(self, start: int, end: int | None, size: int) -> None:
        stop = len(self.src) if end is None else min(end, len(self.src))
        touched = range(start // SECTOR, -(-stop // SECTOR))
        with_data = [at for at in touched if any(self.src[at * SECTOR : (at + 1) * SECTOR])]
        saved = self._save([(at, 1) for at in with_data])
        number = self.numbers.tick()
        self.history.zero(number, start, end, saved)
        self.src = (self.src[:start] + bytes(stop - start) + self.src[stop:])[:size]
        last = self.model.sectors if end is None else -(-end // SECTOR)
        self._changed(number, frozenset(range(start // SECTOR, last)))

    def _changed(self, number: int, zeroed: frozenset[int] = frozenset()) -> None:
        if len(self.src) != self.history.size:
            # A write takes its number when it begins, the size its own when SRC has it.
            sized = number if zeroed else self.numbers.tick()
            self.history.resize(sized, len(self.src))
            self.numbers.note(self.key, sized)
            self.model.sizes.append((sized, len(self.src)))
        if zeroed:
            self.numbers.note(self.key, number)
        self.model.states.append(State(number, self.src, zeroed))
        self.contents.tidy(self.key, self.history)

    def barrier(self) -> None:
        number = self.numbers.tick()
        self.numbers.note(self.key, number)
        self.contents.barrier(self.key, number)
        self.model.barriers.append(number)

    # -- flushes ---------------------------------------------------------------------------

    def begin_flush(self) -> None:
        number = self.numbers.tick()
        self.history.begin_flush(number)
        self.flushes.append(number)

    def end_flush(self, which: int, failure: str | None = None) -> None:
        """End one of the flushes under way; *failure*: dirty or clean, None if it succeeds."""
        if not self.flushes:
            return
        number = self.flushes.pop(which % len(self.flushes))
        if failure is None:
            self.history.end_flush(number)
            self.model.flushed(number)
            self._make_final(number)
        else:
            was_dirty = bool(self.history.chunks)
            self.history.fail_flush(number, stays_dirty=failure == "dirty")
            if failure == "clean" and was_dirty:
                self.model.lost_until = max(self.model.lost_until, number)

    def write_back(self) -> int:
        """Let the file become durable by itself, if no flush is under way; returns up to where."""
        number = max(self.model.states[-1].number, self.model.sizes[-1][0])
        if self.flushes:
            return 0
        self.contents.write_back(self.key)
        self.model.flushed(number)
        return number

    def _make_final(self, number: int) -> None:
        self.numbers.commit(self.key, number)

    # -- power cuts ------------------------------------------------------------------------

    def cut(self, seed: int) -> tuple[bytes, int, Restore | None]:
        """What a cut leaves of the file, the limit that it drew, and how."""
        rng = random.Random(seed)
        limit = rng.randint(self.numbers.committed(self.key), self.numbers.newest)
        restores = all_restores(self.contents, Limit(limit), rng)
        restore = restores[0] if restores else None
        return self.restored(restore), limit, restore

    def restored(self, restore: Restore | None) -> bytes:
        """What *restore* makes of the file."""
        data = self.src
        if restore is None:
            return data
        if restore.size is not None:
            data = data[: restore.size].ljust(restore.size, b"\0")
        for offset, length, place in restore.pieces:
            piece = bytes(length)
            if place != ZEROES:
                count = -(-length // SECTOR)
                piece = b"".join(self.log[place + n * SECTOR] for n in range(count))[:length]
            assert offset + length <= len(data)
            data = data[:offset] + piece + data[offset + length :]
        return data

    def check_cut(self, seed: int) -> bytes:
        """Cut the power, and compare what is left with what the model allows; returns it."""
        data, limit, restore = self.cut(seed)
        self.check(data, limit)
        common = min(len(data), len(self.src))
        if data[:common] != self.src[:common]:
            assert restore is not None
            assert restore.lost > 0
        return data

    def check(self, data: bytes, limit: int) -> None:
        """Compare what a cut has left with what the model allows."""
        assert len(data) == self.model.size_at(limit)
        for at in range(-(-len(data) // SECTOR)):
            found = data[at * SECTOR : (at + 1) * SECTOR]
            allowed = [it[: len(found)] for it in self.model.allowed(at, limit)]
            assert found in allowed, (at, found, allowed, limit)

    def check_room(self) -> None:
        """The log holds what versions refer to, and nothing else; files without versions none."""
        used = []
        for chunk in self.history.chunks.values():
            for last, place in zip(chunk.table[64:128], chunk.table[128:], strict=True):
                if last and place != ZEROES:
                    used.append(place)
            for samples in chunk.samples.values():
                used += [it.place for it in samples if it.place != ZEROES]
        assert len(set(used)) == len(used)
        assert sum(self.history.room.needed.values()) == len(used) * SECTOR
        changed = sum(chunk.changed() for chunk in self.history.chunks.values())
        assert self.history.changed == changed
