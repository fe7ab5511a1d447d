"""The handlers for names: making, linking, renaming and removing. All of it runs in threads."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pyfuse3

from throttlefs.host import syscalls

from . import privileges
from .attributes import Entry
from .inode import Inode
from .inode_operations import InodeOperations


class TreeOperations(InodeOperations):
    """Names of files, made and removed as their callers (see `privileges`)."""

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
        """Make a symlink to *target*, taken as it stands."""

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

            def work() -> None:
                with privileges.acting_for(ctx.uid, ctx.gid, keep_modes=True):
                    make(dir_fd)

            await self._in_thread(work)
        inode, st = self._inodes.lookup(parent, name)
        return self._attributes.entry(inode.number, st)

    async def link(
        self,
        inode: pyfuse3.InodeT,
        new_parent_inode: pyfuse3.InodeT,
        new_name: bytes,
        ctx: pyfuse3.RequestContext,
    ) -> Entry:
        """Give the file a further name; its limits stay one set, whatever the name."""
        parent = self._inodes.get(new_parent_inode)
        with (
            self._inodes.pinned(self._inodes.get(inode)) as fd,
            self._inodes.pinned(parent) as dir_fd,
        ):

            def work() -> None:
                path = b"/proc/self/fd/%d" % fd
                with privileges.acting_for(ctx.uid, ctx.gid):
                    # Both dir_fds, or Python takes link(2), which does not follow the magic link.
                    os.link(path, new_name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

            await self._in_thread(work)
        found, st = self._inodes.lookup(parent, new_name)
        return self._attributes.entry(found.number, st)

    async def unlink(
        self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        """Remove a name; the file lives on while somebody has it open."""
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

            self._inodes.keep_hold(dir_fd, name)
            await self._in_thread(work)

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

            def work() -> None:
                with privileges.acting_for(ctx.uid, ctx.gid):
                    syscalls.renameat2(old_fd, name_old, new_fd, name_new, int(flags))

            self._inodes.keep_hold(new_fd, name_new)
            await self._in_thread(work)
            self._note_name(new, name_new, new_fd)
            if flags & syscalls.RENAME_EXCHANGE:
                self._note_name(old, name_old, old_fd)

    def _note_name(self, parent: Inode, name: bytes, dir_fd: int) -> None:
        try:
            st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except OSError:
            return  # gone again already; a later lookup will tell
        self._inodes.renamed((st.st_dev, st.st_ino), parent, name)
