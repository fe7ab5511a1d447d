"""The handlers for names: they make, link, rename and remove files, all in threads."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

import pyfuse3

from throttlefs.host import syscalls
from throttlefs.host.files import FileKey

from . import privileges
from .attributes import Entry
from .inode import Inode
from .inode_operations import InodeOperations, open_and_stat


class TreeOperations(InodeOperations):
    """Makes and removes names of files with the rights of the callers (see `privileges`)."""

    async def mknod(
        self,
        parent_inode: pyfuse3.InodeT,
        name: bytes,
        mode: pyfuse3.ModeT,
        rdev: int,
        ctx: pyfuse3.RequestContext,
    ) -> Entry:
        """Make a file, FIFO, socket or device."""

        def make(dir_fd: int) -> None:
            os.mknod(name, privileges.mode_of_new(mode, ctx, dir_fd), rdev, dir_fd=dir_fd)

        return await self._make(parent_inode, name, ctx, make)

    async def mkdir(
        self,
        parent_inode: pyfuse3.InodeT,
        name: bytes,
        mode: pyfuse3.ModeT,
        ctx: pyfuse3.RequestContext,
    ) -> Entry:
        """Make a directory."""

        def make(dir_fd: int) -> None:
            new_mode = privileges.mode_of_new(stat.S_IMODE(mode), ctx, dir_fd)
            os.mkdir(name, new_mode, dir_fd=dir_fd)

        return await self._make(parent_inode, name, ctx, make)

    async def symlink(
        self,
        parent_inode: pyfuse3.InodeT,
        name: bytes,
        target: bytes,
        ctx: pyfuse3.RequestContext,
    ) -> Entry:
        """Make a symlink to *target*, which is not changed."""

        def make(dir_fd: int) -> None:
            os.symlink(target, name, dir_fd=dir_fd)

        return await self._make(parent_inode, name, ctx, make)

    async def _make(
        self,
        parent_number: pyfuse3.InodeT,
        name: bytes,
        ctx: pyfuse3.RequestContext,
        make: Callable[[int], None],
    ) -> Entry:
        parent = self._inodes.get(parent_number)
        with self._inodes.pinned(parent) as dir_fd:

            def work() -> tuple[int, os.stat_result] | None:
                with privileges.acting_for(ctx.uid, ctx.gid, keep_modes=True):
                    make(dir_fd)
                return _opened_if_room(name, dir_fd)

            made = await self._in_thread(work, owner=ctx.uid)
        found = (
            self._adopt(parent, name, *made) if made else await self._find(parent, name, ctx.uid)
        )
        return self._attributes.entry(found[0].number, found[1])

    async def _entry_of(
        self, parent: Inode, name: bytes, made: tuple[int, os.stat_result] | None, uid: int
    ) -> Entry:
        """The entry for *name*, which was just *made* if there was a descriptor."""
        inode, st = (
            self._adopt(parent, name, *made) if made else await self._find(parent, name, uid)
        )
        return self._attributes.entry(inode.number, st)

    async def link(
        self,
        inode: pyfuse3.InodeT,
        new_parent_inode: pyfuse3.InodeT,
        new_name: bytes,
        ctx: pyfuse3.RequestContext,
    ) -> Entry:
        """Give the file one more name; all its names share its limits."""
        parent = self._inodes.get(new_parent_inode)
        with (
            self._inodes.pinned(self._inodes.get(inode)) as fd,
            self._inodes.pinned(parent) as dir_fd,
        ):

            def work() -> tuple[int, os.stat_result] | None:
                path = b"/proc/self/fd/%d" % fd
                with privileges.acting_for(ctx.uid, ctx.gid):
                    # With both dir_fds; otherwise Python uses link(2), which does not follow the
                    # magic link.
                    os.link(path, new_name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
                return _opened_if_room(new_name, dir_fd)

            made = await self._in_thread(work, owner=ctx.uid)
        found = (
            self._adopt(parent, new_name, *made)
            if made
            else await self._find(parent, new_name, ctx.uid)
        )
        return self._attributes.entry(found[0].number, found[1])

    async def unlink(
        self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        """Remove a name; the file continues to exist while somebody has it open."""
        await self._remove(self._inodes.get(parent_inode), name, ctx, os.unlink)

    async def rmdir(
        self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        """Remove an empty directory."""
        await self._remove(self._inodes.get(parent_inode), name, ctx, os.rmdir)

    async def _remove(
        self,
        parent: Inode,
        name: bytes,
        ctx: pyfuse3.RequestContext,
        remove: Callable[..., None],
    ) -> None:
        with self._inodes.pinned(parent) as dir_fd:

            def work() -> None:
                with privileges.acting_for(ctx.uid, ctx.gid):
                    remove(name, dir_fd=dir_fd)

            await self.keep_hold(parent, dir_fd, name, ctx.uid)
            await self._in_thread(work, owner=ctx.uid)

    async def keep_hold(self, parent: Inode, dir_fd: int, name: bytes, uid: int) -> None:
        """Prepare for the removal of *name*: see `InodeTable.keep_hold`."""
        try:
            if self._devices.is_local(parent.key[0]):
                found = open_and_stat(name, dir_fd)
            else:
                found = await self._in_thread(open_and_stat, name, dir_fd, owner=uid)
        except OSError:
            return  # the removal will report the error
        self._inodes.keep_hold(*found)

    async def rename(
        self,
        parent_inode_old: pyfuse3.InodeT,
        name_old: bytes,
        parent_inode_new: pyfuse3.InodeT,
        name_new: bytes,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        """Rename, with RENAME_NOREPLACE and RENAME_EXCHANGE (renameat2(2))."""
        old, new = self._inodes.get(parent_inode_old), self._inodes.get(parent_inode_new)
        with self._inodes.pinned(old) as old_fd, self._inodes.pinned(new) as new_fd:

            def work() -> tuple[_Named | None, _Named | None]:
                with privileges.acting_for(ctx.uid, ctx.gid):
                    syscalls.renameat2(old_fd, name_old, new_fd, name_new, int(flags))
                exchanged = flags & syscalls.RENAME_EXCHANGE
                return _named(name_new, new_fd), _named(name_old, old_fd) if exchanged else None

            await self.keep_hold(new, new_fd, name_new, ctx.uid)
            moved, exchanged = await self._in_thread(work, owner=ctx.uid)
        for named, parent, name in ((moved, new, name_new), (exchanged, old, name_old)):
            if named is not None:
                self._inodes.renamed(named.key, parent, name)
                self.file_renamed(named.key, named.is_directory)


def _opened_if_room(name: bytes, dir_fd: int) -> tuple[int, os.stat_result] | None:
    """The result of `open_and_stat`; None if descriptors are short, which the loop can mend."""
    try:
        return open_and_stat(name, dir_fd)
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            return None
        raise


class _Named(NamedTuple):
    """Which file has a name."""

    key: FileKey
    is_directory: bool


def _named(name: bytes, dir_fd: int) -> _Named | None:
    """The file that has *name* in *dir_fd* now; None if there is none."""
    try:
        st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except OSError:
        return None  # it is gone again; a later lookup will find out
    return _Named((st.st_dev, st.st_ino), stat.S_ISDIR(st.st_mode))
