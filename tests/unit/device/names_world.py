"""A tree of names in memory, on which programs work and power cuts happen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from throttlefs.device.volatile.journal import Choice, Journal
from throttlefs.device.volatile.keys import FileKey
from throttlefs.device.volatile.names import Named, Slot, SlotChange
from throttlefs.device.volatile.steps import Place, route, walk

ROOT: FileKey = (1, 1)

Picture = dict[Slot, Named]
"""Which file has each slot of a tree."""


class CutShortError(Exception):
    """The power cut itself was ended amid its steps."""


class World:
    """The tree; ``hidden`` has what was removed and may come back."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.folders: dict[FileKey, dict[bytes, Named]] = {ROOT: {}}
        self.hidden: dict[FileKey, Named] = {}
        self.actions_left = -1  # until a cut is ended; -1: never
        self._next = 10

    def new(self, *, directory: bool) -> Named:
        """A file that did not exist before; its number is never used again."""
        self._next += 1
        named = Named((1, self._next), directory)
        if directory:
            self.folders[named.key] = {}
        return named

    # -- what is there ---------------------------------------------------------------------

    def picture(self) -> Picture:
        """Every slot that can be reached from the root."""
        return dict(self._below(ROOT))

    def _below(self, key: FileKey) -> Iterator[tuple[Slot, Named]]:
        for name, named in self.folders[key].items():
            yield Slot(key, name), named
            if named.is_directory:
                yield from self._below(named.key)

    def directories(self) -> list[FileKey]:
        return [ROOT, *(named.key for named in self.picture().values() if named.is_directory)]

    def places(self) -> dict[FileKey, Place]:
        return {
            named.key: Place(*slot) for slot, named in self.picture().items() if named.is_directory
        }

    def is_below(self, key: FileKey, top: FileKey) -> bool:
        places = self.places()
        while key != top:
            if key not in places:
                return False
            key = places[key].parent
        return True

    # -- what programs do ------------------------------------------------------------------

    def change(self, verb: str, *values: tuple[Slot, Named | None]) -> None:
        """Set slots at once, and tell the journal."""
        changes = []
        for slot, after in values:
            before = self.folders[slot.directory].get(slot.name)
            changes.append(SlotChange(slot, before, after))
        for slot, before, after in changes:
            if after is None:
                del self.folders[slot.directory][slot.name]
            else:
                self.folders[slot.directory][slot.name] = after
            if before is not None and all(one.after != before for one in changes):
                self.hidden[before.key] = before
        self.journal.rename((verb, *(repr(slot.name) for slot, _ in values)), changes)

    def sweep(self) -> None:
        """Free what the journal does not need any more."""
        for key in self.journal.freed():
            self.hidden.pop(key, None)

    # -- a power cut -----------------------------------------------------------------------

    def cut(self, choice: Choice, interruptions: Sequence[int] = ()) -> list[object]:
        """Bring the tree to what *choice* leaves; it is ended after so many actions each time."""
        for named in [*choice.now.values(), *choice.then.values()]:
            if named is not None and not named.is_directory:
                self.hidden[named.key] = named
        steps = route(ROOT, self.places(), choice.now, choice.then)
        for actions in interruptions:
            self.actions_left = actions
            try:
                walk(steps, self)
            except CutShortError:
                pass
        self.actions_left = -1
        failed = walk(steps, self)
        self.hidden.clear()
        return list(failed)

    def _act(self) -> None:
        if self.actions_left == 0:
            raise CutShortError
        self.actions_left -= 1

    def open(self, paths: Sequence[bytes], key: FileKey) -> FileKey | None:
        return key if key in map(self._find, paths) else None

    def _find(self, path: bytes) -> FileKey | None:
        names = path.split(b"/") if path else []
        key = ROOT
        for name in names:
            named = self.folders[key].get(name)
            if named is None or not named.is_directory:
                return None
            key = named.key
        return key

    def key_in(self, folder: FileKey, name: bytes) -> FileKey | None:
        named = self.folders[folder].get(name)
        return None if named is None else named.key

    def take(self, folder: FileKey, name: bytes, named: Named) -> None:
        if not named.is_directory and named.key not in self.hidden:
            self._act()
            self.hidden[named.key] = named
        self._act()
        del self.folders[folder][name]
        self.hidden[named.key] = named

    def put(self, folder: FileKey, name: bytes, named: Named) -> bool:
        self._act()
        if named.key not in self.hidden:
            return False
        self.folders[folder][name] = named
        if named.is_directory:
            del self.hidden[named.key]
        return True


class Program:
    """Turns numbers into changes that a filesystem allows."""

    names = (b"a", b"b", b"c")

    def __init__(self, world: World) -> None:
        self.world = world
        self.unnamed: list[Named] = []  # open files without a name (O_TMPFILE, or unlinked)

    def step(self, kind: int, first: int, second: int, which: int) -> None:
        """Do one thing; nothing if it is not possible."""
        world = self.world
        directories = world.directories()
        old = Slot(directories[first % len(directories)], self.names[which % 3])
        new = Slot(directories[second % len(directories)], self.names[which // 3 % 3])
        source, target = self._in(old), self._in(new)
        if kind == 0:
            if source is None:
                world.change("create", (old, world.new(directory=False)))
        elif kind == 1:
            if source is None:
                world.change("mkdir", (old, world.new(directory=True)))
        elif kind == 2:
            self._remove(old, source)
        elif kind == 3:
            if source is not None and not source.is_directory and target is None:
                world.change("link", (new, source))
        elif kind == 4:
            self.unnamed.append(world.new(directory=False))
            if source is None:
                world.change("link", (old, self.unnamed[first % len(self.unnamed)]))
        elif kind == 5:
            if source and target and old != new and self._may_swap(source, new, target, old):
                world.change("exchange", (old, target), (new, source))
        elif self._may_move(source, new, target):
            world.change("rename", (old, None), (new, source))

    def _in(self, slot: Slot) -> Named | None:
        return self.world.folders[slot.directory].get(slot.name)

    def _remove(self, slot: Slot, named: Named | None) -> None:
        if named is None or (named.is_directory and self.world.folders[named.key]):
            return
        self.world.change("rmdir" if named.is_directory else "unlink", (slot, None))

    def _may_lie(self, named: Named, slot: Slot) -> bool:
        return not named.is_directory or not self.world.is_below(slot.directory, named.key)

    def _may_swap(self, source: Named, new: Slot, target: Named, old: Slot) -> bool:
        return self._may_lie(source, new) and self._may_lie(target, old)

    def _may_move(self, source: Named | None, new: Slot, target: Named | None) -> bool:
        if source is None or source == target or not self._may_lie(source, new):
            return False
        if target is not None and target.is_directory:
            return source.is_directory and not self.world.folders[target.key]
        return target is None or not source.is_directory
