"""An inode: one file of SRC that the kernel knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from throttlefs.device.faults import Candidates
from throttlefs.host.files import FileKey, clock_of_files


class Inode:
    """A file of SRC that the kernel knows by *number*, with a count of its lookups."""

    __slots__ = (
        "faults",
        "fd",
        "generation",
        "handle_fds",
        "key",
        "left_ns",
        "lookups",
        "name",
        "number",
        "parent",
        "pins",
        "recently_used",
        "was_resized",
        "writers",
    )

    def __init__(self, number: int, key: FileKey, parent: Inode | None, name: bytes) -> None:
        self.number = number
        self.key = key
        self.parent = parent
        self.name = name
        self.generation = 0  # that of the table when it was last found
        self.fd = -1  # its O_PATH descriptor, -1 while none is open
        self.left_ns = clock_of_files()  # when it was last seen, if fd is -1
        self.lookups = 0  # how often the kernel looked it up, less what it forgot
        self.pins = 0  # how many threads use its descriptor now
        self.handle_fds: list[int] = []  # descriptors of open handles; any can serve as fd
        self.recently_used = False
        self.writers = 0  # how many handles may write
        self.was_resized = False  # whether a size was ever set through the mount
        self.faults: Candidates | None = None  # the rules for it, when they were last looked up

    @property
    def path(self) -> bytes:
        """Where the file was last seen, relative to the mount.

        The root has b"", or the name of SRC if that is one file: limits by path match it.
        """
        if self.parent is None:
            return self.name
        return b"/".join(reversed([inode.name for inode in self.ancestry()]))

    def ancestry(self) -> Iterator[Inode]:
        """The inode itself and the directories it lies in, without the root.

        Each comes once. After directories were moved into one another below SRC, two may be known
        as each other's parent for a while, because they are seen one at a time.
        """
        seen = set()
        inode = self
        while inode.parent is not None and inode not in seen:
            seen.add(inode)
            yield inode
            inode = inode.parent


class Pin:
    """Keeps a descriptor of *inode* open in its block, which gets what *pin* returns.

    It does what `contextlib.contextmanager` would, in a third of the time.
    """

    __slots__ = ("_inode", "_pin")

    def __init__(self, pin: Callable[[Inode], int], inode: Inode) -> None:
        self._pin = pin
        self._inode = inode

    def __enter__(self) -> int:
        return self._pin(self._inode)

    def __exit__(self, *_: object) -> None:
        self._inode.pins -= 1
