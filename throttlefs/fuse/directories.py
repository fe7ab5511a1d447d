"""The handlers that list directories."""

from __future__ import annotations

import errno
import os
from typing import Any, Protocol, TypeVar

import pyfuse3

from throttlefs.host.files import clock_of_files

from .inode import Inode
from .shares import Shares
from .tree import TreeOperations

_FIRST_LOOK = 32

AnyListing = TypeVar("AnyListing", bound="Listing")

_LIST_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Listing(Protocol):
    """The reply to a request for entries, as it grows."""

    def add(self, name: bytes, entry: Any, next_id: int) -> bool:
        """Add an entry, after which a listing goes on at *next_id*; False if it does not fit."""


class _TokenListing:
    """A `Listing` for pyfuse3's own server."""

    def __init__(self, token: pyfuse3.ReaddirToken) -> None:
        self._token = token

    def add(self, name: bytes, entry: pyfuse3.EntryAttributes, next_id: int) -> bool:
        return bool(pyfuse3.readdir_reply(self._token, pyfuse3.FileNameT(name), entry, next_id))


class _OpenDirectory:
    """An open directory: its names as they were when the reading began."""

    __slots__ = ("fd", "inode", "names", "per_reply", "uid")

    def __init__(self, inode: Inode, fd: int, uid: int) -> None:
        self.inode = inode
        self.fd = fd
        self.uid = uid  # whose it is
        self.names: list[bytes] | None = None
        self.per_reply = _FIRST_LOOK  # how many entries a reply has room for, as far as is known

    def read(self) -> None:
        self.names = [b".", b"..", *map(os.fsencode, os.listdir(self.fd))]

    def look(self, names: list[bytes]) -> tuple[int, list[os.stat_result | OSError]]:
        """What files these are, and since when that is known; may wait for the disk."""
        return clock_of_files(), [self._stat(name) for name in names]

    def _stat(self, name: bytes) -> os.stat_result | OSError:
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except OSError as exc:
            return exc


class DirectoryOperations(TreeOperations):
    """opendir to releasedir. A listing is a snapshot: nothing shows twice or is skipped."""

    _listings: dict[int, _OpenDirectory]
    _shares: Shares

    async def opendir(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileHandleT:
        """Open a directory; its handle is its descriptor."""
        found = self._inodes.get(inode)
        self._shares.take(ctx.uid)
        try:
            fd = self._inodes.open_path(b".", self._inodes.fd(found), _LIST_FLAGS)
        except BaseException:
            self._shares.give_back(ctx.uid)
            raise
        self._listings[fd] = _OpenDirectory(found, fd, ctx.uid)
        return pyfuse3.FileHandleT(fd)

    async def readdir(
        self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken
    ) -> None:
        """See `list_entries`."""
        await self.list_entries(fh, start_id, _TokenListing(token))

    async def list_entries(
        self, fh: pyfuse3.FileHandleT, start_id: int, listing: AnyListing
    ) -> AnyListing:
        """Add those entries to *listing*, from *start_id* on, that fit, attributes included."""
        directory = self._listings[fh]
        if start_id == 0 or directory.names is None:
            # rewinddir(3) is to see what is there now.
            await self._in_thread(directory.read)
        names = directory.names
        assert names is not None
        position = start_id
        while position < len(names):
            wanted = names[position : position + directory.per_reply]
            seen_ns, found = await self._in_thread(directory.look, wanted)
            for name, st in zip(wanted, found, strict=True):
                position += 1
                if not self._add_entry(directory, listing, name, position, st, seen_ns):
                    directory.per_reply = position - start_id
                    return listing
        return listing

    def _add_entry(
        self,
        directory: _OpenDirectory,
        listing: Listing,
        name: bytes,
        next_id: int,
        st: os.stat_result | OSError,
        seen_ns: int,
    ) -> bool:
        """False when the reply is full."""
        inodes = self._inodes
        if name in (b".", b".."):
            # The kernel counts no lookup for these two and takes only number and type.
            inode = directory.inode
            number = inode.number if name == b"." or inode.parent is None else inode.parent.number
            return listing.add(name, self._attributes.directory(number), next_id)
        if isinstance(st, OSError):
            if st.errno in (errno.ENOENT, errno.EACCES):
                return True  # removed since, or not to be seen at all: not in this listing
            # One broken file is not to hide its neighbours.
            return listing.add(name, self._attributes.unknown(), next_id)
        inode = inodes.lookup_listed(directory.inode, name, st, seen_ns)
        if listing.add(name, self._attributes.entry(inode.number, st), next_id):
            return True
        inodes.forget(inode.number, 1)  # did not fit, so the kernel never hears of it
        return False

    async def fsyncdir(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        """Make the names in the directory durable."""
        await self._in_thread(os.fdatasync if datasync else os.fsync, self._listings[fh].fd)

    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        """Close the directory."""
        listing = self._listings.pop(fh)
        self._shares.give_back(listing.uid)
        os.close(listing.fd)
