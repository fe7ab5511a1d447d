"""The hidden directory of a volatile mount: files that a power cut may bring back, and its plan.

It lies in SRC, or beside SRC if that is one file, and belongs to one mount alone, which holds a
lock on it. What a mount that was killed has left in it, the next one takes away.

Each file in it has its inode number as its name. A file there is one more link to it; a directory
was moved there. A file named `MARK` says that a mount has made the directory. Whoever may write to
SRC could give its name to another directory, even to one of root's: that is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Final

from throttlefs.errors import ThrottlefsError

from .files import FileKey

log = logging.getLogger("throttlefs")

STASH_NAME: Final = b".throttlefs-volatile"
"""The name of the hidden directory in SRC. A file NAME has ``.NAME.throttlefs-volatile``."""

MARK: Final = b"made-by-throttlefs"
"""The name of the file in it that says that a mount has made it."""

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PROBE = b"probe"

CANNOT_LINK: Final = (errno.EPERM, errno.EMLINK)
"""Errors of files that cannot be linked into the hidden directory, but may be moved there."""

ELSEWHERE: Final = errno.EXDEV
"""The error of files on another mount below SRC, though perhaps on the same filesystem."""


def stash_name(file_name: bytes) -> bytes:
    """The name of the hidden directory; *file_name* is SRC's own if it is one file, else empty."""
    return b"." + file_name + STASH_NAME if file_name else STASH_NAME


def open_stash(source: str, parent_fd: int, name: bytes, *, make: bool) -> Stash | None:
    """The hidden directory *name* in the directory *parent_fd*, locked; None if there is none.

    With *make* there is one then. *source* is SRC, for messages. Raises `ThrottlefsError` if
    another mount holds it, or if it is to be made and cannot be used. A directory of that name that
    no mount of this user has made counts as none, without *make*: nobody may stop the mounts of
    others by making one.
    """
    while True:
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=parent_fd)
            fd = os.open(name, _FLAGS, dir_fd=parent_fd)
        except FileNotFoundError:
            if make:
                continue  # the mount that it belonged to has just ended
            return None
        except OSError as exc:
            if not make:
                log.warning("%s is left alone: %s", _path(source, name), exc.strerror)
                return None
            raise ThrottlefsError(_why_not_opened(source, name, exc)) from None
        try:
            if _is_private(fd):
                _lock(fd, source, name)
                if not _is_still_there(fd, parent_fd, name):
                    os.close(fd)
                    continue
                if _is_marked(fd, make=make):
                    return Stash(fd, parent_fd, name)
            foreign = f"{_path(source, name)} was not made by a mount of yours"
            if make:
                raise ThrottlefsError(f"{foreign}; see what is in it, and move it away")
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        log.warning("%s, and is left alone", foreign)
        return None


def _path(source: str, name: bytes) -> str:
    directory = source if name == STASH_NAME else os.path.dirname(source)
    return os.path.join(directory, os.fsdecode(name))


def _why_not_opened(source: str, name: bytes, exc: OSError) -> str:
    path = _path(source, name)
    if exc.errno == errno.EACCES and os.path.lexists(path):
        return (
            f"SRC {source} is, or was, another user's volatile mount: you may not open {path};"
            " mount it as that user, or as root"
        )
    return f"-o volatile keeps removed files in {path}: {exc.strerror}"


def _is_private(fd: int) -> bool:
    """Whether the directory is this user's, and nobody else may look into it."""
    st = os.fstat(fd)
    return st.st_uid == os.geteuid() and not st.st_mode & 0o077


def _is_marked(fd: int, *, make: bool) -> bool:
    """Whether a mount has made the directory; with *make* an empty one becomes such a one."""
    with os.scandir(fd) as entries:
        is_empty = next(entries, None) is None
    if is_empty and make:
        os.close(os.open(MARK, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o400, dir_fd=fd))
    try:
        return stat.S_ISREG(os.stat(MARK, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _lock(fd: int, source: str, name: bytes) -> None:
    """Lock the directory. Raises `ThrottlefsError` if another mount has."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ThrottlefsError(
            f"SRC {source} is mounted already, with -o volatile, and can have no second mount;"
            " use that mount, or unmount it first (throttlefs list names it)"
        ) from None
    except OSError as exc:
        raise ThrottlefsError(f"{_path(source, name)} cannot be locked: {exc.strerror}") from None


def _is_still_there(fd: int, parent_fd: int, name: bytes) -> bool:
    try:
        found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(fd))


class Stash:
    """The hidden directory *name* in the directory *parent_fd*, locked by its descriptor *fd*.

    ``keys`` are the files in it. All calls may wait for the disk, and raise `OSError`.
    """

    def __init__(self, fd: int, parent_fd: int, name: bytes) -> None:
        self.fd = fd
        self.name = name
        self.keys: set[FileKey] = set()
        self._parent_fd = parent_fd
        self._links = threading.Lock()  # held by threads, even while a large file is removed
        self._lock = threading.Lock()  # of the claims; never held for long
        self._claims: dict[FileKey, int] = {}

    # -- files -----------------------------------------------------------------------------

    @staticmethod
    def name_of(key: FileKey) -> bytes:
        """The name that the file *key* has there."""
        return b"%x" % key[1]

    def has(self, key: FileKey) -> bool:
        """Whether the file is there, whoever put it there."""
        try:
            return self._ino_of(self.name_of(key)) == key[1]
        except FileNotFoundError:
            return False

    def keep(self, directory: int, name: bytes, key: FileKey) -> bool:
        """Link the file *key*, which is *name* in *directory*; False if it has been replaced.

        It is not dropped before `unclaim` is called as often. Raises `OSError`, `PermissionError`
        among them: fs.protected_hardlinks in proc(5).
        """
        with self._links:
            if not self._link(directory, name, key):
                return False
            with self._lock:
                self._claims[key] = self._claims.get(key, 0) + 1
            return True

    def unclaim(self, key: FileKey) -> None:
        """Take back one claim of `keep`: somebody else says now how long the file stays.

        It never waits for the disk.
        """
        with self._lock:
            self._claims[key] -= 1
            if not self._claims[key]:
                del self._claims[key]

    def unclaim_all(self) -> None:
        """Take back all claims: no removal is under way."""
        with self._lock:
            self._claims.clear()

    def _link(self, directory: int, name: bytes, key: FileKey) -> bool:
        hidden = self.name_of(key)
        try:
            os.link(
                *(name, hidden),
                src_dir_fd=directory,
                dst_dir_fd=self.fd,
                follow_symlinks=False,
            )
        except FileExistsError:
            pass
        if self._ino_of(hidden) != key[1]:
            os.unlink(hidden, dir_fd=self.fd)
            return False
        self.keys.add(key)
        return True

    def keep_open(self, fd: int, key: FileKey) -> None:
        """Link the file *key*, of which *fd* is a descriptor. Raises `OSError`."""
        try:
            # With both descriptors; otherwise Python uses link(2), which does not follow.
            os.link(
                b"/proc/self/fd/%d" % fd, self.name_of(key), src_dir_fd=self.fd, dst_dir_fd=self.fd
            )
        except FileExistsError:
            pass
        self.keys.add(key)

    def move_in(self, directory: int, name: bytes, key: FileKey) -> None:
        """Move the file or directory *key* from *name* in *directory*. Raises `OSError`."""
        _move(name, directory, self.name_of(key), self.fd)
        self.keys.add(key)

    def move_out(self, directory: int, name: bytes, key: FileKey) -> None:
        """Move the directory *key* to *name* in *directory*. Raises `OSError`."""
        _move(self.name_of(key), self.fd, name, directory)
        self.keys.discard(key)

    def link_out(self, directory: int, name: bytes, key: FileKey) -> None:
        """Link the file *key* as *name* in *directory*, too. Raises `OSError`."""
        os.link(
            *(self.name_of(key), name),
            src_dir_fd=self.fd,
            dst_dir_fd=directory,
            follow_symlinks=False,
        )

    def open(self, key: FileKey, flags: int) -> int:
        """A descriptor of the file *key*. Raises `OSError`."""
        return os.open(self.name_of(key), flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)

    def stat(self, key: FileKey) -> os.stat_result:
        """The status of the file *key*. Raises `OSError`."""
        return os.stat(self.name_of(key), dir_fd=self.fd, follow_symlinks=False)

    def is_last_name(self, key: FileKey) -> bool:
        """Whether the file has no other name, and nobody claims it. Raises `OSError`."""
        if self._is_claimed(key):
            return False
        return os.stat(self.name_of(key), dir_fd=self.fd, follow_symlinks=False).st_nlink == 1

    def drop(self, key: FileKey, is_needed: Callable[[FileKey], bool]) -> None:
        """Remove what is there of the file *key*, unless it is claimed, or *is_needed* says so.

        What was claimed a moment ago may have come to be needed since the caller looked.
        """
        with self._links:
            if not self._is_claimed(key) and not is_needed(key):
                self._remove(self.name_of(key))
                self.keys.discard(key)

    def _is_claimed(self, key: FileKey) -> bool:
        with self._lock:
            return key in self._claims

    def _ino_of(self, name: bytes) -> int:
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_ino

    # -- the directory itself --------------------------------------------------------------

    def check_links(self) -> None:
        """Raise `ThrottlefsError` if the filesystem has no hard links."""
        try:
            os.close(os.open(_PROBE, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=self.fd))
            os.link(_PROBE, _PROBE + b"2", src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError as exc:
            raise ThrottlefsError(
                f"-o volatile needs hard links, and SRC's filesystem has none: {exc.strerror}"
            ) from None
        finally:
            for name in (_PROBE, _PROBE + b"2"):
                self._remove(name)

    def sweep(self) -> bool:
        """Remove all that is in it, but for the mark; whether nothing else is left.

        What cannot be removed is named in the log, and stays for the next time.
        """
        is_swept = True
        for name in self._names():
            if name != MARK:
                try:
                    self._remove(name)
                except OSError as exc:
                    is_swept = False
                    log.warning("a removed file stays in SRC's hidden directory: %s", exc.strerror)
        self.keys.clear()
        self._claims.clear()
        return is_swept

    def close(self, *, keep: bool = False) -> None:
        """Remove the directory, unless it is to be *kept*, and give up the lock."""
        try:
            if not keep and self.sweep():
                self._remove(MARK)
                os.rmdir(self.name, dir_fd=self._parent_fd)
        except OSError as exc:
            log.warning("the hidden directory of SRC stays: %s", exc.strerror)
        finally:
            os.close(self.fd)

    def _names(self) -> Iterator[bytes]:
        # Not from the descriptor itself: it would be read from where the last listing ended.
        fd = os.open(b".", _FLAGS, dir_fd=self.fd)
        try:
            yield from map(os.fsencode, os.listdir(fd))
        finally:
            os.close(fd)

    def _remove(self, name: bytes) -> None:
        """Remove *name* with all below it, if it is there."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            if not stat.S_ISDIR(os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mode):
                raise
            self._remove_tree(name)

    def _remove_tree(self, name: bytes) -> None:
        """Remove a directory with all below it, even if its mode keeps its owner out.

        Directories below it are first moved to where it lies, so it may be as deep as it likes.
        """
        left = [name]
        while left:
            directory = left.pop()
            fd = _open_to_change(directory, self.fd)
            try:
                for entry in os.listdir(fd):
                    st = os.stat(entry, dir_fd=fd, follow_symlinks=False)
                    if stat.S_ISDIR(st.st_mode):
                        below = self.name_of((st.st_dev, st.st_ino))
                        _move(os.fsencode(entry), fd, below, self.fd)
                        left.append(below)
                    else:
                        os.unlink(entry, dir_fd=fd)
            finally:
                os.close(fd)
            os.rmdir(directory, dir_fd=self.fd)


def _move(old: bytes, old_directory: int, new: bytes, new_directory: int) -> None:
    """rename(2), even of a directory that its owner may not write to, if that is we."""
    try:
        os.rename(old, new, src_dir_fd=old_directory, dst_dir_fd=new_directory)
        return
    except PermissionError:
        fd = os.open(old, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=old_directory)
        st = os.fstat(fd)
        if not stat.S_ISDIR(st.st_mode) or st.st_mode & stat.S_IRWXU == stat.S_IRWXU:
            os.close(fd)
            raise
    path = b"/proc/self/fd/%d" % fd
    try:
        os.chmod(path, stat.S_IMODE(st.st_mode) | stat.S_IRWXU)
        try:
            os.rename(old, new, src_dir_fd=old_directory, dst_dir_fd=new_directory)
        finally:
            os.chmod(path, stat.S_IMODE(st.st_mode))
    finally:
        os.close(fd)


def _open_to_change(name: bytes, dir_fd: int) -> int:
    """A descriptor of the directory *name*, which its owner may change then. Raises `OSError`."""
    # Not by its name: another user may have put a symlink there meanwhile.
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    path = b"/proc/self/fd/%d" % fd
    try:
        with contextlib.suppress(OSError):  # if that matters, removing will tell
            os.chmod(path, 0o700)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(fd)
