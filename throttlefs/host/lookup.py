"""Finds the mount that a path lies on, without asking that mount anything.

A lookup on a mount may wait behind a request that waits for its limit, or for a daemon that does
not answer. So paths are followed only outside of such mounts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from throttlefs import FILESYSTEM_TYPE
from throttlefs.errors import ThrottlefsError

from .mountinfo import MountEntry

_MOST_SYMLINKS = 40  # as path_resolution(7)


def is_ours(mount: MountEntry) -> bool:
    """Whether it is a throttlefs mount."""
    return mount.fstype == FILESYSTEM_TYPE


def is_fuse(mount: MountEntry) -> bool:
    """Whether a daemon serves the mount, by FUSE."""
    return mount.fstype.partition(".")[0] in ("fuse", "fuseblk")


def mount_of(path: bytes, mounts: Iterable[MountEntry]) -> MountEntry | None:
    """The mount of *path*, which is absolute and has no symlinks on the way to that mount."""
    best: MountEntry | None = None
    for mount in mounts:
        point = mount.point.rstrip(b"/")
        inside = path == (point or b"/") or path.startswith(point + b"/")
        # If two are mounted at one point, the later one is on top.
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def resolve(
    path: bytes, mounts: Iterable[MountEntry], ends: Callable[[MountEntry], bool] = is_ours
) -> bytes:
    """*path* absolute, its symlinks followed as far as the first mount for which *ends* holds.

    The rest of the path is taken as it is; the daemon follows the symlinks on its mount.

    Raises `ThrottlefsError` if there are too many symlinks.
    """
    absolute = os.path.join(b"" if path.startswith(b"/") else os.getcwdb(), path)
    pending = [name for name in reversed(absolute.split(b"/")) if name]
    resolved = b""
    links = 0
    while pending:
        mount = mount_of(resolved or b"/", mounts)
        if mount is not None and ends(mount):
            below = os.path.normpath(b"/".join(reversed(pending)))
            if below == b".":
                return resolved
            if below.split(b"/")[0] != b"..":
                return os.path.join(resolved or b"/", below)
            pending = list(reversed(below.split(b"/")))
        name = pending.pop()
        if name == b"..":
            resolved = os.path.dirname(resolved).rstrip(b"/")
            continue
        if name == b".":
            continue
        candidate = resolved + b"/" + name
        entry = mount_of(candidate, mounts)
        is_point = entry is not None and entry.point == candidate
        target = None if is_point else _link_target(candidate)
        if target is None:
            resolved = candidate
            continue
        links += 1
        if links > _MOST_SYMLINKS:
            raise ThrottlefsError(f"{os.fsdecode(path)}: too many symbolic links")
        pending += [part for part in reversed(target.split(b"/")) if part]
        if target.startswith(b"/"):
            resolved = b""
    return resolved or b"/"


def _link_target(path: bytes) -> bytes | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
