"""System calls that open and make files, for `throttlefs.fuse.operations`."""

from __future__ import annotations

import logging
import os

from throttlefs.host import syscalls
from throttlefs.host.files import FileKey

from .inodes import PATH_FLAGS

log = logging.getLogger("throttlefs")


def open_and_stat_here(name: bytes, dir_fd: int) -> tuple[int, os.stat_result]:
    """A descriptor (O_PATH) of *name* in *dir_fd* and its status, if it is on that filesystem.

    Raises `OSError`, EXDEV if something is mounted on it.
    """
    fd = syscalls.open_on_same_filesystem(name, PATH_FLAGS, dir_fd)
    try:
        return fd, os.fstat(fd)
    except BaseException:
        os.close(fd)
        raise


def open_file(path: bytes, flags: int) -> int:
    """open(2), without O_NOATIME if only the owner of the file may ask for that."""
    try:
        return os.open(path, flags)
    except PermissionError:
        if not flags & os.O_NOATIME:
            raise
    return os.open(path, flags & ~os.O_NOATIME)


def unmake(name: bytes, dir_fd: int, key: FileKey) -> None:
    """Remove the file *key* that was just made as *name*, unless *name* is another file by now."""
    try:
        st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if (st.st_dev, st.st_ino) == key:
            os.unlink(name, dir_fd=dir_fd)
    except OSError as exc:
        log.warning("a new file could not be opened, and cannot be removed: %s", exc.strerror)
