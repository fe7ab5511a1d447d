"""Finds the mount that a path lies on, and the control socket of that mount.

This module does not touch the mount itself, where a lookup may wait behind a request that waits for
its limit. It reads /proc/self/mountinfo and the directories outside the mount.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from throttlefs import FILESYSTEM_TYPE
from throttlefs.errors import ThrottlefsError
from throttlefs.host import runtime
from throttlefs.host.mountinfo import MountEntry, read_mounts

from .client import NoSuchImageError, QmpClient
from .images import device_name

_MOST_SYMLINKS = 40  # as path_resolution(7)


@dataclass(frozen=True, slots=True)
class Located:
    """A throttlefs mount, and the image on it that a path names."""

    mount: MountEntry
    device: str | None
    """The image as the control socket names it; None for the mount as a whole."""
    path: str
    """As it was given."""

    @property
    def point(self) -> str:
        """Where it is mounted."""
        return os.fsdecode(self.mount.point)

    @contextmanager
    def session(self) -> Iterator[QmpClient]:
        """A session with the daemon. Raises `ThrottlefsError`, which has a missing image's path."""
        with self._connect() as client:
            try:
                yield client
            except NoSuchImageError as exc:
                _, _, reason = str(exc).partition(" not found: ")
                raise ThrottlefsError(
                    f"{self.path}: {reason or 'there is no such file in the mount'}"
                ) from None

    def _connect(self) -> QmpClient:
        owner = self.mount.user_id
        if owner is not None and os.geteuid() not in (0, owner):
            raise ThrottlefsError(
                f"{self.point} is another user's mount; only that user and root may control it"
            )
        path = runtime.find_socket(self.mount)
        if path is None:
            raise ThrottlefsError(
                f"the control socket of {self.point} is gone; is its daemon dead, or"
                " XDG_RUNTIME_DIR another than at the time of mounting?"
            )
        return QmpClient(path, self.point, owner)


def locate(path: str) -> Located:
    """The mount that *path* lies on. Raises `ThrottlefsError` if it is not a throttlefs mount."""
    mounts = read_mounts()
    resolved = _resolve(os.fsencode(path), mounts)
    mount = _mount_of(resolved, mounts)
    if mount is None or mount.fstype != FILESYSTEM_TYPE:
        raise ThrottlefsError(
            f"{path} does not lie on a throttlefs mount; see yours with: throttlefs list"
        )
    rest = os.path.join(mount.root, resolved[len(mount.point.rstrip(b"/")) + 1 :]).strip(b"/")
    return Located(mount, device_name(rest) if rest else None, path)


def own_mounts() -> list[MountEntry]:
    """The throttlefs mounts that this user may control, each once, by mount point."""
    found: dict[tuple[int, int], MountEntry] = {}
    for mount in read_mounts():
        if mount.fstype == FILESYSTEM_TYPE and os.geteuid() in (0, mount.user_id):
            found.setdefault((mount.major, mount.minor), mount)
    return sorted(found.values(), key=lambda mount: mount.point)


def _mount_of(path: bytes, mounts: list[MountEntry]) -> MountEntry | None:
    """The mount of *path*, which is absolute and has no symlinks on the way to that mount."""
    best: MountEntry | None = None
    for mount in mounts:
        point = mount.point.rstrip(b"/")
        inside = path == (point or b"/") or path.startswith(point + b"/")
        # If two are mounted at one point, the later one is on top.
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _resolve(path: bytes, mounts: list[MountEntry]) -> bytes:
    """*path* absolute, its symlinks followed as far as the first throttlefs mount.

    The rest of the path is taken as it is; the daemon follows the symlinks on its mount.
    """
    absolute = os.path.join(os.getcwdb(), path)
    pending = [name for name in reversed(absolute.split(b"/")) if name]
    resolved = b""
    links = 0
    while pending:
        mount = _mount_of(resolved or b"/", mounts)
        if mount is not None and mount.fstype == FILESYSTEM_TYPE:
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
        entry = _mount_of(candidate, mounts)
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
