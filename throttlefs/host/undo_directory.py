"""Checks the directory of the undo log, ``-o volatile_dir``, before anything is mounted."""

from __future__ import annotations

import errno
import os
import stat

from throttlefs.errors import ThrottlefsError

from .paths import MountPaths, check_visible

_CURE = "name another directory: -o volatile_dir=DIR"


def check_undo_directory(paths: MountPaths, directory: str) -> None:
    """Raise `ThrottlefsError` unless a mount of *paths* can be undone by a log in *directory*.

    The log is a file without a name (O_TMPFILE in open(2)), which not every filesystem has. SRC
    must not be a block device, because the log is kept for files only.
    """
    if stat.S_ISBLK(os.stat(paths.source).st_mode):
        raise ThrottlefsError(
            f"SRC {paths.source} is a block device, and -o volatile undoes writes to files only;"
            " name an image, or a directory"
        )
    check_visible(paths, "volatile_dir", directory, _CURE)
    try:
        os.close(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        reason = exc.strerror
        if exc.errno in (errno.EOPNOTSUPP, errno.EISDIR):
            reason = "its filesystem has no files without a name (O_TMPFILE)"
        raise ThrottlefsError(
            f"volatile_dir {directory}: the undo log cannot be there: {reason}; {_CURE}"
        ) from None
