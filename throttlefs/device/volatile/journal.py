"""The journal: which changes of names, sizes and attributes a power cut may take back.

Every change has a number, in one order for the mount. A commit makes changes durable, and the
journal forgets them. `choose` draws what a cut leaves of the others.

``names=ordered`` is what ext4 and XFS do: what survives is a prefix of the order, and every commit
takes all earlier changes with it. With ``names=posix`` each slot goes back to one of its versions,
each inode to one of its own; a commit of a directory is for its slots, one of a file for its own
attributes and sizes. As no tree of directories must fall apart, all slots of directories share one
prefix as soon as one of them has been moved.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, TypeVar

from .keys import FileKey
from .names import AttributeValues, Change, Named, Slot, SlotChange

_K = TypeVar("_K")

MOST_CHANGES: Final = 100_000
"""With so many changes the older half is committed: a disk does not wait for ever, either."""

MOST_SIZE: Final = 64 << 20
"""With so many bytes in paths and extended attributes (`Change.size`), too."""


class Choice:
    """What a power cut leaves of the changes that were not committed.

    ``now`` and ``then`` have the slots that change, as they are and as they are to be; ``values``
    the attributes that go back; ``undone`` all that is taken back, in its order.
    """

    def __init__(self, limit: int, limits: Mapping[FileKey, int]) -> None:
        self._limit = limit
        self._limits = limits
        self.now: dict[Slot, Named | None] = {}
        self.then: dict[Slot, Named | None] = {}
        self.values: dict[FileKey, dict[str | bytes, object]] = {}
        self.undone: list[Change] = []

    def limit_of(self, key: FileKey) -> int:
        """The number up to which the sizes, truncates and attributes of the inode survive."""
        return self._limits.get(key, self._limit)

    def undo(self, change: Change, slots: Iterable[SlotChange], *, attributes: bool) -> None:
        """Take *slots* of *change* back, and its *attributes*; call it in the order of changes."""
        for one in slots:
            self.then.setdefault(one.slot, one.before)
            self.now[one.slot] = one.after
        if attributes and change.key is not None:
            values = self.values.setdefault(change.key, {})
            for name, value in change.before.items():
                values.setdefault(name, value)
        self.undone.append(change)

    def leave_names(self, slots: Collection[Slot] | None = None) -> None:
        """Let *slots* be as they are; None: all of them."""
        for slot in list(self.then) if slots is None else slots:
            self.then.pop(slot, None)
            self.now.pop(slot, None)


class Journal:
    """See the module. *ordered* says which of the two orders of names holds."""

    def __init__(
        self, *, ordered: bool, most_changes: int = MOST_CHANGES, most_size: int = MOST_SIZE
    ) -> None:
        self._ordered = ordered
        self._most_changes = most_changes
        self._most_size = most_size
        self._size = 0
        self._newest = 0
        self._floor = 0  # all changes up to this are committed
        self._changes: dict[int, Change] = {}  # in their order
        self._noted: dict[FileKey, int] = {}  # the newest own change of each inode (posix)
        self._committed: dict[FileKey, int] = {}  # by the commits of that inode alone (posix)
        self._slots: dict[FileKey, dict[Slot, set[int]]] = {}  # by directory (posix)
        self._own: dict[FileKey, set[int]] = {}  # changes of attributes (posix)
        self._tree: dict[Slot, int] = {}  # how many changes of directories a slot has (posix)
        self._at: dict[FileKey, Slot] = {}  # the last slot that files came into (posix)
        self._kept: dict[FileKey, int] = {}
        self._freed: list[FileKey] = []
        self.committed_some: Callable[[], None] = lambda: None
        """Called after each commit that has made changes durable."""

    def __len__(self) -> int:
        """How many changes are not committed, sizes aside."""
        return len(self._changes)

    @property
    def newest(self) -> int:
        """The number of the newest change."""
        return self._newest

    # -- what happens ----------------------------------------------------------------------

    def tick(self) -> int:
        """The number of one more change or write."""
        self._newest += 1
        return self._newest

    def note(self, key: FileKey, seq: int) -> None:
        """Note that *seq* is a size, a truncate or a barrier of the inode *key*."""
        if not self._ordered:
            self._noted[key] = seq

    def rename(self, words: Sequence[str], slots: Sequence[SlotChange]) -> int:
        """Note a change of names, whatever it was; returns its number."""
        change = Change(self.tick(), words, slots)
        for one in slots:
            if one.before is not None:
                self._kept[one.before.key] = self._kept.get(one.before.key, 0) + 1
            if not self._ordered:
                self._move(one)
                of_directory = self._slots.setdefault(one.slot.directory, {})
                of_directory.setdefault(one.slot, set()).add(change.seq)
                if one.is_of_directory:
                    self._tree[one.slot] = self._tree.get(one.slot, 0) + 1
        return self._add(change)

    def _move(self, one: SlotChange) -> None:
        if one.before is not None and self._at.get(one.before.key) == one.slot:
            del self._at[one.before.key]
        if one.after is not None:
            self._at[one.after.key] = one.slot

    def set_attributes(self, words: Sequence[str], key: FileKey, before: AttributeValues) -> int:
        """Note that attributes of the inode *key* have changed, which were *before*."""
        change = Change(self.tick(), words, key=key, before=before)
        if not self._ordered:
            self._own.setdefault(key, set()).add(change.seq)
            self._noted[key] = change.seq
        return self._add(change)

    def _add(self, change: Change) -> int:
        self._changes[change.seq] = change
        self._size += change.size
        if len(self._changes) > self._most_changes or self._size > self._most_size:
            self.commit_all(next(islice(self._changes, len(self._changes) // 2, None)))
        return change.seq

    # -- what is durable -------------------------------------------------------------------

    def commit(self, key: FileKey, upto: int) -> None:
        """Note that an fsync of the inode *key* has made changes up to *upto* durable."""
        before = len(self._changes)
        if self._ordered:
            self._commit_up_to(upto)
        else:
            self._commit_own(key, upto)
        if before and (self._freed or not self._changes):
            self.committed_some()

    def _commit_own(self, key: FileKey, upto: int) -> None:
        self._committed[key] = max(upto, self._committed.get(key, 0))
        if self._noted.get(key, upto + 1) <= upto:
            del self._noted[key]
        for seq in [seq for seq in self._own.get(key, ()) if seq <= upto]:
            self._drop(self._changes[seq], lambda _: False, attributes=True)
        self._commit_slots(key, upto)
        if len(self._committed) > self._most_changes:
            self._commit_up_to(sorted(self._committed.values())[len(self._committed) // 2])

    def committed(self, key: FileKey) -> int:
        """The number up to which sizes of the inode *key* are durable."""
        return max(self._floor, self._committed.get(key, 0))

    def commit_all(self, upto: int | None = None) -> None:
        """Note that all changes so far, or those up to *upto*, are durable."""
        self._commit_up_to(self._newest if upto is None else upto)
        self.committed_some()

    def needs(self, key: FileKey) -> bool:
        """Whether a cut may give the file a name back."""
        return key in self._kept

    def mentioned(self) -> set[FileKey]:
        """The directories in which names may go back, and the files whose attributes may."""
        found = {one.slot.directory for change in self._changes.values() for one in change.slots}
        found |= {self._at[key].directory for key in self._kept if key in self._at}
        return found | {change.key for change in self._changes.values() if change.key is not None}

    def files(self) -> set[FileKey]:
        """All files whose names or attributes a cut may take back, and the directories of these."""
        found = set()
        for change in self._changes.values():
            if change.key is not None:
                found.add(change.key)
            for one in change.slots:
                found.add(one.slot.directory)
                found.update(named.key for named in (one.before, one.after) if named is not None)
        return found

    def whereabouts(self) -> dict[FileKey, Slot]:
        """A slot of each file that has got a name lately, as it is today.

        Also of one whose name is durable there, but may come back elsewhere.
        """
        now = {one.slot: one.after for change in self._changes.values() for one in change.slots}
        found = {named.key: slot for slot, named in now.items() if named is not None}
        return found | {key: self._at[key] for key in self._kept if key in self._at}

    def freed(self) -> list[FileKey]:
        """The files that no cut gives a name back to any more, since the last call.

        They may have other names, and may come back into the journal later.
        """
        freed = [key for key in self._freed if key not in self._kept]
        self._freed = []
        return freed

    def forget(self, key: FileKey) -> None:
        """Forget what is known of the sizes of the inode *key*, which is gone for good."""
        self._noted.pop(key, None)
        self._committed.pop(key, None)

    def _commit_up_to(self, upto: int) -> None:
        self._floor = max(self._floor, upto)
        while self._changes:
            change = next(iter(self._changes.values()))
            if change.seq > upto:
                break
            self._drop(change, lambda _: True, attributes=True)
        for known in (self._noted, self._committed):
            for key in [key for key, seq in known.items() if seq <= upto]:
                del known[key]

    def _commit_slots(self, directory: FileKey, upto: int) -> None:
        """Commit the changes of the slots of *directory*, and with one of a directory its order."""
        floor = 0
        dropped = []
        for slot, seqs in self._slots.get(directory, {}).items():
            done = [seq for seq in seqs if seq <= upto]
            dropped += [(slot, seq) for seq in done]
            if done and slot in self._tree and self._has_moved_directory():
                floor = max(floor, *done)
        # Once a directory was moved, no change of directories survives without the earlier ones.
        dropped += [
            (slot, seq)
            for slot in (self._tree if floor else ())
            for seq in self._slots[slot.directory][slot]
            if seq <= floor
        ]
        for slot, seq in dropped:
            if (change := self._changes.get(seq)) is not None:
                self._drop(change, lambda one, slot=slot: one.slot == slot, attributes=False)  # type: ignore[misc]

    def _drop(
        self, change: Change, is_dropped: Callable[[SlotChange], bool], *, attributes: bool
    ) -> None:
        """Forget a part of *change*, and all of it if nothing is left."""
        kept = []
        for one in change.slots:
            if is_dropped(one):
                self._let_go(change, one)
            else:
                kept.append(one)
        change.slots = kept
        if attributes and change.key is not None:
            if not self._ordered:
                _discard(self._own, change.key, change.seq)
            change.key = None
        if not kept and change.key is None:
            del self._changes[change.seq]
            self._size -= change.size

    def _let_go(self, change: Change, one: SlotChange) -> None:
        if one.after is not None and one.after.key not in self._kept:
            self._at.pop(one.after.key, None)
        if one.before is not None:
            key = one.before.key
            self._kept[key] -= 1
            if not self._kept[key]:
                del self._kept[key]
                self._at.pop(key, None)
                self._freed.append(key)
        if self._ordered:
            return
        slots = self._slots[one.slot.directory]
        _discard(slots, one.slot, change.seq)
        if not slots:
            del self._slots[one.slot.directory]
        if one.is_of_directory:
            self._tree[one.slot] -= 1
            if not self._tree[one.slot]:
                del self._tree[one.slot]

    # -- what a cut leaves -----------------------------------------------------------------

    def choose(self, rng: random.Random) -> Choice:
        """Draw what survives of all that is not committed."""
        if not self._ordered:
            return self._choose_slots(rng)
        limit = _draw(rng, self._floor, self._newest, list(self._changes))
        choice = Choice(limit, {})
        for seq, change in self._changes.items():
            if seq > limit:
                choice.undo(change, change.slots, attributes=True)
        return choice

    def _choose_slots(self, rng: random.Random) -> Choice:
        limits = {
            key: _draw(rng, self.committed(key), seq, sorted(self._own.get(key, ())))
            for key, seq in self._noted.items()
        }
        until = self._slot_limits(rng)
        choice = Choice(self._newest, limits)
        for seq, change in self._changes.items():
            slots = [one for one in change.slots if seq > until[one.slot]]
            attributes = change.key is not None and seq > choice.limit_of(change.key)
            if slots or attributes:
                choice.undo(change, slots, attributes=attributes)
        return choice

    def _slot_limits(self, rng: random.Random) -> dict[Slot, int]:
        """For each slot the number of the change that it goes back to."""
        changes = {slot: seqs for slots in self._slots.values() for slot, seqs in slots.items()}
        until = {slot: rng.choice([0, *sorted(seqs)]) for slot, seqs in changes.items()}
        if self._has_moved_directory():
            seqs = sorted({change.seq for change in self._tree_changes()})
            together = rng.choice([0, *seqs])
            until.update(dict.fromkeys(self._tree, together))
        return until

    def _has_moved_directory(self) -> bool:
        return any(change.moves_directory for change in self._tree_changes())

    def _tree_changes(self) -> Iterator[Change]:
        """The changes of all slots in which directories come or go."""
        for slot in self._tree:
            for seq in self._slots[slot.directory][slot]:
                yield self._changes[seq]


def _discard(sets: dict[_K, set[int]], key: _K, seq: int) -> None:
    """Take *seq* out of a set, and the set away if nothing is left in it."""
    sets[key].discard(seq)
    if not sets[key]:
        del sets[key]


def _draw(rng: random.Random, floor: int, newest: int, changes: Sequence[int]) -> int:
    """A limit between *floor* and *newest*: often one of the ends, or just at one of *changes*.

    Most numbers are those of writes. Without this, few cuts would fall between two names.
    """
    kind = rng.random()
    if kind < 0.15:
        return newest
    if kind < 0.3:
        return floor
    if kind < 0.7 and changes:
        return max(floor, rng.choice(changes) - rng.randrange(2))
    return rng.randint(floor, newest)
