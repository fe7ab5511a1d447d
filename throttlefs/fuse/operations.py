"""All handlers of a mount: opening and closing files, and what `contents` and the others do."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from time import monotonic_ns

import pyfuse3

from throttlefs.backing import BackingFile, Engine
from throttlefs.host import filesystems
from throttlefs.host.files import FileKey
from throttlefs.policy.governor import Governor
from throttlefs.settings.cachemode import CacheMode
from throttlefs.stats import Statistics

from . import privileges, wire
from .arguments import OpenFile
from .attributes import Attributes, Entry
from .contents import ContentOperations
from .handle import Handle
from .inode import Inode
from .inode_operations import RunInThread
from .inodes import InodeTable
from .limit_attributes import LimitAttributes
from .shares import Shares

# What the kernel has already acted on, or what belongs to the program's descriptor alone.
_NOT_PASSED_ON = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_NOFOLLOW | os.O_DIRECT | os.O_NONBLOCK


class Operations(ContentOperations):
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
        *,
        cache: CacheMode,
        auto_cache: bool,
        max_inflight: int,
        on_init: Callable[[], None],
    ) -> None:
        super().__init__(inodes, attributes, limit_attributes, in_thread, max_inflight)
        self._listings = {}
        self._shares = Shares(handle_descriptors=2 if cache.direct else 1)
        self._governor = governor
        self._statistics = statistics
        self._engine = engine
        self._cache = cache
        self._auto_cache = auto_cache
        self._on_init = on_init
        self._silent_devices: dict[int, bool] = {}  # by st_dev

    def init(self) -> None:
        """FUSE_INIT has arrived: the kernel is about to send requests."""
        self._on_init()

    def handle_fd(self, fh: int) -> int:
        """The descriptor of the open handle *fh*."""
        return self._handles[fh].fd

    def counts(self) -> dict[str, int]:
        """What is held for the kernel and for requests under way; see docs/control.md."""
        return {
            "inodes": len(self._inodes),
            "handles": len(self._handles) + len(self._listings),
            "held-bytes": self._inflight,
        }

    def file_removed(self, key: FileKey) -> None:
        """What was said of the file and counted is not for the next one of its number."""
        self._governor.removed(key)
        self._statistics.removed(key)

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
                if flags & os.O_TRUNC:
                    fd = await self._open_in_thread(os.open, path, backing_flags)
                else:
                    fd = self._inodes.open_path(path, -1, backing_flags)
            except BaseException:
                self._shares.give_back(ctx.uid)
                raise
        return self._opened(found, fd, flags, ctx.uid)

    async def _open_in_thread(self, opened: Callable[..., int], *args: object) -> int:
        """``opened(*args)``, tried once more if descriptors were short and some can be closed."""
        try:
            fd = await self._in_thread(opened, *args)
        except OSError as exc:
            if not self._inodes.makes_room(exc):
                raise
            fd = await self._in_thread(opened, *args)
        return int(fd)

    def _check_contents(self, inode: Inode, path_fd: int) -> None:
        """Open nothing but images: a FIFO would hold up the loop, a device might do anything.

        The kernel asks for none, but it may have seen another file of this number.
        """
        mode = os.fstat(path_fd).st_mode
        if not stat.S_ISREG(mode) and not (inode is self._inodes.root and stat.S_ISBLK(mode)):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    async def create(
        self,
        parent_inode: pyfuse3.InodeT,
        name: bytes,
        mode: pyfuse3.ModeT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[OpenFile, Entry]:
        """Create and open a file; it belongs to the caller where the daemon may say so."""
        parent = self._inodes.get(parent_inode)
        self._shares.take(ctx.uid)
        try:
            with self._inodes.pinned(parent) as dir_fd:
                fd = await self._open_in_thread(self._create_file, dir_fd, name, mode, flags, ctx)
        except BaseException:
            self._shares.give_back(ctx.uid)
            raise
        try:
            inode, _ = self._inodes.lookup(parent, name)
            st = os.fstat(fd)
            if (st.st_dev, st.st_ino) != inode.key:
                stray = self._inodes.forget(inode.number, 1)
                if stray >= 0:
                    await self.close_descriptor(stray)
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        except BaseException:
            self._shares.give_back(ctx.uid)
            os.close(fd)
            raise
        return self._opened(inode, fd, flags, ctx.uid), self._attributes.entry(inode.number, st)

    def _create_file(
        self,
        dir_fd: int,
        name: bytes,
        mode: int,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> int:
        backing_flags = self._backing_flags(flags) | os.O_NOFOLLOW
        mode = privileges.mode_of_new(stat.S_IMODE(mode), ctx, dir_fd)
        try:
            with privileges.acting_for(ctx.uid, ctx.gid, keep_modes=True):
                return os.open(name, backing_flags | os.O_CREAT | os.O_EXCL, mode, dir_fd=dir_fd)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            # Somebody was quicker below SRC. Only the kernel knows whether the caller may open
            # that, and after ESTALE it looks once more (path_resolution(7)).
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None

    def _backing_flags(self, flags: int) -> int:
        return (flags & ~_NOT_PASSED_ON) | os.O_CLOEXEC | self._cache.open_flags

    def _opened(self, inode: Inode, fd: int, flags: int, uid: int) -> OpenFile:
        try:
            file = BackingFile(fd, self._engine, self._cache)
        except BaseException:
            self._shares.give_back(uid)
            os.close(fd)
            raise
        image = self._governor.image(inode.key, inode.path)
        statistics = self._statistics.opened(inode.key, inode.path)
        # Of AIO, which has to be O_DIRECT, the kernel makes a short write EIO; so say what the
        # error is (QEMU stops a guest at ENOSPC). As XFS and ext4 have it with O_DIRECT.
        in_full = flags & (os.O_DIRECT | os.O_APPEND) == os.O_DIRECT
        self._handles[fd] = Handle(inode, fd, image, file, statistics, in_full, uid)
        inode.handle_fds.append(fd)
        # The page cache of the mount would absorb what is to be limited, unless asked for.
        open_flags = 0 if self._auto_cache else wire.FOPEN_DIRECT_IO
        if self._closes_silently(fd):
            open_flags |= wire.FOPEN_NOFLUSH
        return OpenFile(fd, open_flags)

    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        """Make the file durable; not charged, as in QEMU."""
        handle = self._handles[fh]
        began = monotonic_ns()
        await handle.file.fsync(datasync)
        handle.statistics.flushed(monotonic_ns() - began)

    def _closes_silently(self, fd: int) -> bool:
        """Whether the filesystem of *fd* has nothing to say at close(2), so no FLUSH is needed."""
        device = os.fstat(fd).st_dev
        known = self._silent_devices.get(device)
        if known is None:
            known = self._silent_devices[device] = filesystems.closes_silently(fd)
        return known

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        """close(2) by the program: errors that some filesystems (NFS) keep until then."""
        fd = self._handles[fh].fd
        await self._in_thread(lambda: os.close(os.dup(fd)))

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        """The last close of a handle. Its image's debt outlives it."""
        handle = self._handles.pop(fh)
        self._shares.give_back(handle.uid)
        handle.inode.handle_fds.remove(handle.fd)
        self._statistics.closed(handle.inode.key)
        await self._close_file(handle)
        if not handle.inode.handle_fds:
            self._governor.release(handle.inode.key)

    async def _close_file(self, handle: Handle) -> None:
        """Close its descriptor, in a thread if that frees the blocks of an unlinked file."""
        if os.fstat(handle.fd).st_nlink == 0:
            await self._in_thread(handle.file.close)
        else:
            handle.file.close()
