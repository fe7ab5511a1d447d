"""The handlers for names: making, linking, renaming and removing. All of it runs in threads."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

import pyfuse3

from . import privileges, syscalls
from .errors import replies_errno
from .inode_operations import InodeOperations
from .inodes import Inode


class TreeOperations(InodeOperations):
    """Names of files, and who owns what is made."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        # Only root can give a file to the user who creates it (allow_other).
        self._gives_away = os.geteuid() == 0

    @replies_errno
    async def mknod(
        self,
        parent_inode: pyfuse3.InodeT,
        name: bytes,
        mode: pyfuse3.ModeT,
        rdev: int,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Make a file, FIFO, socket or device."""

        def make(dir_fd: int) -> None:
            os.mknod(name, mode, rdev, dir_fd=dir_fd)

        return await self._make(parent_inode, name, ctx, make, mode)

    @replies_errno
    async def mkdir(
        self,
        parent_inode: pyfuse3.InodeT,
        name: bytes,
        mode: pyfuse3.ModeT,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Make a directory."""

        def make(dir_fd: int) -> None:
            os.mkdir(name, stat.S_IMODE(mode), dir_fd=dir_fd)

        return await self._make(parent_inode, name, ctx, make)

    @replies_errno
    async def symlink(
        self,
        parent_inode: pyfuse3.InodeT,
        name: bytes,
        target: bytes,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
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
        mode: int = 0,
    ) -> pyfuse3.EntryAttributes:
        parent = self._inodes.get(parent_number)
        with self._inodes.pinned(parent) as dir_fd:

            def work() -> None:
                make(dir_fd)
                if self._gives_away and (ctx.uid or ctx.gid):
                    path_fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=dir_fd)
                    try:
                        give_to_caller(path_fd, dir_fd, ctx.uid, ctx.gid, mode)
                    finally:
                        os.close(path_fd)

            await self._in_thread(work)
        inode, st = self._inodes.lookup(parent, name)
        return self._attributes.entry(inode.number, st)

    @replies_errno
    async def link(
        self,
        inode: pyfuse3.InodeT,
        new_parent_inode: pyfuse3.InodeT,
        new_name: bytes,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Give the file a further name; its limits stay one set, whatever the name."""
        parent = self._inodes.get(new_parent_inode)
        with (
            self._inodes.pinned(self._inodes.get(inode)) as fd,
            self._inodes.pinned(parent) as dir_fd,
        ):

            def work() -> None:
                path = b"/proc/self/fd/%d" % fd
                # Both dir_fds, or Python takes link(2), which does not follow the magic link.
                os.link(path, new_name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

            await self._in_thread(work)
        found, st = self._inodes.lookup(parent, new_name)
        return self._attributes.entry(found.number, st)

    @replies_errno
    async def unlink(
        self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        """Remove a name; the file lives on while somebody has it open."""
        await self._remove(self._inodes.get(parent_inode), name, os.unlink)

    @replies_errno
    async def rmdir(
        self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        """Remove an empty directory."""
        await self._remove(self._inodes.get(parent_inode), name, os.rmdir)

    async def _remove(self, parent: Inode, name: bytes, remove: Callable[..., None]) -> None:
        with self._inodes.pinned(parent) as dir_fd:

            def work() -> None:
                remove(name, dir_fd=dir_fd)

            self._inodes.keep_hold(dir_fd, name)
            await self._in_thread(work)

    @replies_errno
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
            self._inodes.keep_hold(new_fd, name_new)
            await self._in_thread(
                syscalls.renameat2, old_fd, name_old, new_fd, name_new, int(flags)
            )
            self._note_name(new, name_new, new_fd)
            if flags & syscalls.RENAME_EXCHANGE:
                self._note_name(old, name_old, old_fd)

    def _note_name(self, parent: Inode, name: bytes, dir_fd: int) -> None:
        try:
            st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except OSError:
            return  # gone again already; a later lookup will tell
        self._inodes.renamed((st.st_dev, st.st_ino), parent, name)


def give_to_caller(fd: int, dir_fd: int, uid: int, gid: int, mode: int = 0) -> None:
    """Make a file that root has just created the caller's own, as a local create would.

    A setgid directory keeps its group on what is made in it (inode(7)). *mode*: its setuid
    and setgid bits are set again, since chown takes them away.
    """
    path = b"/proc/self/fd/%d" % fd
    parent = os.fstat(dir_fd)
    os.chown(path, uid, -1 if parent.st_mode & stat.S_ISGID else gid)
    if mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISDIR(mode):
        with privileges.modes_kept():
            os.chmod(path, stat.S_IMODE(mode))
