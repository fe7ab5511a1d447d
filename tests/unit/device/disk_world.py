"""A whole disk in memory that loses power: names, contents, and the models of both."""

from __future__ import annotations

import random

from tests.unit.device.names_world import ROOT, Picture, Program
from tests.unit.device.names_world import World as Names
from tests.unit.device.volatile_world import SECTOR, all_restores
from tests.unit.device.volatile_world import World as File
from throttlefs.device.volatile.contents import Contents
from throttlefs.device.volatile.journal import Journal
from throttlefs.device.volatile.keys import FileKey
from throttlefs.device.volatile.names import Named, Slot

SECTORS = 6
SIZE = SECTORS * SECTOR


class _Names(Names):
    """Names that flush what a rename puts in the place of another file (auto_da_alloc)."""

    def __init__(self, journal: Journal, disk: Disk) -> None:
        super().__init__(journal)
        self._disk = disk

    def change(self, verb: str, *values: tuple[Slot, Named | None]) -> None:
        if verb == "rename":
            for slot, after in values:
                if after and not after.is_directory and slot.name in self.folders[slot.directory]:
                    self._disk.file(after.key).barrier()
        super().change(verb, *values)
        self._disk.note_names()


class Disk:
    """The disk. Every step is drawn from *rng*."""

    def __init__(self, rng: random.Random, *, ordered: bool) -> None:
        self.rng = rng
        self.ordered = ordered
        self.journal = Journal(ordered=ordered)
        self.contents = Contents(self.journal, SECTOR, rng.randrange(1 << 30))
        self.names = _Names(self.journal, self)
        self.program = Program(self.names)
        self.files: dict[FileKey, File] = {}
        self.pictures: list[tuple[int, Picture]] = [(0, {})]
        self.synced = 0  # a number up to which all names must survive (ordered)
        self.synced_of: dict[FileKey, int] = {}  # the same by inode (posix)
        self.cuts = 0
        self.lost = 0

    def file(self, key: FileKey) -> File:
        if key not in self.files:
            self.files[key] = File(b"", SECTORS, key=key, contents=self.contents)
        return self.files[key]

    def note_names(self) -> None:
        self.pictures.append((self.journal.newest, self.names.picture()))

    # -- steps -----------------------------------------------------------------------------

    def step(self) -> None:
        """Do one thing."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.4:
            which = rng.choice((0, 0, 1, 2, 3, 4, 5, 6, 6, 6))
            self.program.step(which, rng.randrange(9), rng.randrange(9), rng.randrange(9))
            return
        keys = [named.key for named in self.names.picture().values() if not named.is_directory]
        if not keys:
            return
        key = rng.choice(keys)
        file = self.file(key)
        if kind < 0.75:
            offset = rng.randrange(SIZE)
            data = bytes([rng.randrange(1, 256)]) * min(rng.randint(1, 14), SIZE - offset)
            is_durable = rng.random() < 0.05
            newest = self.journal.newest
            file.write(offset, data, one=rng.random() < 0.5, durable=is_durable)
            if is_durable and len(file.src) != file.model.size_at(newest):
                self._note_sync(key, self.journal.newest)
        elif kind < 0.82:
            file.truncate(rng.choice((0, rng.randrange(SIZE))))
        elif kind < 0.83:
            self._note_sync(key, file.write_back())
        elif kind < 0.85:
            file.punch(rng.randrange(SIZE), rng.randint(1, 14))
        elif kind < 0.9:
            file.begin_flush()
        elif kind < 0.97:
            if file.flushes:
                number = min(file.flushes)
                file.end_flush(file.flushes.index(number))
                self._note_sync(key, number)
        else:
            directory = rng.choice(self.names.directories())
            number = self.journal.tick()
            self.journal.commit(directory, number)
            self._note_sync(directory, number)

    def _note_sync(self, key: FileKey, number: int) -> None:
        self.synced = max(self.synced, number)
        self.synced_of[key] = max(number, self.synced_of.get(key, 0))
        for gone in self.journal.freed():
            named = self.names.hidden.pop(gone, None)
            if named is not None and not named.is_directory and not self._has_name(gone):
                self.contents.forget(gone)
                self.files.pop(gone, None)

    def _has_name(self, key: FileKey) -> bool:
        return any(named.key == key for named in self.names.picture().values())

    # -- power cuts ------------------------------------------------------------------------

    def cut(self) -> None:
        """Cut the power, compare with the models, and go on with what is left."""
        rng = self.rng
        choice = self.journal.choose(rng)
        restores = {it.key: it for it in all_restores(self.contents, choice, rng)}
        undone = bool(choice.then)
        assert self.names.cut(choice, [rng.randrange(9) for _ in range(rng.randrange(3))]) == []
        picture = self.names.picture()
        if self.ordered:
            limit = choice.limit_of(ROOT)
            assert limit >= self.synced
            assert picture == [it for number, it in self.pictures if number <= limit][-1]
        else:
            self._check_slots(picture)
        left: dict[FileKey, bytes] = {}
        for named in picture.values():
            if not named.is_directory and named.key in self.files:
                file, limit = self.files[named.key], choice.limit_of(named.key)
                assert limit >= self.synced_of.get(named.key, 0)
                left[named.key] = data = file.restored(restores.get(named.key))
                file.check(data, limit)
                self.lost += data != file.src
        self.lost += undone
        self.cuts += 1
        self._begin_anew(picture, left)

    def _check_slots(self, picture: Picture) -> None:
        """Each name in a directory is what it was at a moment since its directory was synced."""
        for slot in {slot for _, it in self.pictures for slot in it if slot.directory == ROOT}:
            synced = self.synced_of.get(slot.directory, 0)
            before = [it for number, it in self.pictures if number <= synced][-1:]
            since = [it for number, it in self.pictures if number > synced]
            assert picture.get(slot) in [it.get(slot) for it in (*before, *since)]

    def _begin_anew(self, picture: Picture, left: dict[FileKey, bytes]) -> None:
        self.contents.begin_anew()
        self.journal.commit_all()
        self.journal.freed()
        self.program.unnamed.clear()
        self.files = {
            key: File(data, SECTORS, key=key, contents=self.contents) for key, data in left.items()
        }
        for key, file in self.files.items():
            file.model.states[0].number = 0
            file.model.sizes[0] = (0, len(left[key]))
        self.pictures = [(0, picture)]
        self.synced = 0
        self.synced_of.clear()

    def run(self, steps: int, steps_a_cut: int) -> None:
        """Do *steps*, with a power cut after every *steps_a_cut* of them, more or less."""
        for _ in range(steps):
            self.step()
            if self.rng.random() * steps_a_cut < 1:
                self.cut()
        self.cut()
