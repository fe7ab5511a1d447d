"""Tells the journal of every change of names and attributes, in front of their handlers.

What a power cut may bring back stays in the hidden directory: a removed file by one more link, a
removed directory by moving it there. Programs see neither.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Coroutine
from typing import Any

import pyfuse3

from throttlefs.device.volatile.contents import Contents
from throttlefs.device.volatile.journal import Journal
from throttlefs.device.volatile.names import Named, Slot, SlotChange
from throttlefs.host import syscalls
from throttlefs.host.files import FileKey
from throttlefs.host.stash import ELSEWHERE, Stash

from .in_thread import RunInThread
from .inode import Inode
from .inodes import InodeTable
from .limit_attributes import LIMIT_PREFIX
from .names_in_use import NamesInUse
from .operations import Operations
from .removing import Removal, RemovedFiles

log = logging.getLogger("throttlefs")

Handler = Callable[..., Coroutine[Any, Any, Any]]

_CANNOT_MOVE = (ELSEWHERE, errno.EACCES, errno.EPERM)
"""Errors of what cannot be moved into the hidden directory; its removal, if allowed, is final."""

_ACL_PREFIX = b"system.posix_acl_"
_MAKE = {"create": "create", "mknod": "create", "mkdir": "mkdir", "symlink": "symlink"}


class VolatileNames:
    """Watches the handlers of *operations* once it is attached to them.

    *flushes_replaced*: whether a file's data reach the disk before it replaces another
    (auto_da_alloc in ext4(5)).
    """

    def __init__(
        self,
        operations: Operations,
        inodes: InodeTable,
        journal: Journal,
        contents: Contents,
        stash: Stash,
        in_use: NamesInUse,
        in_thread: RunInThread,
        *,
        flushes_replaced: bool,
    ) -> None:
        self._operations = operations
        self._inodes = inodes
        self._journal = journal
        self._contents = contents
        self._stash = stash
        self._in_use = in_use
        self._run = in_thread
        self._removed = RemovedFiles(stash, journal, inodes.root.key[0])
        self._flushes_replaced = flushes_replaced
        self._handlers: dict[str, Handler] = {}

    def attach(self) -> None:
        """Take the places of the handlers."""
        operations = self._operations
        if not self._inodes.is_one_file:
            operations.hidden_name = self._stash.name
        watched: dict[str, Handler] = {
            "lookup": self._lookup,
            "unlink": self._unlink,
            "rmdir": self._rmdir,
            "rename": self._rename,
            "link": self._link,
            "setattr": self._setattr,
            "setxattr_with_flags": self._setxattr,
            "removexattr": self._removexattr,
            "fsyncdir": self._fsyncdir,
            "release": self._release,
            **{name: self._maker(name, verb) for name, verb in _MAKE.items()},
        }
        for name, handler in watched.items():
            self._handlers[name] = getattr(operations, name)
            setattr(operations, name, handler)

    # -- names -----------------------------------------------------------------------------

    async def _lookup(
        self, parent: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> Any:
        if self._is_hidden(parent, name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return await self._handlers["lookup"](parent, name, ctx)

    def _maker(self, handler: str, verb: str) -> Handler:
        """Watches the making of files by *handler*."""

        async def make(parent_number: pyfuse3.InodeT, name: bytes, *args: Any) -> Any:
            parent = self._parent(parent_number, name)
            result = await self._handlers[handler](parent_number, name, *args)
            entry = result[1] if isinstance(result, tuple) else result
            inode = self._inodes.get(entry.number)
            named = Named(inode.key, stat.S_ISDIR(entry.mode))
            change = SlotChange(Slot(parent.key, name), None, named)
            self._changed((verb, _text(parent, name)), [change], parent)
            return result

        return make

    async def _link(
        self,
        number: pyfuse3.InodeT,
        parent_number: pyfuse3.InodeT,
        name: bytes,
        ctx: pyfuse3.RequestContext,
    ) -> Any:
        parent = self._parent(parent_number, name)
        inode = self._inodes.get(number)
        old = _shown(inode.path)
        entry = await self._handlers["link"](number, parent_number, name, ctx)
        change = SlotChange(Slot(parent.key, name), None, Named(inode.key))
        self._changed(("link", old, _text(parent, name)), [change], parent)
        return entry

    async def _unlink(
        self, parent_number: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        parent = self._parent(parent_number, name)
        with self._inodes.pinned(parent) as directory:
            found = await self._in_thread(self._removed.keep, directory, name, owner=ctx)
            await self._remove("unlink", parent, directory, found, (parent_number, name, ctx))

    async def _rmdir(
        self, parent_number: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        parent = self._parent(parent_number, name)
        with self._inodes.pinned(parent) as directory:
            found = await self._in_thread(self._removed.look, directory, name, owner=ctx)
            if found is not None and found.named.is_directory:
                found = found._replace(must_move=True)
            await self._remove("rmdir", parent, directory, found, (parent_number, name, ctx))

    async def _remove(
        self,
        verb: str,
        parent: Inode,
        directory: int,
        found: Removal | None,
        args: tuple[pyfuse3.InodeT, bytes, pyfuse3.RequestContext],
    ) -> None:
        _, name, ctx = args
        if found is not None and found.must_move:
            try:
                await self._move(parent, directory, name, found.named, ctx)
            except OSError as exc:
                if exc.errno not in _CANNOT_MOVE:
                    raise
                await self._handlers[verb](*args)
                return
        else:
            try:
                await self._handlers[verb](*args)
            except BaseException:
                await self._give_up(found)
                raise
        if found is not None:
            change = SlotChange(Slot(parent.key, name), found.named, None)
            self._changed((verb, _text(parent, name)), [change], parent)
            self._noted(found)

    async def _move(
        self,
        parent: Inode,
        directory: int,
        name: bytes,
        named: Named,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        """Move a file or directory into the hidden directory, as its removal. Raises `OSError`."""
        await self._operations.keep_hold(parent, directory, name, ctx.uid)
        try:
            await self._in_thread(self._removed.move, directory, name, named, ctx, owner=ctx)
        finally:
            self._in_use.touched(named.key)

    async def _rename(
        self,
        old_number: pyfuse3.InodeT,
        old_name: bytes,
        new_number: pyfuse3.InodeT,
        new_name: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        old, new = self._parent(old_number, old_name), self._parent(new_number, new_name)
        if flags & ~(syscalls.RENAME_NOREPLACE | syscalls.RENAME_EXCHANGE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        removed, in_thread = self._removed, self._in_thread
        words = ("rename", _text(old, old_name), _text(new, new_name))
        with self._inodes.pinned(old) as old_fd, self._inodes.pinned(new) as new_fd:
            names = (old_fd, old_name, new_fd, new_name)
            source, target = await in_thread(removed.before_rename, *names, not flags, owner=ctx)
            moved = False
            if target is not None and target.must_move:
                try:
                    await self._move(new, new_fd, new_name, target.named, ctx)
                    moved = True
                except OSError as exc:
                    if exc.errno not in _CANNOT_MOVE:
                        raise
                    target = None
            try:
                await self._handlers["rename"](
                    old_number, old_name, new_number, new_name, flags, ctx
                )
            except BaseException:
                if moved and target is not None:
                    await in_thread(self._stash.move_out, new_fd, new_name, target.named.key)
                    self._in_use.touched(target.named.key)
                else:
                    await self._give_up(target)
                raise
        if source is None or (target is not None and target.named == source.named):
            return  # of another filesystem; or two names of one file, which both stay
        exchanged = target.named if target and flags & syscalls.RENAME_EXCHANGE else None
        if target is not None and exchanged is None and source.is_regular and target.is_regular:
            self._flush_first(source.named.key)
        changes = [
            SlotChange(Slot(old.key, old_name), source.named, exchanged),
            SlotChange(Slot(new.key, new_name), target and target.named, source.named),
        ]
        self._changed(words, changes, old, new)
        self._noted(target)

    def _noted(self, found: Removal | None) -> None:
        """The journal knows of the removal."""
        if found is not None and found.is_kept:
            self._stash.unclaim(found.named.key)

    async def _give_up(self, found: Removal | None) -> None:
        """The file stays where it was."""
        if found is not None and found.is_kept:
            key = found.named.key
            self._stash.unclaim(key)
            await self._in_thread(self._stash.drop, key, self._journal.needs)
            self._in_use.touched(key)

    # -- attributes ------------------------------------------------------------------------

    async def _setattr(
        self,
        number: pyfuse3.InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: pyfuse3.FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> Any:
        inode = self._inodes.get(number)
        before: dict[str | bytes, Any] = {}
        with self._inodes.pinned(inode) as fd:
            st = await self._in_thread(os.fstat, fd, owner=ctx)
            result = await self._handlers["setattr"](number, attr, fields, fh, ctx)
        if fields.update_mode or fields.update_uid or fields.update_gid:
            before |= {"mode": stat.S_IMODE(st.st_mode), "owner": (st.st_uid, st.st_gid)}
        if fields.update_atime or fields.update_mtime:
            before |= {"atime": st.st_atime_ns, "mtime": st.st_mtime_ns}
        if before:
            self._set("setattr", inode, before)
        return result

    async def _setxattr(
        self,
        number: pyfuse3.InodeT,
        name: bytes,
        value: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        handler = self._handlers["setxattr_with_flags"]
        await self._change_xattr("setxattr", number, name, ctx, handler, value, flags)

    async def _removexattr(
        self, number: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        handler = self._handlers["removexattr"]
        await self._change_xattr("removexattr", number, name, ctx, handler)

    async def _change_xattr(
        self,
        verb: str,
        number: pyfuse3.InodeT,
        name: bytes,
        ctx: pyfuse3.RequestContext,
        handler: Handler,
        *args: Any,
    ) -> None:
        inode = self._inodes.get(number)
        if name.startswith(LIMIT_PREFIX):
            await handler(number, name, *args, ctx)
            return
        with self._inodes.pinned(inode) as fd:
            before = await self._in_thread(_xattr_and_mode, fd, name, owner=ctx)
            await handler(number, name, *args, ctx)
        self._set(verb, inode, before)

    # -- flushes ---------------------------------------------------------------------------

    async def _fsyncdir(self, fh: int, datasync: bool) -> None:
        upto = self._journal.newest
        directory = self._operations.directory_inode(fh)
        await self._handlers["fsyncdir"](fh, datasync)
        if directory.key[0] == self._inodes.root.key[0]:
            self._journal.commit(directory.key, upto)

    async def _release(self, fh: int) -> None:
        key = self._operations.file_inode(fh).key
        wrote_ns = self._contents.last_ns(key)
        await self._handlers["release"](fh)
        if wrote_ns is not None:  # if the file is clean, its contents are forgotten now
            self._in_use.wrote(key, wrote_ns)

    def _flush_first(self, key: FileKey) -> None:
        """The data of the file as they are now are to reach the disk before any later change."""
        if not self._flushes_replaced:
            return
        seq = self._journal.tick()
        self._contents.barrier(key, seq)
        self._journal.note(key, seq)

    # -- for all of them -------------------------------------------------------------------

    def _is_hidden(self, parent: int, name: bytes) -> bool:
        return name == self._operations.hidden_name and parent == self._inodes.root.number

    def _parent(self, number: pyfuse3.InodeT, name: bytes) -> Inode:
        """The directory of that number, in which *name* may change. Raises `OSError`."""
        if self._is_hidden(number, name):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return self._inodes.get(number)

    async def _in_thread(
        self,
        call: Callable[..., Any],
        *args: Any,
        owner: pyfuse3.RequestContext | None = None,
    ) -> Any:
        return await self._run(call, *args, owner=None if owner is None else owner.uid)

    def _changed(
        self, words: tuple[str, ...], changes: list[SlotChange], *directories: Inode
    ) -> None:
        """Tell the journal of a change of names, unless it is on another filesystem."""
        if any(one.key[0] != self._inodes.root.key[0] for one in directories):
            return
        self._in_use.changed(directories, changes)
        self._journal.rename(words, changes)

    def _set(self, verb: str, inode: Inode, before: dict[str | bytes, Any]) -> None:
        if inode.key[0] != self._inodes.root.key[0]:
            return
        self._in_use.changed([inode], [])
        self._journal.set_attributes((verb, _shown(inode.path)), inode.key, before)


def _text(parent: Inode, name: bytes) -> str:
    path = parent.path
    return _shown(path + b"/" + name if path else name)


def _shown(path: bytes) -> str:
    return os.fsdecode(path)


def _xattr_and_mode(fd: int, name: bytes) -> dict[str | bytes, Any]:
    """The value of an attribute, None if there is none; with the mode, if it is a part of that."""
    path = b"/proc/self/fd/%d" % fd
    before: dict[str | bytes, Any] = {name: None}
    try:
        before[name] = os.getxattr(path, name)
    except OSError:
        pass  # there is none, or the change will fail
    if name.startswith(_ACL_PREFIX):
        before["mode"] = stat.S_IMODE(os.fstat(fd).st_mode)
    return before
