"""Opens what is measured: a file of our own in a directory, or a file or device that is there.

A file of our own has no name (O_TMPFILE), or none for longer than it takes to open it. So it is
gone when nobody has it open, however we end. What is there already is only read, unless it may be
destroyed; then it must be in nobody's use and hold no filesystem, partitions or the like.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from throttlefs.errors import ThrottlefsError, UsageError
from throttlefs.host.filesystems import filesystem_type, is_in_memory
from throttlefs.settings.units import format_bytes, format_size

SMALLEST: Final = 1 << 20
"""Bytes; less than this is no disk, but some request's cache."""

_PIECE: Final = 1 << 20
_SEARCHED: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
_NOTHING_FOUND: Final = 2
"""The status of blkid(8) if there is no signature."""

Progress = Callable[[str], None]
"""Is told in a few words what is under way."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is measured, held open."""

    fd: int
    size: int
    """Bytes that may be used."""
    writable: bool
    own: bool
    """Whether it is a file of our own."""

    @property
    def path(self) -> str:
        """A path at which a child of ours can open it."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"


@contextlib.contextmanager
def opened(path: str, size: int, destroy: bool, progress: Progress) -> Iterator[Target]:
    """The target at *path*: a directory, a file or a block device.

    *size* (bytes) is that of a file of our own, and the most that is used of another. Raises
    `ThrottlefsError` that says why it cannot be measured.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        if destroy:
            raise UsageError(
                f"{path} is a directory, in which nothing is destroyed: leave out --destroy"
            )
        target = _own_file(path, size, progress)
    elif stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        target = _existing(path, mode, size, destroy)
    else:
        raise UsageError(f"{path} is neither a directory nor a file nor a block device")
    try:
        yield target
    finally:
        os.close(target.fd)


def _own_file(directory: str, size: int, progress: Progress) -> Target:
    try:
        fd = _unnamed(directory)
    except OSError as error:
        raise ThrottlefsError(f"{directory}: cannot make a file: {error.strerror}") from None
    try:
        _refuse_memory(fd, directory)
        _fill(fd, size, progress)
        _past_the_cache(fd, directory)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            raise ThrottlefsError(
                f"{directory}: cannot write {format_size(size)}: {error.strerror};"
                " --size says how much is measured"
            ) from None
        raise
    return Target(fd, size, writable=True, own=True)


def _unnamed(directory: str) -> int:
    """A new file in *directory* that has no name."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # FAT, NFS and others have no such files.
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            raise
    fd, name = tempfile.mkstemp(prefix=".throttlefs-", dir=directory)
    try:
        os.unlink(name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _fill(fd: int, size: int, progress: Progress) -> None:
    """Write random data, for a read of what was never written asks no disk.

    Each piece is another one, or a disk that keeps equal data once would keep little.
    """
    data = bytearray(os.urandom(_PIECE))
    done = told = 0
    while done < size:
        data[0:8] = done.to_bytes(8, "little")
        done += os.pwrite(fd, memoryview(data)[: min(_PIECE, size - done)], done)
        if done - told >= size // 10 or done == size:
            progress(f"writing a file to measure: {format_bytes(done)} of {format_bytes(size)}")
            told = done
    os.fsync(fd)


def _refuse_memory(fd: int, path: str) -> None:
    try:
        name = filesystem_type(fd)
    except OSError:
        return
    if is_in_memory(name):
        raise UsageError(f"{path} is in memory ({name}), not on a disk: name a place on the disk")


def _past_the_cache(fd: int, path: str) -> None:
    """Raise `UsageError` unless *fd* can be read past the page cache."""
    try:
        direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read past the page cache (O_DIRECT: {error.strerror}), so it would"
            " be memory that is measured"
        ) from None
    try:
        with mmap.mmap(-1, 4096) as page, memoryview(page) as view:
            os.preadv(direct, [view], 0)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(direct)


def _existing(path: str, mode: int, size: int, destroy: bool) -> Target:
    flags = os.O_CLOEXEC | (os.O_RDWR if destroy else os.O_RDONLY)
    if destroy and stat.S_ISBLK(mode):
        flags |= os.O_EXCL  # open(2): EBUSY if it is in use, e.g. mounted
    try:
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise ThrottlefsError(f"{path} is in use, so nothing is destroyed") from None
        raise ThrottlefsError(f"{path}: {error.strerror}") from None
    try:
        whole = os.lseek(fd, 0, os.SEEK_END)
        if stat.S_ISREG(mode):
            _refuse_memory(fd, path)
        if whole < SMALLEST:
            raise UsageError(
                f"{path} has {format_size(whole)}, too little to measure: at least"
                f" {format_size(SMALLEST)}"
            )
        if destroy:
            _refuse_used(fd, path, mode)
        _past_the_cache(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return Target(fd, min(whole, size), writable=destroy, own=False)


def _refuse_used(fd: int, path: str, mode: int) -> None:
    """Raise `ThrottlefsError` if somebody uses *path*, or it holds more than plain data."""
    if stat.S_ISREG(mode):
        try:
            # Granted only if nobody else has the file open (fcntl(2), F_SETLEASE).
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            reason = (
                "is in use"
                if error.errno == errno.EAGAIN
                else (f"may be in use, which cannot be told here ({error.strerror})")
            )
            raise ThrottlefsError(f"{path} {reason}, so nothing is destroyed") from None
    blkid = shutil.which("blkid", path=_SEARCHED)
    if blkid is None:
        raise ThrottlefsError("--destroy needs blkid, to see what is there: install util-linux")
    found = subprocess.run(
        [blkid, "--probe", "--output", "export", f"/proc/{os.getpid()}/fd/{fd}"],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if found.returncode != _NOTHING_FOUND:
        values = dict(line.partition("=")[::2] for line in found.stdout.splitlines())
        what = values.get("TYPE") or values.get("PTTYPE") or "something that blkid cannot name"
        raise ThrottlefsError(
            f"{path} holds {what}, so nothing is destroyed; wipefs --all removes the signature"
        )
