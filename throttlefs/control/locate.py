"""Finds the mount that a path lies on, and the control socket of that mount.

This module does not touch the mount itself, where a lookup may wait behind a request that waits for
its limit. It reads /proc/self/mountinfo and the directories outside the mount.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from throttlefs.errors import ThrottlefsError
from throttlefs.host import lookup, runtime
from throttlefs.host.liveness import is_dead
from throttlefs.host.mountinfo import MountEntry, read_mounts

from .client import NoSuchImageError, QmpClient
from .device_names import device_name


@dataclass(frozen=True, slots=True)
class Located:
    """A throttlefs mount, and the image on it that a path names."""

    mount: MountEntry
    device: str | None
    """The image as the control socket names it; None for the mount as a whole."""
    path: str
    """As it was given."""
    socket: str | None = None
    """The control socket, if it is known."""

    @property
    def point(self) -> str:
        """Where it is mounted."""
        return os.fsdecode(self.mount.point)

    @contextmanager
    def session(self, *, patient: bool = False) -> Iterator[QmpClient]:
        """A session with the daemon. Raises `ThrottlefsError`, which has a missing image's path.

        A *patient* one waits for an answer for as long as it takes.
        """
        with self._connect(patient) as client:
            try:
                yield client
            except NoSuchImageError as exc:
                _, _, reason = str(exc).partition(" not found: ")
                raise ThrottlefsError(
                    f"{self.path}: {reason or 'there is no such file in the mount'}"
                ) from None

    def _connect(self, patient: bool = False) -> QmpClient:
        owner = self.mount.user_id
        if owner is not None and os.geteuid() not in (0, owner):
            raise ThrottlefsError(
                f"{self.point} is another user's mount; only that user and root may control it"
            )
        path = self.socket or runtime.find_socket(self.mount)
        if path is None:
            if is_dead(self.mount):
                raise ThrottlefsError(
                    f"the daemon of {self.point} is dead; clear the mount away with:"
                    f" throttlefs umount {self.point}"
                )
            raise ThrottlefsError(
                f"the control socket of {self.point} is not found; was XDG_RUNTIME_DIR another at"
                " the time of mounting, or was it mounted in another container?"
            )
        return QmpClient(path, self.point, owner, patient=patient)


def locate(path: str) -> Located:
    """The mount that *path* lies on. Raises `ThrottlefsError` if it is not a throttlefs mount."""
    mounts = read_mounts()
    resolved = lookup.resolve(os.fsencode(path), mounts)
    mount = lookup.mount_of(resolved, mounts)
    if mount is None or not lookup.is_ours(mount):
        raise ThrottlefsError(
            f"{path} does not lie on a throttlefs mount; see yours with: throttlefs list"
        )
    rest = os.path.join(mount.root, resolved[len(mount.point.rstrip(b"/")) + 1 :]).strip(b"/")
    return Located(mount, device_name(rest) if rest else None, path)


def own_mounts() -> list[MountEntry]:
    """The throttlefs mounts that this user may control, each once, by mount point."""
    found: dict[tuple[int, int], MountEntry] = {}
    for mount in read_mounts():
        if lookup.is_ours(mount) and os.geteuid() in (0, mount.user_id):
            found.setdefault((mount.major, mount.minor), mount)
    return sorted(found.values(), key=lambda mount: mount.point)
