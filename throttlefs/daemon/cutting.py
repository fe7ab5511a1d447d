"""Works out one power cut: what it leaves, what has to be done to SRC, and what to say of it."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Final

import trio

from throttlefs.control.device_names import device_name
from throttlefs.device.volatile.contents import Contents
from throttlefs.device.volatile.journal import Journal
from throttlefs.device.volatile.names import Named, Slot
from throttlefs.device.volatile.picking import Restore
from throttlefs.device.volatile.steps import Place, route
from throttlefs.fuse.in_thread import RunInThread
from throttlefs.fuse.inodes import InodeTable
from throttlefs.fuse.names_in_use import NamesInUse
from throttlefs.host.files import FileKey
from throttlefs.host.stash import CANNOT_LINK, ELSEWHERE, Stash

from .cut_plan import CutPlan, FileToRestore, as_text, pack_values
from .finishing import SourceTree

_AT_ONCE: Final = 64
"""How many files are looked at together; each needs a descriptor meanwhile."""

_TICK_NS: Final = 10_000_000
"""How late the clock of files may be: a change by us has a ctime up to this much later."""


class Cut:
    """A power cut of the mount, drawn by *rng*.

    Requests may be under way only while it is looked at, as a dry run does.

    *root_fd* is the directory that paths are relative to: SRC, or where it lies if it is one file.
    """

    def __init__(
        self,
        journal: Journal,
        contents: Contents,
        in_use: NamesInUse,
        stash: Stash,
        inodes: InodeTable,
        root_fd: int,
        rng: random.Random,
    ) -> None:
        self._contents = contents
        self._in_use = in_use
        self._stash = stash
        self._inodes = inodes
        self._root_fd = root_fd
        self._rng = rng
        self.choice = journal.choose(rng)
        self.restores: dict[FileKey, Restore] = {}
        self.not_rolled_back: list[str] = []
        self._places: dict[FileKey, Place] = {
            key: place for key, place in in_use.places().items() if key not in stash.keys
        }
        found_at = journal.whereabouts()
        self._slot_of = {
            named.key: found_at[named.key] for named in self._named() if named.key in found_at
        }
        self._stats: dict[FileKey, os.stat_result] = {}
        self._links: dict[FileKey, int] = {}  # how many names files have, but the hidden one
        self._unsure: set[FileKey] = set()  # directories that are not where they were seen

    def _named(self) -> Iterator[Named]:
        """All files whose names change."""
        for slots in (self.choice.now, self.choice.then):
            yield from (named for named in slots.values() if named is not None)

    # -- looking at SRC --------------------------------------------------------------------

    async def prepare(self, in_thread: RunInThread, *, link: bool) -> None:
        """Draw for contents, look at all files concerned, and leave those changed in SRC alone.

        With *link* the others get a link in the hidden directory. Raises `OSError`.
        """
        for restore in self._contents.choose(self.choice, self._rng):
            if restore is None:
                await trio.lowlevel.checkpoint()
            else:
                self.restores[restore.key] = restore
        keys = [*self.restores, *(key for key in self.choice.values if key not in self.restores)]
        for start in range(0, len(keys), _AT_ONCE):
            with ExitStack() as stack:
                pairs = []
                for key in keys[start : start + _AT_ONCE]:
                    inode = self._inodes.find(key) or self._in_use.inode(key)
                    if inode is None:
                        continue
                    try:
                        pairs.append((key, stack.enter_context(self._inodes.pinned(inode))))
                    except OSError:
                        pass  # it was removed or replaced in SRC
                await in_thread(self._look_at, pairs, link)
        await in_thread(self._look_at_slots, link)
        self._leave_changed()

    def _look_at(self, pairs: Iterable[tuple[FileKey, int]], link: bool) -> None:
        for key, fd in pairs:
            st = os.fstat(fd)
            self._note(key, st)
            if not link or stat.S_ISDIR(st.st_mode) or key in self._stash.keys:
                continue
            if not self._is_changed(key):
                try:
                    self._stash.keep_open(fd, key)
                except OSError as exc:
                    # It can be found by its path, or it has no name at all.
                    if exc.errno not in (*CANNOT_LINK, ELSEWHERE, errno.ENOENT):
                        raise

    def _look_at_slots(self, link: bool) -> None:
        tree = SourceTree(self._root_fd, self._stash)
        by_directory: dict[FileKey, list[tuple[Slot, Named]]] = {
            slot.directory: [] for slot in self.choice.then
        }
        for named in self._named():
            slot = self._slot_of.get(named.key)
            if slot is not None:
                by_directory.setdefault(slot.directory, []).append((slot, named))
            elif named.key in self._stash.keys:
                self._note(named.key, self._stash.stat(named.key))
        paths = route(self._inodes.root.key, self._places, {}, {}, by_directory).paths
        try:
            for directory, files in by_directory.items():
                if directory in self._stash.keys:
                    continue  # it was removed, and is empty
                fd = tree.open(paths[directory], directory)
                if fd is None:
                    self._unsure.add(directory)
                    continue
                for slot, named in files:
                    self._look_in(fd, slot.name, named, link)
        finally:
            tree.close()

    def _look_in(self, directory: int, name: bytes, named: Named, link: bool) -> None:
        key = named.key
        if key in self._stats:
            return
        try:
            st = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if (st.st_dev, st.st_ino) != key:
            return
        self._note(key, st)
        if link and not named.is_directory and not self._is_changed(key):
            try:
                self._stash.keep(directory, name, key)
            except OSError as exc:
                if exc.errno not in (*CANNOT_LINK, ELSEWHERE):  # else it is moved in its turn
                    raise

    def _note(self, key: FileKey, st: os.stat_result) -> None:
        if key not in self._stats:
            self._stats[key] = st
            self._links[key] = st.st_nlink - (key in self._stash.keys)

    def _is_changed(self, key: FileKey) -> bool:
        """Whether somebody has changed the file in SRC itself since we did."""
        last = max(self._in_use.last_ns(key), self._contents.last_ns(key) or 0)
        return bool(last) and self._stats[key].st_ctime_ns > last + _TICK_NS

    def _leave_changed(self) -> None:
        """Roll nothing back that was changed in SRC, nor names that hang together with it."""
        choice = self.choice
        changed = {key for key in self._stats if self._is_changed(key)}
        self.not_rolled_back = sorted(self._path(key) for key in changed)
        for key in changed:
            self.restores.pop(key, None)
            choice.values.pop(key, None)
        directories = {named.key for named in self._named() if named.is_directory}
        if self._unsure or directories & changed:
            # A tree of directories of which some go back and some do not may fall apart.
            self.not_rolled_back += sorted(self._path(key) for key in self._unsure)
            choice.leave_names()
            return
        choice.leave_names(
            [
                slot
                for slot in choice.then
                for named in (choice.now[slot], choice.then[slot])
                if named is not None and named.key in changed
            ]
        )

    # -- what comes of it ------------------------------------------------------------------

    def gone(self) -> list[FileKey]:
        """The files, not directories, that lose their last name."""
        return [key for key, left in self._names_left().items() if not left and self._links[key]]

    def _names_left(self) -> dict[FileKey, bool]:
        """Whether each file concerned, not a directory, has a name afterwards."""
        names = dict(self._links)
        for slots, change in ((self.choice.now, -1), (self.choice.then, 1)):
            for named in slots.values():
                if named is not None and named.key in names:
                    names[named.key] += change
        return {
            key: count > 0
            for key, count in names.items()
            if not stat.S_ISDIR(self._stats[key].st_mode)
        }

    def plan(self, log: str) -> tuple[CutPlan, list[list[tuple[int, int, int]]]]:
        """What is to be done to SRC, with the pieces of each file. *log* is the undo log's path."""
        choice = self.choice
        names_left = self._names_left()
        plan = CutPlan(log)
        pieces = []
        for key, restore in self.restores.items():
            if not names_left.get(key):
                continue
            st = self._stats[key]
            inode = self._inodes.find(key)
            path = "" if inode is None else as_text(inode.path)
            times = (st.st_atime_ns, st.st_mtime_ns)
            plan.files.append(FileToRestore(key[1], path, restore.size, st.st_mode, *times))
            pieces.append(restore.pieces)
        known = [key for key in choice.values if key in self._stats]
        directories = [key for key in known if stat.S_ISDIR(self._stats[key].st_mode)]
        way = route(self._inodes.root.key, self._places, choice.now, choice.then, directories)
        plan.values = {key[1]: pack_values(choice.values[key]) for key in known}
        plan.paths = {key[1]: [as_text(path) for path in found] for key, found in way.paths.items()}
        plan.steps = [
            (
                kind,
                slot.directory[1],
                as_text(slot.name),
                named.key[1],
                named.is_directory,
            )
            for kind, slot, named in way.steps
        ]
        return plan, pieces

    def report(self, seed: int, *, dry_run: bool) -> dict[str, Any]:
        """What is lost, as ``x-throttlefs-power-cut`` returns it."""
        files = []
        names_left = self._names_left()
        for key in self.gone():
            size = self._stats[key].st_size if stat.S_ISREG(self._stats[key].st_mode) else 0
            if size:
                files.append(_lost(self._path(key), size, size, 0))
        for key, restore in self.restores.items():
            if names_left.get(key):
                st = self._stats[key]
                after = st.st_size if restore.size is None else restore.size
                files.append(_lost(self._path(key), restore.lost, st.st_size, after))
        files.sort(key=lambda one: str(one["file"]))
        choice = self.choice
        texts = [
            change.text()
            for change in choice.undone
            if change.key in choice.values or any(one.slot in choice.then for one in change.slots)
        ]
        return {
            "seed": seed,
            "dry-run": dry_run,
            "lost-bytes": sum(int(one["lost-bytes"]) for one in files),
            "undone-changes": len(texts),
            "files": files,
            "names": [device_name(os.fsencode(text)) for text in texts],
            "not-rolled-back": self.not_rolled_back,
        }

    def _path(self, key: FileKey) -> str:
        path = self._inodes.path_of(key)
        slot = self._slot_of.get(key)
        if path is None and slot is not None:
            directory = self._inodes.path_of(slot.directory)
            path = directory + b"/" + slot.name if directory else slot.name
        return device_name(path) if path is not None else f"inode {key[1]}"


def _lost(path: str, lost: int, size: int, after: int) -> dict[str, Any]:
    return {"file": path, "lost-bytes": lost, "size": size, "size-after": after}
