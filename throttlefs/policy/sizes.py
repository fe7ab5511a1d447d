"""Compares the size that a device is said to have with the images that are to lie on it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from throttlefs.errors import UsageError
from throttlefs.settings.units import format_bytes, quoted

from .policy import Policy

_MOST_FILES: Final = 10_000
"""How many files of SRC are looked at, which takes some 50 ms."""


def check_sizes(policy: Policy, source: str, is_file: bool) -> None:
    """Raise `UsageError` if the device of any image in *source* is smaller than the image.

    Of a directory the first files are looked at, and nothing at all if no device has a size.
    """
    sizes = [policy.default.device.size]
    sizes += [group.device.size for group in policy.groups.values()]
    sizes += [rule.device.size for rule in policy.config.images if rule.device is not None]
    if not any(sizes):
        return
    files = [(os.path.basename(source), _size(source))] if is_file else _files(source)
    for path, size in files:
        held = policy.for_path(os.fsencode(path))
        device = held.device
        group = held.group
        while not device.size and group is not None:
            device, group = policy.groups[group].device, policy.groups[group].parent
        if 0 < device.size < size:
            raise UsageError(
                f"size={format_bytes(device.size)} is below that of the image {quoted(path)}, "
                f"which has {format_bytes(size)}: say a larger size, or none"
            )


def _size(path: str) -> int:
    """The size of a file or block device (bytes), 0 if it cannot be told."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        st = os.fstat(fd)
        return os.lseek(fd, 0, os.SEEK_END) if stat.S_ISBLK(st.st_mode) else st.st_size
    except OSError:
        return 0
    finally:
        os.close(fd)


def _files(top: str) -> Iterator[tuple[str, int]]:
    """The paths below *top* of the first files in it, each with its size in bytes."""
    seen = 0
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            with os.scandir(os.path.join(top, below)) as entries:
                for entry in entries:
                    seen += 1
                    if seen > _MOST_FILES:
                        return
                    path = os.path.join(below, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(path)
                    elif entry.is_file(follow_symlinks=False):
                        yield path, entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue  # a directory that cannot be read, or a file that is gone
