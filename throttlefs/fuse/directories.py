"""The handlers that list directories."""

from __future__ import annotations

import errno
import os
from typing import Any, Protocol, TypeVar

import pyfuse3

from throttlefs.host import syscalls
from throttlefs.host.files import clock_of_files
from throttlefs.host.syscalls import DirectoryEntry

from .inode import Inode
from .shares import Shares
from .tree import TreeOperations

_READ_AT_ONCE = 16 << 10
"""Bytes of entries that are read from SRC at once: the most that an open directory holds."""

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


_Found = list[tuple[DirectoryEntry, os.stat_result | OSError]]
"""Entries, each with the status of its file, or with the error that hides it."""


class _OpenDirectory:
    """An open directory, and the entries that were read ahead of what the kernel has asked for.

    It is read as a stream, so the memory of an open directory does not grow with its size.
    """

    __slots__ = ("_ahead", "_ahead_from", "_position", "fd", "inode", "per_reply", "uid")

    def __init__(self, inode: Inode, fd: int, uid: int) -> None:
        self.inode = inode
        self.fd = fd
        self.uid = uid  # who opened it
        self._ahead: list[DirectoryEntry] = []
        self._ahead_from = 0  # the offset at which what is ahead begins
        self._position = 0  # where the descriptor stands
        self.per_reply = _FIRST_LOOK  # how many entries a reply has room for, as far as is known

    def look(self, offset: int, most: int) -> tuple[int, _Found]:
        """Up to *most* entries from *offset* on; none if the directory ends there.

        Also since when their status is known (`clock_of_files`). May wait for the disk.
        """
        seen_ns = clock_of_files()
        if self._ahead and offset == self._ahead_from:
            entries = self._ahead
        else:
            if offset != self._position or not offset:  # rewinddir(3) shows what is there now
                os.lseek(self.fd, offset, os.SEEK_SET)
            entries = syscalls.list_directory(self.fd, _READ_AT_ONCE)
            self._position = entries[-1].next_offset if entries else offset
        self._ahead = entries[most:]
        if self._ahead:
            self._ahead_from = entries[most - 1].next_offset
        return seen_ns, [(entry, self._stat(entry.name)) for entry in entries[:most]]

    def _stat(self, name: bytes) -> os.stat_result | OSError:
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except OSError as exc:
            return exc

    def keep(self, offset: int, entries: list[DirectoryEntry]) -> None:
        """Remember *entries*, which begin at *offset* and did not fit into the reply."""
        self._ahead = entries + self._ahead
        self._ahead_from = offset


class DirectoryOperations(TreeOperations):
    """opendir to releasedir. A listing is as good as the one of SRC's own filesystem."""

    _listings: dict[int, _OpenDirectory]
    _shares: Shares
    _nodiratime: bool
    hidden_name: bytes | None = None
    """A name in the root that is not listed."""

    async def opendir(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileHandleT:
        """Open a directory; its handle is its descriptor."""
        found = self._inodes.get(inode)
        self._shares.take(ctx.uid)
        try:
            fd = await self._open_directory(found, ctx.uid)
        except BaseException:
            self._shares.give_back(ctx.uid)
            raise
        self._listings[fd] = _OpenDirectory(found, fd, ctx.uid)
        return pyfuse3.FileHandleT(fd)

    def directory_inode(self, fh: int) -> Inode:
        """The inode of the open directory *fh*."""
        return self._listings[fh].inode

    def open_directories(self) -> set[int]:
        """All open directories."""
        return set(self._listings)

    async def _open_directory(self, inode: Inode, uid: int) -> int:
        if self._devices.is_local(inode.key[0]):
            dir_fd = self._inodes.fd(inode)
            if self._nodiratime:
                try:
                    return self._inodes.open_path(b".", dir_fd, _LIST_FLAGS | os.O_NOATIME)
                except PermissionError:
                    pass  # only the owner may ask for that
            return self._inodes.open_path(b".", dir_fd, _LIST_FLAGS)
        with self._inodes.pinned(inode) as path_fd:
            return await self._retried(uid, lambda: os.open(b".", _LIST_FLAGS, dir_fd=path_fd))

    async def readdir(
        self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken
    ) -> None:
        """See `list_entries`."""
        await self.list_entries(fh, start_id, _TokenListing(token))

    async def list_entries(
        self, fh: pyfuse3.FileHandleT, start_id: int, listing: AnyListing
    ) -> AnyListing:
        """Add the entries from *start_id* on to *listing*, with attributes, as many as fit."""
        directory = self._listings[fh]
        offset = start_id
        count = 0
        while True:
            seen_ns, found = await self._in_thread(
                directory.look, offset, directory.per_reply, owner=directory.uid
            )
            if not found:
                return listing
            for place, (entry, st) in enumerate(found):
                if not self._add_entry(directory, listing, entry, st, seen_ns):
                    directory.keep(offset, [entry for entry, _ in found[place:]])
                    directory.per_reply = count + 1  # with the one that shows that it is full
                    return listing
                offset = entry.next_offset
                count += 1

    def _add_entry(
        self,
        directory: _OpenDirectory,
        listing: Listing,
        entry: DirectoryEntry,
        st: os.stat_result | OSError,
        seen_ns: int,
    ) -> bool:
        """False when the reply is full."""
        inodes = self._inodes
        name, next_id = entry
        if name == self.hidden_name and directory.inode is inodes.root:
            return True
        if name in (b".", b".."):
            # The kernel counts no lookup for these two, and uses only number and type.
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
        directory = self._listings[fh]
        sync = os.fdatasync if datasync else os.fsync
        await self._in_thread(sync, directory.fd, owner=directory.uid)

    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        """Close the directory."""
        listing = self._listings.pop(fh)
        self._shares.give_back(listing.uid)
        if self._devices.is_local(listing.inode.key[0]):
            os.close(listing.fd)
        else:
            await self._in_thread(os.close, listing.fd, owner=listing.uid)
