"""The steps that lead from the names of today to those that a power cut leaves.

First every slot that changes is emptied (`TAKE`), the deepest directories first: a directory moves
into the hidden directory, a file has a link there already. Then the slots are filled from there
(`PUT`), the highest directories first. What is left in the hidden directory is gone.

So when a slot is emptied, its directory still lies where it lay, and when it is filled, the
directory has come to where it is to be. A step looks whether it has been done already, and knows
each directory by its inode. So the steps can be run again from the first one, after an end anywhere
amid them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

from .keys import FileKey
from .names import Named, Slot

TAKE: Final = "take"
PUT: Final = "put"


class Place(NamedTuple):
    """Where a directory lies today: its name in its parent. The root of the mount has none."""

    parent: FileKey
    name: bytes


class Step(NamedTuple):
    """Empties *slot*, or fills it, if the file in it is, or is to be, *named*."""

    kind: str
    slot: Slot
    named: Named


class Route(NamedTuple):
    """All steps, in their order, and where each directory that they name lies before and after.

    The paths are relative to SRC.
    """

    steps: list[Step]
    paths: dict[FileKey, list[bytes]]


Folder = TypeVar("Folder")


class Hands(Protocol[Folder]):
    """Does the steps in SRC."""

    def open(self, paths: Sequence[bytes], key: FileKey) -> Folder | None:
        """The directory *key*, which is at one of *paths*; None if it is at none of them."""

    def key_in(self, folder: Folder, name: bytes) -> FileKey | None:
        """Which file has the name."""

    def take(self, folder: Folder, name: bytes, named: Named) -> None:
        """Move it into the hidden directory; only remove the name if it is there already."""

    def put(self, folder: Folder, name: bytes, named: Named) -> bool:
        """Bring it back from the hidden directory; False if it is not there. A file stays there."""


class _Tree:
    """The directories as they are, or as they are to be."""

    def __init__(self, root: FileKey, places: Mapping[FileKey, Place | None]) -> None:
        self._root = root
        self._places = places

    def names(self, key: FileKey) -> list[bytes] | None:
        """The names that lead from the root to the directory; None if it lies nowhere."""
        names: list[bytes] = []
        seen = set()
        while key != self._root:
            place = self._places.get(key)
            if place is None or key in seen:
                return None
            seen.add(key)
            names.append(place.name)
            key = place.parent
        return names[::-1]


def route(
    root: FileKey,
    places: Mapping[FileKey, Place],
    now: Mapping[Slot, Named | None],
    then: Mapping[Slot, Named | None],
    others: Iterable[FileKey] = (),
) -> Route:
    """The steps that bring the slots from *now* to *then*.

    *places* says where directories lie today, those of all slots and all above them. One that has
    been removed is missing; it is in the hidden directory. The paths of *others*, which are
    directories, too, are told as well.
    """
    slots = [slot for slot in then if then[slot] != now[slot]]
    later: dict[FileKey, Place | None] = dict(places)
    for slot in slots:
        later.update(_place_of(now[slot], None))
    for slot in slots:
        later.update(_place_of(then[slot], Place(*slot)))
    before, after = _Tree(root, places), _Tree(root, later)
    paths: dict[FileKey, list[bytes]] = {}
    takes, puts = [], []
    for directory in {slot.directory: None for slot in slots} | dict.fromkeys(others):
        ways = before.names(directory), after.names(directory)
        known = [b"/".join(names) for names in ways if names is not None]
        paths[directory] = list(dict.fromkeys(known))
    for slot in slots:
        today, final = before.names(slot.directory), after.names(slot.directory)
        lies, comes = now[slot], then[slot]
        if lies is not None and today is not None:
            takes.append((-len(today), Step(TAKE, slot, lies)))
        if comes is not None and final is not None:
            puts.append((len(final), Step(PUT, slot, comes)))
    takes.sort(key=lambda one: one[0])
    puts.sort(key=lambda one: one[0])
    return Route([step for _, step in takes + puts], paths)


def _place_of(named: Named | None, place: Place | None) -> dict[FileKey, Place | None]:
    return {named.key: place} if named is not None and named.is_directory else {}


def walk(route: Route, hands: Hands[Folder]) -> list[Step]:
    """Do all steps that are not done yet; returns those that cannot be done.

    Somebody has changed SRC behind the mount there.
    """
    failed = []
    for step in route.steps:
        directory, name = step.slot
        folder = hands.open(route.paths[directory], directory)
        if folder is None:
            if step.kind == PUT:
                failed.append(step)
            continue
        lies = hands.key_in(folder, name)
        if step.kind == TAKE:
            if lies == step.named.key:
                hands.take(folder, name, step.named)
        elif lies != step.named.key and (
            lies is not None or not hands.put(folder, name, step.named)
        ):
            failed.append(step)
    return failed
