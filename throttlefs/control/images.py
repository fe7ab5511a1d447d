"""Finds the image that a client names, and lists the images of a mount."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from throttlefs.fuse.inodes import InodeTable
from throttlefs.host.files import FileKey
from throttlefs.policy.governor import Governor
from throttlefs.settings.globs import literal
from throttlefs.stats import ImageStatistics, Statistics
from throttlefs.throttle import Image

from .device_names import device_name, paths_of
from .protocol import DeviceNotFoundError

_MOST_SYMLINKS: Final = 40  # as path_resolution(7)
_DIRECTORY_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class KnownImage:
    """An image that is open, or that the limiter or the statistics still know."""

    key: FileKey
    path: bytes
    image: Image | None
    """None if the limiter has dropped it: it is not open, owes nothing and follows the rules."""
    statistics: ImageStatistics | None

    @property
    def device(self) -> str:
        """The path as clients see it."""
        return device_name(self.path)

    @property
    def handles(self) -> int:
        """How often it is open."""
        return 0 if self.statistics is None else self.statistics.handles


class Images:
    """The images of a mount."""

    def __init__(self, inodes: InodeTable, governor: Governor, statistics: Statistics) -> None:
        self._inodes = inodes
        self._governor = governor
        self._statistics = statistics

    @property
    def is_one(self) -> bool:
        """Whether the mount is one image: a change of the mount is then a change of the image."""
        return self._inodes.is_one_file

    def is_open(self, key: FileKey) -> bool:
        """Whether somebody has the file open."""
        found = self._statistics.get(key)
        return found is not None and found.handles > 0

    def known(self) -> list[KnownImage]:
        """All `KnownImage` of the mount, sorted by path."""
        images: dict[FileKey, Image | None] = {}
        for image in self._governor.throttle.images():
            images[image.key] = image  # type: ignore[index]
        for statistics in self._statistics.images():
            images.setdefault(statistics.key, None)  # type: ignore[call-overload]
        found = [self._describe(key, image) for key, image in images.items()]
        return sorted(found, key=lambda known: known.path)

    def sizes(self, known: Sequence[KnownImage]) -> list[tuple[int, int]]:
        """Length and use (bytes) of each image, 0 if it is gone. May block: call it in a thread."""
        return [self._size(image) for image in known]

    def _size(self, image: KnownImage) -> tuple[int, int]:
        root = self._inodes.root
        try:
            one = self._inodes.is_one_file
            st = os.fstat(root.fd) if one else _stat_below(root.fd, image.path)
        except OSError:
            return 0, 0
        if (st.st_dev, st.st_ino) != image.key:
            return 0, 0
        return st.st_size, st.st_blocks * 512

    def _describe(self, key: FileKey, image: Image | None) -> KnownImage:
        statistics = self._statistics.get(key)
        path = self._inodes.path_of(key) or self._governor.paths.get(key)
        if path is None:
            path = b"" if statistics is None else statistics.path
        return KnownImage(key, path, image, statistics)

    async def find(self, device: str) -> tuple[FileKey, bytes]:
        """The key of the file that *device* names, known or not, and its path without symlinks.

        Raises `DeviceNotFoundError`.
        """
        root = self._inodes.root
        if self._inodes.is_one_file:
            if root.name in paths_of(device):
                return root.key, root.name
            raise DeviceNotFoundError(device, "")
        reason = ""
        for path in paths_of(device):
            try:
                return await trio.to_thread.run_sync(_resolve, self._inodes.root.fd, path)
            except OSError as exc:
                reason = reason or ("" if exc.errno == errno.ENOENT else str(exc.strerror))
        for known in self.known():
            # A file that is unlinked and still open keeps its last name.
            if known.handles and known.device == device:
                return known.key, known.path
        raise DeviceNotFoundError(device, reason)

    async def patterns(self, device: str) -> list[str]:
        """Patterns for the file that *device* names, or for a directory and all that is in it.

        Raises `DeviceNotFoundError`.
        """
        try:
            return [literal((await self.find(device))[1])]
        except DeviceNotFoundError:
            for path in () if self._inodes.is_one_file else paths_of(device):
                path = path.strip(b"/")  # noqa: PLW2901
                is_one = trio.to_thread.run_sync(_is_directory, self._inodes.root.fd, path)
                if await is_one:
                    return [literal(path), literal(path + b"/") + "**"]
            raise


def _is_directory(root_fd: int, path: bytes) -> bool:
    try:
        return stat.S_ISDIR(_stat_below(root_fd, path).st_mode)
    except (OSError, ValueError):
        return False


def _stat_below(root_fd: int, path: bytes) -> os.stat_result:
    """lstat(2) of *path* below *root_fd*; follows no symlink. Raises `OSError`."""
    *directories, name = path.split(b"/")
    fd = os.dup(root_fd)
    try:
        for directory in directories:
            inner = os.open(directory, _DIRECTORY_FLAGS, dir_fd=fd)
            os.close(fd)
            fd = inner
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    finally:
        os.close(fd)


def _resolve(root_fd: int, path: bytes) -> tuple[FileKey, bytes]:
    """Find the regular file at *path* below *root_fd*, never leaving it; follows symlinks.

    Raises `OSError`.
    """
    pending = [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]
    trail: list[bytes] = []
    links = 0
    fds = [os.dup(root_fd)]
    try:
        while pending:
            name = pending.pop()
            if name == b"..":
                if len(fds) == 1:
                    raise OSError(errno.EXDEV, "the path leads out of the mount")
                os.close(fds.pop())
                trail.pop()
                continue
            st = os.stat(name, dir_fd=fds[-1], follow_symlinks=False)
            if stat.S_ISLNK(st.st_mode):
                links += 1
                target = os.readlink(name, dir_fd=fds[-1])
                if links > _MOST_SYMLINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if target.startswith(b"/"):
                    raise OSError(errno.EXDEV, "the path leads out of the mount")
                pending += [
                    part for part in reversed(target.split(b"/")) if part not in (b"", b".")
                ]
            elif stat.S_ISDIR(st.st_mode):
                fds.append(os.open(name, _DIRECTORY_FLAGS, dir_fd=fds[-1]))
                trail.append(name)
            elif pending:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            elif not stat.S_ISREG(st.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            else:
                return (st.st_dev, st.st_ino), b"/".join([*trail, name])
    except ValueError:  # a NUL in the name
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
    finally:
        for fd in fds:
            os.close(fd)
    raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
