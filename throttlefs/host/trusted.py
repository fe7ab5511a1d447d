"""Opens paths that root is given and that other users may change.

Another user's symlink may lead anywhere by the time that root opens it. So root follows only its
own symlinks, step by step, and keeps the directory open that it came to. For all other users these
functions are plain open(2).
"""

from __future__ import annotations

import errno
import os
import stat

_MOST_SYMLINKS = 40  # as path_resolution(7)
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class ForeignLinkError(OSError):
    """The path leads through a symlink of another user's."""

    def __init__(self, link: str) -> None:
        super().__init__(
            errno.ELOOP, f"root does not follow {link}, another user's symbolic link", link
        )


def open_file(path: str, flags: int, mode: int = 0o666) -> int:
    """open(2). Raises `OSError`, `ForeignLinkError` too."""
    if os.geteuid() != 0:
        return os.open(path, flags, mode)
    directory, name = _walk(path, follow_last=True)
    try:
        if not _is_in_proc(directory):  # /dev/stderr leads there, and its links are the kernel's
            flags |= os.O_NOFOLLOW
        return os.open(name, flags, mode, dir_fd=directory)
    finally:
        os.close(directory)


def read_file(path: str, most: int) -> bytes:
    """The first *most* bytes of the regular file *path*. Raises `OSError`."""
    # O_NONBLOCK: do not wait for the writer of a FIFO.
    descriptor = open_file(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def open_directory_of(path: str) -> tuple[int, str]:
    """The directory (O_PATH) that *path* lies in, and its name there, which is not looked up."""
    if os.geteuid() == 0:
        return _walk(path, follow_last=False)
    head, name = os.path.split(os.path.abspath(path))
    return os.open(head, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), name


def destination(path: str) -> str | None:
    """Where *path* leads for root, without symlinks; None if it leads nowhere or to a dead mount.

    Raises `ForeignLinkError` if the way has another user's symlink.
    """
    try:
        directory, name = _walk(path, follow_last=True)
    except ForeignLinkError:
        raise
    except OSError:
        return None
    try:
        return os.path.normpath(os.path.join(os.readlink(f"/proc/self/fd/{directory}"), name))
    finally:
        os.close(directory)


def _walk(path: str, follow_last: bool) -> tuple[int, str]:
    pending = _parts(path if os.path.isabs(path) else os.path.join(os.getcwd(), path))
    links = 0
    here = _root()
    try:
        while pending:
            name = pending.pop()
            if not pending and name != ".." and not follow_last:
                return os.dup(here), name
            try:
                found = _step(name, here, bool(pending))
            except FileNotFoundError:
                if pending or name == "..":
                    raise
                return os.dup(here), name
            try:
                st = os.fstat(found)
                if not stat.S_ISLNK(st.st_mode):
                    if not pending and name != "..":
                        return os.dup(here), name
                    here, found = found, here
                    continue
                if st.st_uid != 0:
                    raise ForeignLinkError(os.path.join(os.readlink(f"/proc/self/fd/{here}"), name))
                if not pending and _is_in_proc(here):
                    return os.dup(here), name
                links += 1
                if links > _MOST_SYMLINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink("", dir_fd=found)
            finally:
                os.close(found)
            pending += _parts(target)
            if target.startswith("/"):
                os.close(here)
                here = _root()
        return os.dup(here), "."
    finally:
        os.close(here)


def _step(name: str, directory: int, goes_on: bool) -> int:
    """*name* in *directory*, opened with O_PATH; a symlink is not followed."""
    if goes_on:
        try:
            # O_DIRECTORY triggers an automount (open(2), O_PATH).
            return os.open(name, _STEP | os.O_DIRECTORY, dir_fd=directory)
        except NotADirectoryError:
            pass
    return os.open(name, _STEP, dir_fd=directory)


def _parts(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _root() -> int:
    return os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _is_in_proc(fd: int) -> bool:
    return os.fstat(fd).st_dev == os.stat("/proc").st_dev
