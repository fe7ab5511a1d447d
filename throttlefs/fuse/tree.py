"""The handlers for names: they make, link, rename and remove files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pyfuse3

from throttlefs.host import syscalls
from throttlefs.host.files import FileKey

from . import privileges
from .attributes import Entry
from .inode import Inode
from .inode_operations import InodeOperations, open_and_stat
from .opening import open_and_stat_here
from .quick_names import Change


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

        return await self._make(parent_inode, name, ctx, make, mode)

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

        return await self._make(parent_inode, name, ctx, make, mode)

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
        mode: int = 0,
    ) -> Entry:
        parent = self._inodes.get(parent_number)
        with self._inodes.pinned(parent) as dir_fd:

            def work() -> tuple[int, os.stat_result] | None:
                keep_modes = bool(mode & privileges.SET_ID)
                with privileges.acting_for(ctx.uid, ctx.gid, keep_modes=keep_modes):
                    make(dir_fd)
                return _opened_if_room(name, dir_fd)

            made = await self._change(parent, Change.MAKE, ctx, work)
        return await self._entry_of(parent, name, made, ctx.uid)

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
        linked, parent = self._inodes.get(inode), self._inodes.get(new_parent_inode)
        with self._inodes.pinned(linked) as fd, self._inodes.pinned(parent) as dir_fd:

            def work() -> tuple[int, os.stat_result] | None:
                path = b"/proc/self/fd/%d" % fd
                with privileges.acting_for(ctx.uid, ctx.gid):
                    # With both dir_fds; otherwise Python uses link(2), which does not follow the
                    # magic link.
                    os.link(path, new_name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
                return _opened_if_room(new_name, dir_fd)

            unused = not linked.handle_fds
            made = await self._change(parent, Change.MAKE, ctx, work, here=unused)
        return await self._entry_of(parent, new_name, made, ctx.uid)

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

            unused = await self.keep_hold(parent, dir_fd, name, ctx.uid)
            await self._change(parent, Change.MOVE, ctx, work, here=unused)

    async def keep_hold(self, parent: Inode, dir_fd: int, name: bytes, uid: int) -> bool:
        """Prepare for the removal of *name*: see `InodeTable.keep_hold`.

        Returns whether nobody uses the file through the mount, so that nothing of it is freed by
        the removal, and nobody holds the lock of its inode.
        """
        try:
            if self._devices.is_local(parent.key[0]):
                found = open_and_stat_here(name, dir_fd)
            else:
                found = await self._in_thread(open_and_stat, name, dir_fd, owner=uid)
        except OSError as exc:
            return exc.errno == errno.ENOENT  # the removal will report the error
        return self._inodes.keep_hold(*found)

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
            if not flags and self._changes_here(old, Change.MOVE, ctx):
                found = self._moved_here(old_fd, name_old, new_fd, name_new, old.key[0])
                if found is not None:
                    self._note_name(found, new, name_new)
                    return

            def work() -> tuple[_Named | None, _Named | None]:
                with privileges.acting_for(ctx.uid, ctx.gid):
                    syscalls.renameat2(old_fd, name_old, new_fd, name_new, int(flags))
                exchanged = flags & syscalls.RENAME_EXCHANGE
                return _named(name_new, new_fd), _named(name_old, old_fd) if exchanged else None

            unused = await self.keep_hold(new, new_fd, name_new, ctx.uid)
            unused = unused and await self.keep_hold(old, old_fd, name_old, ctx.uid)
            moved, exchanged = await self._change(old, Change.MOVE, ctx, work, here=unused)
        for named, parent, name in ((moved, new, name_new), (exchanged, old, name_old)):
            if named is not None:
                self._note_name(named, parent, name)

    def _note_name(self, named: _Named, parent: Inode, name: bytes) -> None:
        self._inodes.renamed(named.key, parent, name)
        self.file_renamed(named.key, named.is_directory)

    def _moved_here(
        self, old_fd: int, name_old: bytes, new_fd: int, name_new: bytes, device: int
    ) -> _Named | None:
        """What was renamed, if nobody has it open and nothing had the new name; else None.

        That is how most files are renamed, and nothing is to be held for later then.
        """
        move = partial(syscalls.renameat2, old_fd, name_old, new_fd, name_new)
        try:
            fd, st = open_and_stat_here(name_old, old_fd)
            if not self._inodes.keep_hold(fd, st):
                return None
            self._quick.run(device, Change.MOVE, partial(move, syscalls.RENAME_NOREPLACE))
        except OSError:
            return None  # the long way finds out what is in the way
        return _Named((st.st_dev, st.st_ino), stat.S_ISDIR(st.st_mode))


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
