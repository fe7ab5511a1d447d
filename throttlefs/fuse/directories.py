"""The handlers that list directories."""

from __future__ import annotations

import errno
import os
import stat

import pyfuse3

from throttlefs.host.files import clock_of_files

from .errors import replies_errno
from .inode import Inode
from .shares import Shares
from .tree import TreeOperations

_FIRST_LOOK = 32

_LIST_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


# Of a name whose file cannot be looked at. The kernel lists a name of no type without linking it
# to an inode, so whoever looks at the file gets the error; it forgets the number, which no inode
# has, at once.
_UNKNOWN = pyfuse3.EntryAttributes()
_UNKNOWN.st_ino = pyfuse3.InodeT((1 << 63) - 1)
_UNKNOWN.st_mode = pyfuse3.ModeT(0)


class _Listing:
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

    _listings: dict[int, _Listing]
    _shares: Shares

    @replies_errno
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
        self._listings[fd] = _Listing(found, fd, ctx.uid)
        return pyfuse3.FileHandleT(fd)

    @replies_errno
    async def readdir(
        self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken
    ) -> None:
        """Reply with the entries from *start_id* on that fit, their attributes included."""
        listing = self._listings[fh]
        if start_id == 0 or listing.names is None:
            # rewinddir(3) is to see what is there now.
            await self._in_thread(listing.read)
        names = listing.names
        assert names is not None
        position = start_id
        while position < len(names):
            wanted = names[position : position + listing.per_reply]
            seen_ns, found = await self._in_thread(listing.look, wanted)
            for name, st in zip(wanted, found, strict=True):
                position += 1
                if not self._reply_entry(listing, token, name, position, st, seen_ns):
                    listing.per_reply = position - start_id
                    return

    def _reply_entry(
        self,
        listing: _Listing,
        token: pyfuse3.ReaddirToken,
        name: bytes,
        next_id: int,
        st: os.stat_result | OSError,
        seen_ns: int,
    ) -> bool:
        """False when the reply is full."""
        inodes = self._inodes
        if name in (b".", b".."):
            # The kernel counts no lookup for these two and takes only number and type.
            entry = pyfuse3.EntryAttributes()
            inode = listing.inode
            number = inode.number if name == b"." or inode.parent is None else inode.parent.number
            entry.st_ino = pyfuse3.InodeT(number)
            entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR)
            return bool(pyfuse3.readdir_reply(token, name, entry, next_id))
        if isinstance(st, OSError):
            if st.errno in (errno.ENOENT, errno.EACCES):
                return True  # removed since, or not to be seen at all: not in this listing
            # One broken file is not to hide its neighbours.
            return bool(pyfuse3.readdir_reply(token, name, _UNKNOWN, next_id))
        inode = inodes.lookup_listed(listing.inode, name, st, seen_ns)
        entry = self._attributes.entry(inode.number, st)
        if pyfuse3.readdir_reply(token, name, entry, next_id):
            return True
        inodes.forget(inode.number, 1)  # did not fit, so the kernel never hears of it
        return False

    @replies_errno
    async def fsyncdir(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        """Make the names in the directory durable."""
        await self._in_thread(os.fdatasync if datasync else os.fsync, self._listings[fh].fd)

    @replies_errno
    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        """Close the directory."""
        listing = self._listings.pop(fh)
        self._shares.give_back(listing.uid)
        os.close(listing.fd)
