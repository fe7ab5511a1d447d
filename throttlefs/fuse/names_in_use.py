"""The inodes that a power cut has to find, whatever the kernel forgets, and when they changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from throttlefs.device.volatile.names import SlotChange
from throttlefs.device.volatile.steps import Place
from throttlefs.host.files import FileKey, clock_of_files

from .inode import Inode

_MANY: Final = 4096


class NamesInUse:
    """Holds inodes as if the kernel had looked them up once more.

    They are directories in which names have changed, those above them, and files with changed
    attributes. So renames are followed, and their descriptors can be opened again by name.
    """

    def __init__(self) -> None:
        self._held: dict[FileKey, Inode] = {}
        self._last_ns: dict[FileKey, int] = {}
        self._enough = _MANY
        self.has_grown: Callable[[], None] = lambda: None
        """Called when it is time to call `keep_only`."""

    def changed(self, inodes: Iterable[Inode], changes: Sequence[SlotChange]) -> None:
        """Note that *inodes* have just been changed, and the files of *changes*."""
        now = clock_of_files()
        for inode in inodes:
            self._last_ns[inode.key] = now
            for one in (inode, *inode.ancestry()):
                if one.parent is not None and one.key not in self._held:
                    self._held[one.key] = one
                    one.lookups += 1
        for change in changes:
            for named in (change.before, change.after):
                if named is not None:
                    self._last_ns[named.key] = now
        if self.has_too_many():
            self.has_grown()

    def touched(self, key: FileKey) -> None:
        """Note that the mount itself has just changed the file's links."""
        self._last_ns[key] = clock_of_files()

    def wrote(self, key: FileKey, when_ns: int) -> None:
        """Note when the file was last written to, if its names or attributes have changed."""
        if key in self._last_ns:
            self._last_ns[key] = max(when_ns, self._last_ns[key])

    def last_ns(self, key: FileKey) -> int:
        """When a name or attribute of the file was last changed (ns, the clock of files), or 0."""
        return self._last_ns.get(key, 0)

    def inode(self, key: FileKey) -> Inode | None:
        """The inode of that file, if it is held."""
        return self._held.get(key)

    def places(self) -> dict[FileKey, Place]:
        """Where the held inodes lie."""
        return {
            key: Place(inode.parent.key, inode.name)
            for key, inode in self._held.items()
            if inode.parent is not None
        }

    def has_too_many(self) -> bool:
        """Whether it is time to call `keep_only`."""
        return max(len(self._held), len(self._last_ns)) > self._enough

    def keep_only(
        self, keys: Collection[FileKey], may_change: Callable[[FileKey], bool]
    ) -> list[Inode]:
        """Hold only the inodes of *keys* and those above them; returns the others.

        The caller takes back one lookup of each. *may_change* says what a power cut may change:
        of other files it need not be known when they were changed.
        """
        kept: dict[FileKey, Inode] = {}
        for key in keys:
            inode = self._held.get(key)
            if inode is not None:
                kept.update((one.key, one) for one in inode.ancestry())
        others = [inode for key, inode in self._held.items() if key not in kept]
        self._held = kept
        self._last_ns = {key: ns for key, ns in self._last_ns.items() if may_change(key)}
        self._enough = max(_MANY, 2 * len(kept), 2 * len(self._last_ns))
        return others
