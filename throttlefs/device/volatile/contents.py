"""The histories of all files of a mount, and what a power cut leaves of them. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final, Protocol

from .extents import Extents, Room
from .history import FileHistory
from .keys import FileKey
from .picking import Restore, pick
from .samples import Budget

_CHUNKS_AT_ONCE: Final = 32
"""Choosing what is left of so many chunks takes some 2 ms."""


class Journal(Protocol):
    """Numbers all changes of a mount, and knows which of them are final."""

    def tick(self) -> int:
        """The number of the change that is beginning."""

    def note(self, key: FileKey, seq: int) -> None:
        """Note that *seq* is a change of the size of *key*, a truncate, punch or barrier."""

    def commit(self, key: FileKey, upto: int) -> None:
        """Note that changes of *key* up to *upto* are final."""

    def committed(self, key: FileKey) -> int:
        """The number up to which changes of *key* are final."""


class Choice(Protocol):
    """Which changes survive a power cut."""

    def limit_of(self, key: FileKey) -> int:
        """The number of the last change of the size of *key* that survives."""


class Contents:
    """The histories of files, by key.

    *sector* is the size of a sector in bytes. *seed* decides which versions become samples.
    """

    def __init__(self, journal: Journal, sector: int = 4096, seed: int = 0) -> None:
        self.journal = journal
        self.sector = sector
        self.extents = Extents()
        self._files: dict[FileKey, FileHistory] = {}
        self._draws = random.Random(seed)
        self._budget = Budget()

    # -- files -----------------------------------------------------------------------------

    def history(self, key: FileKey, size: int) -> FileHistory:
        """The history of the file *key*, which has *size* bytes in SRC; a new one if need be."""
        found = self._files.get(key)
        if found is None:
            room = Room(self.extents)
            found = FileHistory(self.sector, size, room, self._draws, self._budget)
            self._files[key] = found
        return found

    def find(self, key: FileKey) -> FileHistory | None:
        """The history of the file *key*, if there is one."""
        return self._files.get(key)

    def drop_if_clean(self, key: FileKey) -> None:
        """Forget a file that nobody has open, if a power cut would lose nothing of it."""
        found = self._files.get(key)
        if found is not None and not found.is_dirty:
            self.forget(key)

    def forget(self, key: FileKey) -> None:
        """Forget a file, which is gone for good."""
        found = self._files.pop(key, None)
        if found is not None:
            found.forget()

    def last_ns(self, key: FileKey) -> int | None:
        """When the file was last written to through the mount (ns, the clock of files)."""
        found = self._files.get(key)
        return None if found is None else found.last_ns

    # -- what is not flushed ---------------------------------------------------------------

    def is_dirty(self, key: FileKey) -> bool:
        """Whether a power cut may lose or undo something of the file's contents."""
        found = self._files.get(key)
        return found is not None and found.is_dirty

    def dirty_keys(self) -> list[FileKey]:
        """The files of which it may."""
        return [key for key, history in self._files.items() if history.is_dirty]

    def dirty_bytes(self) -> int:
        """How many bytes it may lose at most."""
        return self.sector * sum(history.changed for history in self._files.values())

    def barrier(self, key: FileKey, seq: int) -> None:
        """Note that the data of the file as they are now reach the disk before *seq* does."""
        found = self._files.get(key)
        if found is not None and found.is_dirty:
            found.barrier(seq)
            self.tidy(key, found)

    def tidy(self, key: FileKey, history: FileHistory) -> None:
        """Let old changes become final if a history holds too many of them."""
        if history.needs_folding:
            self.journal.commit(key, history.operations.middle())
            history.fold(self.journal.committed(key))

    def write_back(self, key: FileKey) -> None:
        """Let what was written to a file become durable by itself, as some time on any disk.

        No change and no flush of it may be under way.
        """
        found = self._files.get(key)
        if found is not None:
            number = max(found.newest, found.operations.latest())
            found.begin_flush(number)
            found.end_flush(number)
            self.journal.commit(key, number)

    def all_flushed(self) -> None:
        """Note that everything that was written is durable. No write may be under way."""
        for history in self._files.values():
            history.forget()

    # -- a power cut -----------------------------------------------------------------------

    def choose(self, choice: Choice, rng: random.Random) -> Iterator[Restore | None]:
        """What a power cut leaves of each file, by the draws of *rng*.

        None comes every 2 ms or so: others may have a turn, and may even change files. Files of
        which a cut leaves everything are not named. They are drawn for in the order in which they
        were first changed: the same seed loses the same whatever their inode numbers are.
        """
        chunks = 0
        for key, history in list(self._files.items()):
            if not history.is_dirty:
                continue
            for restore in pick(key, history, choice.limit_of(key), rng):
                chunks += restore is None
                if restore is not None or chunks % _CHUNKS_AT_ONCE == 0:
                    yield restore

    def begin_anew(self) -> None:
        """Forget all files and their log: they are what SRC has."""
        self._files.clear()
        self.extents = Extents()
        self._budget = Budget()
