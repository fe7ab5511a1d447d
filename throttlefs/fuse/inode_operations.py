"""The handlers for inodes: lookup and forget, attributes, extended attributes.

Changes may wait for a journal or free gigabytes of blocks, so they run in a thread, unless
`QuickNames` says that they are quick. Lookups and getattr only read, so they are answered at once
from the kernel's caches.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Final, TypeVar, cast

import pyfuse3

from throttlefs.host import syscalls
from throttlefs.host.files import FileKey

from . import privileges
from .attributes import Attributes, Entry
from .closer import Closer
from .devices import Devices
from .in_thread import RunInThread
from .inode import Inode
from .inodes import PATH_FLAGS, InodeTable
from .limit_attributes import LIMIT_PREFIX, LimitAttributes
from .quick_names import Change, QuickNames
from .setting import change_xattr, set_attributes
from .volatile_files import VolatileFiles

T = TypeVar("T")

_PROC_FD = b"/proc/self/fd/%d"
"""A path to the file itself, even to a symlink: the kernel does not follow that (proc(5))."""

_ACL_PREFIX = b"system.posix_acl_"

_FEW_BLOCKS: Final = 128
"""Of 512 bytes: freeing so many takes ext4 some 20 us."""

_TURN_S: Final = 1e-3
"""s for which the loop closes descriptors before others get a turn."""


def open_and_stat(name: bytes, dir_fd: int) -> tuple[int, os.stat_result]:
    """A descriptor (O_PATH) of *name* in *dir_fd*, and its status. Raises `OSError`."""
    fd = os.open(name, PATH_FLAGS, dir_fd=dir_fd)
    try:
        return fd, os.fstat(fd)
    except BaseException:
        os.close(fd)
        raise


def _close_and_tell_if_gone(fd: int) -> bool:
    """Close *fd*; returns whether its file has no name any more."""
    try:
        return os.fstat(fd).st_nlink == 0
    except OSError:
        return False
    finally:
        os.close(fd)


def _status_and_birth(fd: int) -> tuple[os.stat_result, int | None]:
    return os.fstat(fd), syscalls.birth_ns(fd)


class InodeOperations:
    """Attributes and extended attributes of the files of *inodes*."""

    def __init__(
        self,
        inodes: InodeTable,
        attributes: Attributes,
        limit_attributes: LimitAttributes,
        in_thread: RunInThread,
    ) -> None:
        self._inodes = inodes
        self._attributes = attributes
        self._limit_attributes = limit_attributes
        self._in_thread = in_thread
        self._devices = Devices()
        self._devices.learn(inodes.root.key[0], inodes.root.fd)
        self.volatile: VolatileFiles | None = None  # only if the mount can lose power
        self._quick = QuickNames(self._devices.is_local)
        self._closer = Closer(in_thread)

    def handle_fd(self, fh: int) -> int:
        """The descriptor of the open handle *fh*."""
        raise NotImplementedError

    def file_renamed(self, key: FileKey, is_directory: bool) -> None:
        """Note that the file or directory *key* has a new name: other limits by path may hold."""
        raise NotImplementedError

    def file_resized(self, key: FileKey, size: int) -> None:
        """Called after the file got *size* bytes."""
        raise NotImplementedError

    def file_removed(self, key: FileKey) -> None:
        """Note that the last name of the file *key* is gone, and nobody has it open."""
        raise NotImplementedError

    # -- looking ---------------------------------------------------------------------------

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> Entry:
        """Find *name*. ENOENT is never cached, so new files of SRC appear at once."""
        inode, st = await self._find(self._inodes.get(parent_inode), name, ctx.uid)
        return self._attributes.entry(inode.number, st)

    async def _find(self, parent: Inode, name: bytes, uid: int) -> tuple[Inode, os.stat_result]:
        """The file *name* in *parent*, with one more lookup by the kernel. Raises `OSError`."""
        if self._devices.is_local(parent.key[0]):
            fd = self._inodes.open_now(parent, name)
            if fd >= 0:
                return self._adopt(parent, name, fd, os.fstat(fd))
        # The file or its directory is on another filesystem, which may not answer.
        with self._inodes.pinned(parent) as dir_fd:
            fd, st = await self._retried(uid, open_and_stat, name, dir_fd)
        return self._adopt(parent, name, fd, st)

    def _adopt(
        self, parent: Inode, name: bytes, fd: int, st: os.stat_result
    ) -> tuple[Inode, os.stat_result]:
        self._devices.learn(st.st_dev, fd)
        return self._inodes.adopt(parent, name, fd, st), st

    async def _retried(self, uid: int, call: Callable[..., T], *args: object) -> T:
        """``call(*args)`` in a thread; twice if descriptors were short and some got closed."""
        try:
            return cast(T, await self._in_thread(call, *args, owner=uid))
        except OSError as exc:
            if not self._inodes.makes_room(exc):
                raise
        return cast(T, await self._in_thread(call, *args, owner=uid))

    async def _ask(self, inode: Inode, question: Callable[[int], T], uid: int) -> T:
        """The result of *question* for a descriptor; on the loop if the filesystem is local."""
        if self._devices.is_local(inode.key[0]):
            return question(self._inodes.fd(inode))
        with self._inodes.pinned(inode) as fd:
            return cast(T, await self._in_thread(question, fd, owner=uid))

    async def forget(self, inode_list: Sequence[tuple[pyfuse3.InodeT, int]]) -> None:
        """Close the inodes that the kernel no longer refers to.

        There may be 65,000 at once. So one in each ms is closed in a thread, and others get a turn.
        """
        turn_ends = monotonic() + _TURN_S
        for number, count in inode_list:
            inode = self._inodes.forget(number, count)
            if inode is not None and inode.fd >= 0:
                fd, inode.fd = inode.fd, -1
                goes_on = monotonic() < turn_ends
                await self.close_descriptor(fd, inode.key, here=goes_on)
                if not goes_on:
                    turn_ends = monotonic() + _TURN_S

    async def close_descriptor(self, fd: int, key: FileKey, *, here: bool = True) -> None:
        """Close *fd* (O_PATH) of the file *key*, in a thread if it may take long, or if not *here*.

        It takes long if it frees the blocks of an unlinked file.
        """
        if not here or not self._devices.is_local(key[0]):
            if await self._in_thread(_close_and_tell_if_gone, fd):
                self.file_removed(key)
            return
        close = partial(os.close, fd)
        try:
            st = os.fstat(fd)
        except OSError:  # SRC fails: nobody gets the error, and the close may take long
            self.file_removed(key)
            await self._closer.close(close, True, None)
            return
        if st.st_nlink:
            close()
            return
        self.file_removed(key)
        if st.st_blocks <= _FEW_BLOCKS and self._quick.are_quick(key[0], Change.FREE):
            self._quick.run(key[0], Change.FREE, close)
        else:
            await self._closer.close(close, True, None)

    async def _change(
        self,
        directory: Inode,
        kind: Change,
        ctx: pyfuse3.RequestContext,
        change: Callable[[], T],
        *,
        here: bool = True,
    ) -> T:
        """The result of *change*, which makes or removes names in *directory*.

        It runs on the loop if *here* allows that, if such changes are quick, and if it is for the
        daemon's own user: the loop never takes other ids.
        """
        if here and self._changes_here(directory, kind, ctx):
            return self._quick.run(directory.key[0], kind, change)
        return cast(T, await self._in_thread(change, owner=ctx.uid))

    async def _change_with_room(
        self, directory: Inode, kind: Change, ctx: pyfuse3.RequestContext, change: Callable[[], T]
    ) -> T:
        """`_change`; twice if descriptors were short and some got closed."""
        try:
            return await self._change(directory, kind, ctx, change)
        except OSError as exc:
            if not self._inodes.makes_room(exc):
                raise
        return await self._change(directory, kind, ctx, change)

    def _changes_here(self, directory: Inode, kind: Change, ctx: pyfuse3.RequestContext) -> bool:
        """Whether a change of that *kind* in *directory* may run on the loop."""
        as_itself = privileges.acts_as_itself(ctx.uid, ctx.gid)
        return as_itself and self._quick.are_quick(directory.key[0], kind)

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> Entry:
        """The file's attributes as they are in SRC now."""
        found = self._inodes.get(inode)
        if self._devices.is_local(found.key[0]):
            st = os.fstat(self._inodes.fd(found))
        else:
            st = await self._ask(found, os.fstat, ctx.uid)
            self._devices.learn(st.st_dev, self._inodes.fd(found))
        return self._attributes.entry(found.number, st)

    async def statx(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> tuple[Entry, int | None]:
        """The file's attributes, and when it was made (ns since the epoch; None: not known).

        The kernel asks for this instead of GETATTR if a program wants to know (Linux 6.6).
        """
        found = self._inodes.get(inode)
        st, born = await self._ask(found, _status_and_birth, ctx.uid)
        self._devices.learn(st.st_dev, self._inodes.fd(found))
        return self._attributes.entry(found.number, st), born

    async def readlink(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> bytes:
        """A symlink's target, unchanged."""
        found = self._inodes.get(inode)
        return await self._ask(found, lambda fd: os.readlink(b"", dir_fd=fd), ctx.uid)

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """The filesystem that SRC lies on."""
        with self._inodes.pinned(self._inodes.root) as fd:
            st = await self._in_thread(os.statvfs, fd, owner=ctx.uid)
        data = pyfuse3.StatvfsData()
        for field in (
            "f_bsize",
            "f_frsize",
            "f_blocks",
            "f_bfree",
            "f_bavail",
            "f_files",
            "f_ffree",
            "f_favail",
            "f_namemax",
        ):
            setattr(data, field, getattr(st, field))
        return data

    # -- attributes ------------------------------------------------------------------------

    async def setattr(
        self,
        inode: pyfuse3.InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: pyfuse3.FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> Entry:
        """Change the attributes that *fields* names: mode, owner, size (bytes), times (ns)."""
        found = self._inodes.get(inode)
        with self._inodes.pinned(found) as fd:
            size_fd = os.dup(self.handle_fd(fh)) if fields.update_size and fh is not None else -1

            async def change() -> os.stat_result:
                st: os.stat_result = await self._in_thread(
                    set_attributes, fd, attr, fields, size_fd, ctx, owner=ctx.uid
                )
                return st

            volatile = self.volatile
            if fields.update_size and volatile is not None and volatile.covers(found.key):
                st = await volatile.truncating(found, fd, attr.st_size, ctx.uid, change)
            else:
                st = await change()
        if fields.update_size:
            found.was_resized = True
            self.file_resized(found.key, st.st_size)
        return self._attributes.entry(found.number, st)

    async def getxattr(
        self, inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> bytes:
        """The value of one extended attribute."""
        found = self._inodes.get(inode)
        if name.startswith(LIMIT_PREFIX):
            return self._limit_attributes.get(found, name)
        try:
            return await self._ask(found, lambda fd: os.getxattr(_PROC_FD % fd, name), ctx.uid)
        except OSError as exc:
            if exc.errno == errno.EOPNOTSUPP and name.startswith(_ACL_PREFIX):
                # The kernel would take this as the result of a permission check. On a filesystem
                # without ACLs this file simply has none.
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA)) from None
            raise

    async def listxattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> Sequence[bytes]:
        """The names of the file's extended attributes, except its limits."""
        found = self._inodes.get(inode)
        names = await self._ask(found, lambda fd: os.listxattr(_PROC_FD % fd), ctx.uid)
        # trusted.* is shown only to callers who may read it; xattr(7).
        hidden = (LIMIT_PREFIX,) if ctx.uid == 0 else (LIMIT_PREFIX, b"trusted.")
        return [n for n in map(os.fsencode, names) if not n.startswith(hidden)]

    async def setxattr(
        self, inode: pyfuse3.InodeT, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        """Set an extended attribute; pyfuse3 has handled XATTR_CREATE and XATTR_REPLACE."""
        await self.setxattr_with_flags(inode, name, value, 0, ctx)

    async def setxattr_with_flags(
        self,
        inode: pyfuse3.InodeT,
        name: bytes,
        value: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        """Set an extended attribute, with XATTR_CREATE or XATTR_REPLACE (setxattr(2))."""
        found = self._inodes.get(inode)
        if name.startswith(LIMIT_PREFIX):
            if flags & os.XATTR_CREATE:  # every image has every limit, even if it is 0
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            self._limit_attributes.set(found, name, value, ctx.uid)
            return
        with self._inodes.pinned(found) as fd:
            path = b"/proc/self/fd/%d" % fd
            await self._in_thread(
                change_xattr,
                lambda: os.setxattr(path, name, value, flags),
                name,
                fd,
                ctx,
                owner=ctx.uid,
            )

    async def removexattr(
        self, inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        """Remove an extended attribute."""
        found = self._inodes.get(inode)
        if name.startswith(LIMIT_PREFIX):
            self._limit_attributes.remove(found, name, ctx.uid)
            return
        with self._inodes.pinned(found) as fd:
            path = b"/proc/self/fd/%d" % fd
            await self._in_thread(
                change_xattr,
                lambda: os.removexattr(path, name),
                name,
                fd,
                ctx,
                owner=ctx.uid,
            )
