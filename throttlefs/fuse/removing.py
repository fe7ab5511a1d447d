"""Removes files on a volatile mount so that a power cut can bring them back. All in threads."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

import pyfuse3

from throttlefs.device.volatile.journal import Journal
from throttlefs.device.volatile.names import Named
from throttlefs.host.stash import CANNOT_LINK, ELSEWHERE, Stash

from . import privileges


class Removal(NamedTuple):
    """A file that is about to lose a name."""

    named: Named
    is_regular: bool = False
    is_kept: bool = False
    """Whether it has a link in the hidden directory, which is claimed until the journal knows."""

    must_move: bool = False
    """Whether it must be moved there, because it cannot be linked."""


class RemovedFiles:
    """Puts files into the hidden directory *stash*, those of the device *dev* alone."""

    def __init__(self, stash: Stash, journal: Journal, dev: int) -> None:
        self._stash = stash
        self._journal = journal
        self._dev = dev

    def look(self, directory: int, name: bytes) -> Removal | None:
        """The file *name* in *directory*; None if there is none, or it is on another device."""
        try:
            st = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError:
            return None  # the handler will say what is wrong
        if st.st_dev != self._dev:
            return None
        named = Named((st.st_dev, st.st_ino), stat.S_ISDIR(st.st_mode))
        return Removal(named, stat.S_ISREG(st.st_mode))

    def keep(self, directory: int, name: bytes) -> Removal | None:
        """As `look`; a file, not a directory, has a link in the hidden directory then.

        None also if it is on another mount: then its removal is final.
        """
        while True:
            found = self.look(directory, name)
            if found is None or found.named.is_directory:
                return found
            key = found.named.key
            try:
                if self._stash.keep(directory, name, key):
                    return found._replace(is_kept=True)
            except FileNotFoundError:
                continue
            except OSError as exc:
                if exc.errno == ELSEWHERE:
                    return None
                if exc.errno not in CANNOT_LINK:
                    raise
                return found._replace(must_move=True)

    def before_rename(
        self, old: int, old_name: bytes, new: int, new_name: bytes, replaces: bool
    ) -> tuple[Removal | None, Removal | None]:
        """Both files of a rename; *replaces*: unless it exchanges them, or there must be but one.

        What it replaces has a link in the hidden directory then, or is to be moved there.
        """
        source, target = self.look(old, old_name), self.look(new, new_name)
        if source is None or target is None or not replaces or source.named == target.named:
            return source, target
        if source.named.is_directory != target.named.is_directory:
            return source, target  # that is an error
        if target.named.is_directory:
            return source, target._replace(must_move=True)
        return source, self.keep(new, new_name)

    def move(self, directory: int, name: bytes, named: Named, ctx: pyfuse3.RequestContext) -> None:
        """Move a file, or an empty directory, into the hidden directory. Raises `OSError`.

        The caller needs the right to remove it, as for unlink(2) and rmdir(2).
        """
        _check_may_remove(directory, name, ctx)
        if named.is_directory:
            _check_empty(name, directory)
        self._stash.move_in(directory, name, named.key)
        if named.is_directory:
            try:  # somebody may have put a file there meanwhile, in SRC itself
                _check_empty(self._stash.name_of(named.key), self._stash.fd)
            except OSError:
                self._stash.move_out(directory, name, named.key)
                raise


def _check_empty(name: bytes, directory: int) -> None:
    """Raise `OSError`, ENOTEMPTY, unless the directory *name* is empty."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        if os.listdir(fd):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
    finally:
        os.close(fd)


def _check_may_remove(directory: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
    """Raise `OSError` unless the caller may remove *name* (``may_delete`` in the kernel).

    The kernel has checked that already, of the directory as it remembers it.
    """
    with privileges.acting_for(ctx.uid, ctx.gid):
        path = b"/proc/self/fd/%d" % directory
        if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    parent = os.fstat(directory)
    if ctx.uid != 0 and parent.st_mode & stat.S_ISVTX:
        st = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if ctx.uid not in (st.st_uid, parent.st_uid):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
