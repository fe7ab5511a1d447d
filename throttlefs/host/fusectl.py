"""Reads and changes the kernel's side of a FUSE mount, beside its requests.

It uses the files of fusectl (Documentation/filesystems/fuse.rst), with one directory for each
connection, and the settings of the fuse module.
"""

from __future__ import annotations

import logging
import os

from . import syscalls
from .mountinfo import MountEntry

log = logging.getLogger("throttlefs")

_FUSECTL = "/sys/fs/fuse/connections"
_MAX_UINT16 = (1 << 16) - 1
_TIMEOUTS = ("max_request_timeout", "default_request_timeout")


def connection_directory(mount: MountEntry) -> str:
    """Where fusectl shows the connection of *mount* (Documentation/filesystems/fuse.rst)."""
    return f"{_FUSECTL}/{mount.major << 20 | mount.minor}"


def _most_for_users(parameter: str) -> int:
    """The most that the kernel accepts from this user; more would be EINVAL."""
    if os.geteuid() == 0:
        return _MAX_UINT16
    try:
        with open(f"/sys/module/fuse/parameters/{parameter}") as file:
            return int(file.read()) or _MAX_UINT16
    except (OSError, ValueError):
        return _MAX_UINT16


class Connection:
    """The kernel's end of one FUSE mount, by files of fusectl that are kept open.

    Their path has the mount's device number, which a later mount may get when this one is gone.
    Open files stay those of this mount (fs/fuse/control.c).
    """

    def __init__(self, waiting: int, abort: int) -> None:
        self._waiting = waiting
        self._abort = abort

    def is_gone(self) -> bool:
        """Whether the filesystem is not mounted anywhere any more. Does not ask its daemon."""
        try:
            # Open it again, because such a file can be read only once; by its link, which stays
            # valid.
            with open(f"/proc/self/fd/{self._waiting}", "rb") as file:
                return not file.read()
        except OSError:
            return True

    def abort(self) -> None:
        """Make every request of the mount fail at once (fuse.rst, "Aborting a filesystem")."""
        try:
            os.write(self._abort, b"1")
        except OSError:
            pass  # it is gone

    def close(self) -> None:
        """Close the files."""
        os.close(self._waiting)
        os.close(self._abort)


def open_connection(mount: MountEntry) -> Connection | None:
    """The connection of *mount*; None if fusectl is missing and cannot be mounted."""
    try:
        directory = _provide_directory(mount)
        waiting = os.open(f"{directory}/waiting", os.O_PATH | os.O_CLOEXEC)
        try:
            return Connection(waiting, os.open(f"{directory}/abort", os.O_WRONLY | os.O_CLOEXEC))
        except OSError:
            os.close(waiting)
            raise
    except OSError:
        return None


def _provide_directory(mount: MountEntry) -> str:
    """`connection_directory`; root mounts fusectl for it. Raises `OSError` if that fails."""
    directory = connection_directory(mount)
    if not os.path.isdir(directory) and os.geteuid() == 0:
        syscalls.mount(b"fusectl", os.fsencode(_FUSECTL), b"fusectl")
    return directory


def raise_queue_limits(mount: MountEntry, max_background: int) -> bool:
    """Let *max_background* asynchronous requests of the mount be under way at once.

    The kernel's default is 12 for the whole mount, so one throttled image would starve all others.
    Only fusectl can change it; its files belong to the user who mounted. Returns whether it worked.
    If not, the log says what that costs.
    """
    directory = connection_directory(mount)
    try:
        _provide_directory(mount)
        for name, value, most in (
            ("max_background", max_background, "max_user_bgreq"),
            ("congestion_threshold", max_background * 3 // 4, "max_user_congthresh"),
        ):
            with open(f"{directory}/{name}", "w") as file:
                file.write(str(min(value, _most_for_users(most))))
    except OSError as exc:
        log.warning(
            "cannot set max_background in %s (%s): only 12 asynchronous requests of this mount"
            " are under way at once, so one throttled image slows the others;"
            " mount fusectl on /sys/fs/fuse/connections",
            directory,
            exc.strerror,
        )
        return False
    return True


def request_timeout() -> tuple[str, int] | None:
    """After how many seconds the kernel ends a mount one of whose requests has no answer.

    And the sysctl that says so; None for never (Linux 6.14 on, Documentation/admin-guide/sysctl).
    """
    found: list[tuple[int, str]] = []
    for name in _TIMEOUTS:
        try:
            with open(f"/proc/sys/fs/fuse/{name}") as file:
                seconds = int(file.read())
        except (OSError, ValueError):
            continue
        if seconds:
            found.append((seconds, f"fs.fuse.{name}"))
    if not found:
        return None
    seconds, name = min(found)
    return name, seconds


def warn_of_request_timeouts() -> None:
    """Log a warning if the kernel ends mounts whose requests wait long (Linux 6.14 on)."""
    timeout = request_timeout()
    if timeout is not None:
        log.warning(
            "%s is %d s: the kernel ends this mount if a request waits longer for its limit;"
            " set it to 0 with sysctl to prevent that",
            *timeout,
        )
