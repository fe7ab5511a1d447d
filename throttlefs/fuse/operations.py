"""All handlers of a mount: those that open and close files, and by inheritance the others."""

from __future__ import annotations

import errno
import fcntl
import functools
import logging
import os
import stat
from collections.abc import Callable
from time import monotonic_ns
from typing import cast

import pyfuse3

from throttlefs.backing import BackingFile, Engine
from throttlefs.host.credentials import Credentials
from throttlefs.host.files import FileKey
from throttlefs.policy.governor import Governor
from throttlefs.settings.cachemode import CacheMode
from throttlefs.stats import Statistics

from . import privileges, wire
from .arguments import OpenFile
from .attributes import Attributes, Entry
from .closer import closes_quickly
from .disk_operations import DiskOperations
from .flushing import sync
from .handle import Handle
from .handshake import Agreement
from .holes import KernelPages
from .in_thread import RunInThread
from .inode import Inode
from .inodes import InodeTable
from .limit_attributes import LimitAttributes
from .opening import open_and_stat_here, open_file, unmake
from .quick_names import Change
from .shares import Shares
from .volatile_file import VolatileFile

log = logging.getLogger("throttlefs")

# Flags that the kernel has already acted on, or that belong to the program's descriptor only.
_NOT_PASSED_ON = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_NOFOLLOW | os.O_DIRECT | os.O_NONBLOCK


class Operations(DiskOperations):
    """All handlers of a mount. Each has the signature that pyfuse3 gives it."""

    def __init__(
        self,
        inodes: InodeTable,
        attributes: Attributes,
        limit_attributes: LimitAttributes,
        governor: Governor,
        statistics: Statistics,
        engine: Engine,
        in_thread: RunInThread,
        kernel_pages: KernelPages,
        *,
        cache: CacheMode,
        auto_cache: bool,
        noatime: bool,
        nodiratime: bool,
        max_inflight: int,
        discard_costs_bytes: bool,
        source: str,
        covers_source: bool,
        on_init: Callable[[], None],
        threads_are_stuck: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(
            inodes,
            attributes,
            limit_attributes,
            in_thread,
            cache,
            max_inflight,
            kernel_pages,
            discard_costs_bytes,
        )
        self._listings = {}
        self._shares = Shares(handle_descriptors=2 if cache.direct else 1)
        self._governor = governor
        self._statistics = statistics
        self._engine = engine
        self._auto_cache = auto_cache
        # Unless auto_cache is given, requests must not end in the page cache of the mount.
        self._open_flags = 0 if auto_cache else wire.FOPEN_DIRECT_IO
        self._noatime = noatime
        self._nodiratime = nodiratime
        self._source = os.fsencode(source)
        self._source_directory = -1  # where SRC has its name, if it is one file
        if inodes.is_one_file and not covers_source:
            directory = os.path.dirname(self._source)
            self._source_directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._said_replaced = False
        self._on_init = on_init
        self._quick.is_stuck = threads_are_stuck

    def init(self) -> None:
        """Note that FUSE_INIT has arrived: the kernel is about to send requests."""
        self._on_init()

    def agreed(self, agreement: Agreement) -> None:
        """Note what kernel and daemon have agreed on, before the first request."""
        if agreement.parallel_writes and not self._auto_cache:
            self._open_flags |= wire.FOPEN_PARALLEL_DIRECT_WRITES

    def close(self) -> None:
        """Free what the handlers hold beside open files."""
        super().close()
        if self._source_directory >= 0:
            os.close(self._source_directory)
            self._source_directory = -1

    def handle_fd(self, fh: int) -> int:
        """The descriptor of the open handle *fh*."""
        return self._handles[fh].fd

    def counts(self) -> dict[str, int]:
        """Counts of what is held for the kernel and for requests under way; see docs/control.md."""
        return {
            "inodes": len(self._inodes),
            "handles": len(self._handles) + len(self._listings),
            "held-bytes": self._inflight,
            "spilled-bytes": self._spill.held,
        }

    def file_renamed(self, key: FileKey, is_directory: bool) -> None:
        """Hold an open image, or those in a directory, to the limits of their new paths."""
        if self.injector is not None:
            self.injector.names_changed()
        governor, path_of = self._governor, self._inodes.path_of
        if not is_directory:
            path = path_of(key)
            if path is not None:
                governor.renamed(key, path)
            return
        for image, known in list(governor.paths.items()):
            path = path_of(image)
            if path is not None and path != known:
                governor.renamed(image, path)

    def file_resized(self, key: FileKey, size: int) -> None:
        """Hold the image to the rates of its new size."""
        self._governor.throttle.resized(key, size)

    def file_removed(self, key: FileKey) -> None:
        """Forget overrides and counters of the file: the next one of its number gets none of
        them."""
        self._governor.removed(key)
        self._statistics.removed(key)
        if self.injector is not None:
            self.injector.table.forget(key)

    # -- opening and closing ---------------------------------------------------------------

    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> OpenFile:
        """Open a file of SRC under the limits of its image."""
        found = self._inodes.get(inode)
        with self._inodes.pinned(found) as path_fd:
            self._check_contents(found, path_fd)
            path = b"/proc/self/fd/%d" % path_fd
            backing_flags = self._backing_flags(flags)
            self._shares.take(ctx.uid)
            try:
                fd = await self._open(found, path, backing_flags, ctx.uid)
                if flags & os.O_TRUNC and not backing_flags & os.O_TRUNC:
                    await self._empty(found, path_fd, fd, ctx.uid)
            except BaseException:
                self._shares.give_back(ctx.uid)
                raise
        return self._opened(found, fd, flags, ctx)

    async def _open(self, inode: Inode, path: bytes, flags: int, uid: int) -> int:
        """Open *path*, which leads to *inode*, in a thread if that may wait.

        O_TRUNC frees blocks. Another process may hold a lease in SRC (fcntl(2), F_SETLEASE) for
        `/proc/sys/fs/lease-break-time`, 45 s; with O_NONBLOCK that is an error.
        """
        if not flags & os.O_TRUNC and self._devices.is_local(inode.key[0]):
            try:
                fd = self._open_now(path, flags)
            except BlockingIOError:
                pass
            else:
                # io_uring would answer EAGAIN instead of waiting for the disk.
                fcntl.fcntl(fd, fcntl.F_SETFL, flags)
                return fd
        return await self._retried(uid, open_file, path, flags)

    async def _empty(self, inode: Inode, path_fd: int, fd: int, uid: int) -> None:
        """Truncate a file that can lose power, as O_TRUNC would have; closes *fd* on failure."""
        volatile = self.volatile
        empty = functools.partial(
            self._in_thread, os.truncate, b"/proc/self/fd/%d" % path_fd, 0, owner=uid
        )
        try:
            if volatile is None or not volatile.covers(inode.key):
                await empty()
            else:
                await volatile.truncating(inode, path_fd, 0, uid, empty)
        except BaseException:
            os.close(fd)
            raise

    def _open_now(self, path: bytes, flags: int) -> int:
        try:
            return self._inodes.open_path(path, -1, flags | os.O_NONBLOCK)
        except PermissionError:
            if not flags & os.O_NOATIME:
                raise
        return self._inodes.open_path(path, -1, (flags & ~os.O_NOATIME) | os.O_NONBLOCK)

    def _check_contents(self, inode: Inode, path_fd: int) -> None:
        """Refuse everything but images: a FIFO would block the loop, a device might do anything.

        The kernel asks for images only, but it may have seen another file of this number.
        """
        st = os.fstat(path_fd)
        is_root = inode is self._inodes.root
        if not stat.S_ISREG(st.st_mode) and not (is_root and stat.S_ISBLK(st.st_mode)):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        if is_root and self._is_replaced(st):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _is_replaced(self, st: os.stat_result) -> bool:
        """Whether SRC, which is one file of status *st*, has lost its name or given it to another.

        Writes to it would be lost with its last descriptor. The log says so, once.
        """
        if st.st_nlink and not self._source_is_another():
            return False
        if not self._said_replaced:
            self._said_replaced = True
            log.error(
                "SRC %s was replaced or removed: it cannot be opened any more (ESTALE), and what is"
                " written by programs that have it open goes to the old file; unmount, and mount"
                " the new one",
                os.fsdecode(self._source),
            )
        return True

    def _source_is_another(self) -> bool:
        """Whether another file, or none, has SRC's name. It never asks the mount itself."""
        if self._source_directory < 0 or not self._devices.is_local(self._inodes.root.key[0]):
            return False
        name = os.path.basename(self._source)
        try:
            found, st = open_and_stat_here(name, self._source_directory)
        except OSError as exc:
            return exc.errno == errno.ENOENT
        os.close(found)
        return (st.st_dev, st.st_ino) != self._inodes.root.key

    async def create(
        self,
        parent_inode: pyfuse3.InodeT,
        name: bytes,
        mode: pyfuse3.ModeT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[OpenFile, Entry]:
        """Create and open a file; it belongs to the caller if the daemon may set that."""
        parent = self._inodes.get(parent_inode)
        try:
            return await self._create(parent, name, mode, flags | os.O_CREAT | os.O_EXCL, ctx)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            # Somebody was quicker below SRC. Only the kernel knows whether the caller may open that
            # file, and after ESTALE it looks once more (path_resolution(7)).
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None

    async def tmpfile(
        self,
        parent_inode: pyfuse3.InodeT,
        name: bytes,
        mode: pyfuse3.ModeT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[OpenFile, Entry]:
        """Create and open a file without a name (open(2), O_TMPFILE); *name* has no meaning."""
        parent = self._inodes.get(parent_inode)
        return await self._create(parent, b"", mode, flags | os.O_TMPFILE, ctx)

    async def _create(
        self, parent: Inode, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[OpenFile, Entry]:
        self._shares.take(ctx.uid)
        try:
            with self._inodes.pinned(parent) as dir_fd:
                make = functools.partial(self._create_file, dir_fd, name or b".", mode, flags, ctx)
                fd, st = await self._change_with_room(parent, Change.MAKE, ctx, make)
        except BaseException:
            self._shares.give_back(ctx.uid)
            raise
        inode = self._inodes.adopt_created(parent, name, st)
        try:
            file = self._opened(inode, fd, flags, ctx)
        except BaseException:
            # The program gets an error, so there must be no such file.
            self._inodes.forget(inode.number, 1)
            if name:
                with self._inodes.pinned(parent) as dir_fd:
                    await self._in_thread(unmake, name, dir_fd, inode.key, owner=ctx.uid)
            raise
        return file, self._attributes.entry(inode.number, st)

    def _create_file(
        self,
        dir_fd: int,
        name: bytes,
        mode: int,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[int, os.stat_result]:
        how = flags & (os.O_CREAT | os.O_EXCL | os.O_TMPFILE)
        backing_flags = self._backing_flags(flags & ~os.O_TMPFILE) | os.O_NOFOLLOW | how
        mode = privileges.mode_of_new(stat.S_IMODE(mode), ctx, dir_fd)
        with privileges.acting_for(ctx.uid, ctx.gid, keep_modes=bool(mode & privileges.SET_ID)):
            fd = os.open(name, backing_flags, mode, dir_fd=dir_fd)
        try:
            return fd, os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise

    def _backing_flags(self, flags: int) -> int:
        flags = (flags & ~_NOT_PASSED_ON) | os.O_CLOEXEC | self._cache.open_flags
        if self.volatile is not None:
            # What is overwritten is read before, and a truncate saves what it cuts off.
            flags &= ~os.O_TRUNC
            if flags & os.O_ACCMODE == os.O_WRONLY:
                flags = flags & ~os.O_ACCMODE | os.O_RDWR
        return flags | os.O_NOATIME if self._noatime else flags

    def _opened(self, inode: Inode, fd: int, flags: int, ctx: pyfuse3.RequestContext) -> OpenFile:
        uid = ctx.uid
        try:
            file = BackingFile(fd, self._engine, self._cache, Credentials(uid, ctx.gid))
        except BaseException:
            self._shares.give_back(uid)
            os.close(fd)
            raise
        path = inode.path
        image = self._governor.image(inode.key, path)
        image.note_size(file.opened_size)  # limits that are set later may depend on it
        if self.volatile is not None and self.volatile.covers(inode.key):
            file = cast(BackingFile, self.volatile.opened(inode, file, file.opened_size))
        statistics = self._statistics.opened(inode.key, path)
        handle = self._handles[fd] = Handle(inode, fd, image, file, statistics, flags, uid)
        inode.handle_fds.append(fd)
        inode.writers += handle.may_write
        inode.was_resized |= bool(flags & os.O_TRUNC)
        open_flags = self._open_flags
        inode.faults = None  # it may have been renamed in SRC
        if self._devices.learn(inode.key[0], fd):
            open_flags |= wire.FOPEN_NOFLUSH
        return OpenFile(fd, open_flags)

    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        """Make the file durable; not charged, as in QEMU, but a slow device takes its time."""
        handle = self._handles[fh]
        if self.injector is not None:
            handle = self.injector.flushing(handle)
        began = monotonic_ns()
        with self._quick.syncing(handle.inode.key[0]):
            await sync(handle, datasync)
        handle.statistics.flushed(monotonic_ns() - began)

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        """Report errors that some filesystems (NFS) keep until close(2) by the program."""
        handle = self._handles[fh]
        await self._in_thread(lambda: os.close(os.dup(handle.fd)), owner=handle.uid)

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        """Close a handle. The debt of its image outlives it."""
        handle = self._handles.pop(fh)
        inode = handle.inode
        self._shares.give_back(handle.uid)
        inode.handle_fds.remove(handle.fd)
        self._statistics.closed(inode.key)
        if isinstance(handle.file, VolatileFile) and self.volatile is not None:
            self.volatile.closed(handle.file, may_write=handle.may_write)
        is_local = self._devices.is_local(inode.key[0])
        if not inode.handle_fds:
            self._inodes.hold_by(inode, handle.fd, may_open=is_local)
        closes_at_once = is_local and closes_quickly(handle, self._quick)
        inode.writers -= handle.may_write
        if closes_at_once:
            handle.file.close()
        else:
            await self._closer.close(handle.file.close, is_local, handle.uid)
        if not inode.handle_fds:
            self._governor.release(inode.key)
