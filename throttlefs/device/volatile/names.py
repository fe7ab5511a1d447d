"""What the journal says of names: slots, what is in them, and changes of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .keys import FileKey


class Slot(NamedTuple):
    """A place for a file in a directory: its name there."""

    directory: FileKey
    name: bytes


class Named(NamedTuple):
    """The file in a slot."""

    key: FileKey
    is_directory: bool = False


class SlotChange(NamedTuple):
    """What a change does to one slot; None stands for an empty one."""

    slot: Slot
    before: Named | None
    after: Named | None

    @property
    def is_of_directory(self) -> bool:
        """Whether a directory leaves the slot or comes into it."""
        return bool(
            (self.before and self.before.is_directory) or (self.after and self.after.is_directory)
        )


AttributeValues = Mapping[str | bytes, Any]
"""Values of attributes: ``mode``, ``owner`` (uid, gid), ``atime`` and ``mtime`` (ns).

Bytes are the name of an extended attribute; it has bytes, or None where there is none.
"""


class Change:
    """One change of names, or of one inode's attributes, with its place in the order of all.

    *words* describe it: what was done, and the paths. ``size`` is that of what users can make long:
    the paths (characters) and the values of extended attributes (bytes).
    """

    __slots__ = ("before", "key", "seq", "size", "slots", "words")

    def __init__(
        self,
        seq: int,
        words: Sequence[str],
        slots: Sequence[SlotChange] = (),
        key: FileKey | None = None,
        before: AttributeValues | None = None,
    ) -> None:
        self.seq = seq
        self.words = words
        self.slots = list(slots)
        self.key = key
        self.before = before or {}
        values = sum(len(value) for value in self.before.values() if isinstance(value, bytes))
        self.size = values + sum(map(len, words))

    @property
    def moves_directory(self) -> bool:
        """Whether it gives a directory another place."""
        left = {one.before for one in self.slots if one.before and one.before.is_directory}
        return any(one.after in left for one in self.slots)

    def text(self) -> str:
        """The change in words."""
        verb, *paths = self.words
        return f"{verb} {' -> '.join(paths)}"
