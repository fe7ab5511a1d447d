"""One file of SRC as the kernel knows it."""

from __future__ import annotations

from collections.abc import Iterator

from throttlefs.host.files import FileKey, clock_of_files


class Inode:
    """A file of SRC as the kernel knows it: by *number*, with a count of lookups."""

    __slots__ = (
        "fd",
        "handle_fds",
        "key",
        "left_ns",
        "lookups",
        "name",
        "number",
        "parent",
        "pins",
        "recently_used",
    )

    def __init__(self, number: int, key: FileKey, parent: Inode | None, name: bytes) -> None:
        self.number = number
        self.key = key
        self.parent = parent
        self.name = name
        self.fd = -1  # its O_PATH descriptor, -1 while none is open
        self.left_ns = clock_of_files()  # when it was last sure to be there, if fd is -1
        self.lookups = 0  # how often the kernel was told of it, less what it forgot
        self.pins = 0  # threads at work with its descriptor right now
        self.handle_fds: list[int] = []  # descriptors of open handles; any can stand in for fd
        self.recently_used = False

    @property
    def path(self) -> bytes:
        """Where the file was last seen, relative to the mount.

        Of the root b"", or the name of SRC if that is one file: limits by path match it.
        """
        if self.parent is None:
            return self.name
        return b"/".join(reversed([inode.name for inode in self.ancestry()]))

    def ancestry(self) -> Iterator[Inode]:
        """The inode itself and what it lies in, the root left out.

        Each once: directories that were moved into one another below SRC are seen one at a time,
        and for a while two may be known as each other's parent.
        """
        seen = set()
        inode = self
        while inode.parent is not None and inode not in seen:
            seen.add(inode)
            yield inode
            inode = inode.parent
