"""The undo log: an unnamed file with what writes to SRC have overwritten.

Its places are shared out by `throttlefs.device.volatile.extents`; here they are written, copied and
freed. When a mount ends, the log goes with its descriptor.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from collections.abc import Callable, Iterable
from typing import Final

from throttlefs.host import syscalls

from . import blocking
from .buffers import Data
from .log_writer import LogWriter, write_all

log = logging.getLogger("throttlefs")

COPIED_MOST: Final = 1 << 30
"""Bytes that a truncate or punch copies at most, if the filesystem cannot clone them."""

_FICLONERANGE: Final = 0x4020940D
_CLONE_RANGE: Final = struct.Struct("=qQQQ")
"""``struct file_clone_range``: descriptor, offset and length there, offset here (bytes)."""

_CANNOT_CLONE: Final = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.EPERM)

_COPY: Final = 1 << 20
"""Bytes that are copied by one call."""

Piece = tuple[int, int, int]
"""Offset in SRC and length in bytes, and the place in the log."""


class UndoLog:
    """The log of a mount, in *directory*. Raises `OSError` if there can be none.

    Small images go to memory first, and a thread writes them to the file: that may have to wait for
    the disk. The thread of the loop saves; any thread may call the methods that may block.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.fd = self._open()
        self._next = -1
        self._writer = LogWriter(self.failed, self._written)
        self._is_full = False

    def _open(self) -> int:
        # Without O_EXCL, which would forbid a name later (open(2)).
        return os.open(self.directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def room(self, size: int) -> memoryview | None:
        """Memory for *size* bytes, at most `IMAGE_MOST`, for `put`; None: there is none now.

        Raises `OSError` if the log cannot be written, mostly ENOSPC.
        """
        return self._writer.room(self.fd, size)

    def put(self, size: int, place: int) -> None:
        """Save the first *size* bytes of the latest `room` at *place*."""
        self._writer.put(size, place)

    def wait_for_room(self) -> None:
        """Wait until `room` gives some. Call it in a thread."""
        self._writer.wait_for_room()

    def hand_over(self) -> bool:
        """Have all that was put written to the file; False if too much waits already."""
        return self._writer.hand_over()

    @property
    def has_failed(self) -> bool:
        """Whether it cannot be written now."""
        return self._writer.has_failed

    def drop(self, is_useless: Callable[[int], bool]) -> None:
        """Drop what was put at places that are useless by now, and is not in the file yet."""
        self._writer.drop(is_useless)

    def drain(self) -> None:
        """Wait until what was handed over is in the file. Call it in a thread. Raises `OSError`."""
        self._writer.drain()

    def _written(self) -> None:
        self._is_full = False

    def _save(self, data: Data, place: int) -> None:
        try:
            write_all(self.fd, data, place)
        except OSError as error:
            self.failed(error)
            raise

    def _copy(self, fd: int, pieces: Iterable[Piece]) -> None:
        for offset, length, place in pieces:
            done = self._copy_in_kernel(fd, offset, length, place)
            while done < length:
                size = min(_COPY, length - done)
                # The place may have old contents: what is behind the end of the file is zeroes.
                self._save(blocking.read(fd, offset + done, size).ljust(size, b"\0"), place + done)
                done += size

    def _copy_in_kernel(self, fd: int, offset: int, length: int, place: int) -> int:
        """Copy as much as copy_file_range(2) does; returns how many bytes."""
        done = 0
        try:
            while done < length:
                copied = os.copy_file_range(fd, self.fd, length - done, offset + done, place + done)
                if not copied:
                    break  # the file has ended
                done += copied
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                self.failed(error)
                raise
        return done

    def save_file(self, fd: int, pieces: Iterable[Piece], name: str) -> None:
        """Clone or copy *pieces* of the file *fd* into the log. Call it in a thread.

        What was put must have been handed over. *name* is that of the file, for the daemon's log.
        Raises `OSError`: ENOSPC if they can only be copied, and are more than `COPIED_MOST`.
        """
        self.drain()  # a place may have had other contents, which are yet to be written
        left = self._clone(fd, pieces)
        size = sum(length for _, length, _ in left)
        if size > COPIED_MOST:
            log.error(
                "%s: %d MiB would have to be copied to %s, so that a power cut can bring them back;"
                " flush the file before it is truncated or discarded, or give a volatile_dir= on"
                " its own filesystem, if that can clone (XFS, btrfs)",
                name,
                size >> 20,
                self.directory,
            )
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._copy(fd, left)

    def _clone(self, fd: int, pieces: Iterable[Piece]) -> list[Piece]:
        """Clone what can be cloned; returns the rest."""
        left: list[Piece] = []
        can_clone = True
        end = os.fstat(fd).st_size
        mask = max(os.fstatvfs(fd).f_bsize, os.fstatvfs(self.fd).f_bsize) - 1  # only whole blocks
        for offset, length, place in pieces:
            whole = max(0, min(length, end - offset)) & ~mask
            if (offset | place) & mask:
                whole = 0
            if whole and can_clone:
                try:
                    request = _CLONE_RANGE.pack(fd, offset, whole, place)
                    fcntl.ioctl(self.fd, _FICLONERANGE, request)
                except OSError as error:
                    if error.errno not in _CANNOT_CLONE:
                        self.failed(error)
                        raise
                    can_clone = False
            if not (whole and can_clone):
                whole = 0
            if whole < length:
                left.append((offset + whole, length - whole, place + whole))
        return left

    def free(self, places: Iterable[int], size: int) -> None:
        """Free the blocks of *size* bytes at each of *places*. Call it in a thread."""
        mode = syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE
        try:
            for place in places:
                syscalls.fallocate(self.fd, mode, place, size)
        except OSError as error:  # they are written again some time
            log.debug("cannot free blocks of the undo log: %s", error.strerror)

    def failed(self, error: OSError) -> None:
        """Say in the daemon's log that the undo log cannot be written, and what helps; once."""
        if self._is_full:
            return
        self._is_full = True
        log.error(
            "the undo log in %s cannot be written: %s; writes fail until there is room, or until"
            " files are flushed (throttlefs sync); volatile_dir= names another place",
            self.directory,
            error.strerror,
        )

    def size(self) -> int:
        """How many bytes of its filesystem it takes up."""
        return os.fstat(self.fd).st_blocks * 512

    def give_name(self, path: bytes) -> None:
        """Link the file at *path*, an absolute one in its directory, when all is in it.

        Call it in a thread, while nothing is put. Raises `OSError`.
        """
        while not self.hand_over():
            self.wait_for_room()
        self.drain()
        directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # With a directory os.link() is linkat(2), which follows the link in /proc.
            os.link(b"/proc/self/fd/%d" % self.fd, path, src_dir_fd=directory)
        finally:
            os.close(directory)

    def make_next(self) -> None:
        """Open the file that `begin_anew` goes on with. Call it in a thread. Raises `OSError`."""
        if self._next < 0:
            self._next = self._open()

    def begin_anew(self) -> None:
        """Go on with the empty file of `make_next`. The old one goes, if it has no name.

        Call it in a thread, while nothing is put.
        """
        self._writer.forget()
        old, self.fd, self._next = self.fd, self._next, -1
        os.close(old)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        os.close(self.fd)
        if self._next >= 0:
            os.close(self._next)
