"""The handlers for the contents of files, where limiter and backing meet.

A read or write goes in one straight line: admitted by the limiter, carried out by the
backing, replied to. Both have a step that needs no switch of task (``try_admit``,
``read_now`` and ``write_now``) and, when that says no, one that waits: then the answer is a
coroutine, to be run by whoever asked.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Coroutine
from time import monotonic_ns
from typing import Any

import pyfuse3

from throttlefs.backing import BackingFile, Data, Engine
from throttlefs.host.files import FileKey
from throttlefs.policy.governor import Governor
from throttlefs.settings.cachemode import CacheMode
from throttlefs.stats import Statistics
from throttlefs.throttle import READ, WRITE

from . import privileges
from .attributes import Attributes
from .channel import Keep
from .directories import DirectoryOperations
from .errors import replies_errno, to_fuse_error
from .handle import Handle
from .inode import Inode
from .inode_operations import RunInThread
from .inodes import InodeTable
from .limit_attributes import LimitAttributes
from .shares import Shares

# What the kernel has already acted on, or what belongs to the program's descriptor alone.
_NOT_PASSED_ON = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_NOFOLLOW | os.O_DIRECT | os.O_NONBLOCK

_COPIES_HELD = 2
"""With pyfuse3 a waiting write's data is in a bytes object and in the buffer it came in."""


class Operations(DirectoryOperations):
    """All handlers of a mount: `TreeOperations`, `DirectoryOperations` and the files' contents."""

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
        super().__init__(inodes, attributes, limit_attributes, in_thread)
        self._listings = {}
        self._shares = Shares(handle_descriptors=2 if cache.direct else 1)
        self._handles: dict[int, Handle] = {}
        self._governor = governor
        self._statistics = statistics
        self._engine = engine
        self._cache = cache
        self._auto_cache = auto_cache
        self._max_inflight = max_inflight
        self._inflight = 0  # bytes held by writes that wait for their limit or the backing
        self._on_init = on_init

    def init(self) -> None:
        """FUSE_INIT has arrived: the kernel is about to send requests."""
        self._on_init()

    def has_room(self) -> bool:
        """Whether waiting writes hold less than they may, so that a request can be taken."""
        return self._inflight < self._max_inflight

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

    # -- the hot path ----------------------------------------------------------------------

    def begin_read(
        self, fh: int, off: int, size: int, room: memoryview | None = None
    ) -> Data | Coroutine[Any, Any, Data]:
        """Read *size* bytes at *off*, fewer only at the end of the file: at once or by waiting.

        What is read at once goes into *room*, if that is given.
        """
        handle = self._handles[fh]
        try:
            if not handle.try_admit(READ, size):
                return self._read_when_due(handle, off, size)
            began = monotonic_ns()
            data = handle.read_now(off, size, room)
        except Exception as exc:
            handle.statistics.read.errors += 1
            raise to_fuse_error(exc, "read") from None
        if data is None:
            return self._read_behind(handle, off, size, began)
        handle.note_read(len(data), monotonic_ns() - began)
        if len(data) < size:
            # The end of the file: what was not there to read is not owed either.
            handle.image.refund(READ, size, len(data))
        return data

    async def _read_when_due(self, handle: Handle, off: int, size: int) -> Data:
        """A read that the limiter holds up."""
        await handle.wait_for_limit(READ, size)
        began = monotonic_ns()
        try:
            data = handle.read_now(off, size)
        except Exception as exc:
            handle.statistics.read.errors += 1
            raise to_fuse_error(exc, "read") from None
        if data is None:
            return await self._read_behind(handle, off, size, began)
        handle.note_read(len(data), monotonic_ns() - began)
        if len(data) < size:
            handle.image.refund(READ, size, len(data))
        return data

    async def _read_behind(self, handle: Handle, off: int, size: int, began: int) -> Data:
        """A read that has to wait for the backing file."""
        try:
            data = await handle.file.read(off, size)
        except Exception as exc:
            handle.statistics.read.errors += 1
            raise to_fuse_error(exc, "read") from None
        handle.note_read(len(data), monotonic_ns() - began)
        if len(data) < size:
            handle.image.refund(READ, size, len(data))
        return data

    def begin_write(
        self, fh: int, off: int, data: Data, keep: Keep
    ) -> int | Coroutine[Any, Any, int]:
        """Write *data* at *off*, at once or by waiting; how many bytes were written."""
        handle = self._handles[fh]
        try:
            began = 0  # ns; not yet admitted
            written = None
            if handle.try_admit(WRITE, len(data)):
                began = monotonic_ns()
                written = handle.write_now(off, data)
                if written == len(data) or (written is not None and not handle.in_full):
                    handle.note_write(written, monotonic_ns() - began)
                    return written
        except Exception as exc:
            handle.statistics.write.errors += 1
            raise to_fuse_error(exc, "write") from None
        return self._write_later(handle, off, *keep(), began, written)

    async def _write_later(
        self, handle: Handle, off: int, data: Data, held: int, began: int, written: int | None
    ) -> int:
        """A write that waits, and is counted among the memory that waiting writes hold.

        *written*: how much of it is there already; None if it was not yet begun.
        """
        self._inflight += held
        try:
            if not began:
                await handle.wait_for_limit(WRITE, len(data))
                began = monotonic_ns()
                written = handle.write_now(off, data)
            if written is None:
                written = await handle.file.write(off, data)
            while written < len(data) and handle.in_full:
                more = await handle.file.write(off + written, data[written:])
                if not more:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))  # it does not say why
                written += more
            handle.note_write(written, monotonic_ns() - began)
            return written
        except Exception as exc:
            handle.statistics.write.errors += 1
            raise to_fuse_error(exc, "write") from None
        finally:
            self._inflight -= held

    # What pyfuse3 calls if it reads the kernel's requests by itself.

    async def read(  # type: ignore[override]  # pyfuse3 takes any buffer
        self, fh: pyfuse3.FileHandleT, off: int, size: int
    ) -> Data:
        """See `begin_read`."""
        data = self.begin_read(fh, off, size)
        return await data if isinstance(data, Coroutine) else data

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        """See `begin_write`."""
        written = self.begin_write(fh, off, buf, lambda: (buf, _COPIES_HELD * len(buf)))
        return await written if isinstance(written, Coroutine) else written

    # -- opening and closing ---------------------------------------------------------------

    @replies_errno
    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
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

    @replies_errno
    async def create(
        self,
        parent_inode: pyfuse3.InodeT,
        name: bytes,
        mode: pyfuse3.ModeT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
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

    def _opened(self, inode: Inode, fd: int, flags: int, uid: int) -> pyfuse3.FileInfo:
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
        return pyfuse3.FileInfo(
            fh=pyfuse3.FileHandleT(fd),
            direct_io=not self._auto_cache,
            keep_cache=False,
        )

    @replies_errno
    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        """Make the file durable; not charged, as in QEMU."""
        handle = self._handles[fh]
        began = monotonic_ns()
        await handle.file.fsync(datasync)
        handle.statistics.flushed(monotonic_ns() - began)

    @replies_errno
    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        """close(2) by the program: errors that some filesystems (NFS) keep until then."""
        fd = self._handles[fh].fd
        await self._in_thread(lambda: os.close(os.dup(fd)))

    @replies_errno
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
