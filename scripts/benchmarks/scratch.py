"""The scratch directory: images, mount points, and the page cache of what lies in it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.mounts import force_unmount, mounted_below

MIB = 1024 * 1024
_CHUNK = 4 * MIB


class Scratch:
    """A directory that exists as long as its ``with`` block; what is mounted in it goes with it.

    ``images`` holds the images (throttlefs' SRC); every other path is made on demand.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent

    def __enter__(self) -> Scratch:
        try:
            made = tempfile.mkdtemp(prefix="throttlefs-bench-", dir=self._parent)
        except OSError as error:
            raise BenchmarkError(f"{self._parent}: {error.strerror}") from None
        self.root = Path(made).resolve()
        self.images = self.root / "images"
        self.images.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        for point in mounted_below(self.root):
            force_unmount(point)
        left = mounted_below(self.root)
        if left:
            # Removing the tree now would go through the mount and take its images.
            print(f"could not unmount {left[0]}; {self.root} is left behind", file=sys.stderr)
            return
        shutil.rmtree(self.root, ignore_errors=True)

    def require_space(self, size: int) -> None:
        """Raise BenchmarkError if fewer than ``size`` bytes are free."""
        free = shutil.disk_usage(self.root).free
        if free < size:
            raise BenchmarkError(
                f"{self.root.parent} has {free // MIB} MiB free, {size // MIB} MiB are needed: "
                "choose another directory with --dir"
            )

    def image(self, name: str, size: int, chunk: int = _CHUNK) -> Path:
        """Return an image of ``size`` bytes, written once with data (no holes) and kept.

        Written in requests of ``chunk`` bytes (at most 4 MiB): the page cache of ext4, XFS and
        btrfs keeps each in folios as large as itself, as long as it is not dropped.
        """
        path = self.images / name
        if not path.exists() or path.stat().st_size != size:
            self.require_space(size + 256 * MIB)
            pattern = os.urandom(_CHUNK)
            with path.open("wb", buffering=0) as file:
                for start in range(0, size, chunk):
                    file.write(pattern[: min(chunk, size - start)])
                file.flush()
                os.fsync(file.fileno())
        return path

    def is_memory(self) -> bool:
        """Return whether the directory lies in memory, where neither a disk nor O_DIRECT is."""
        return filesystem_of(self.root) in ("tmpfs", "ramfs")


def filesystem_of(path: Path) -> str:
    """Return the type of the filesystem a path lies on, as /proc/self/mountinfo names it."""
    best, kind = -1, "unknown"
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if fields[2] == wanted and len(fields[4]) > best:
            best, kind = len(fields[4]), after.split(" ")[0]
    return kind


def warm_up(path: Path) -> None:
    """Write back what is dirty and bring the whole file into the page cache."""
    buffer = memoryview(bytearray(_CHUNK))
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fdatasync(descriptor)
        offset = 0
        while got := os.preadv(descriptor, [buffer], offset):
            offset += got
    finally:
        os.close(descriptor)


def drop_cache(path: Path) -> None:
    """Take the file out of the page cache; dirty pages are written back first, or they stay.

    posix_fadvise(2), POSIX_FADV_DONTNEED: needs no privilege, and other files keep their pages.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
        with suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
