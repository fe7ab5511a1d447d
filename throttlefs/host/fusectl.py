"""What the kernel must be told of a FUSE mount, and what of its settings is in our way."""

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
    """The most that the kernel takes from this user; more would be EINVAL."""
    if os.geteuid() == 0:
        return _MAX_UINT16
    try:
        with open(f"/sys/module/fuse/parameters/{parameter}") as file:
            return int(file.read()) or _MAX_UINT16
    except (OSError, ValueError):
        return _MAX_UINT16


def raise_queue_limits(mount: MountEntry, max_background: int) -> bool:
    """Let *max_background* asynchronous requests of the mount be under way at once.

    The kernel's default is 12 for the whole mount, so that one throttled image would starve
    all others. Only fusectl can change it; the mounting user owns its files. Returns whether
    it worked; if not, the log says what that costs.
    """
    directory = connection_directory(mount)
    try:
        if not os.path.isdir(directory) and os.geteuid() == 0:
            syscalls.mount(b"fusectl", os.fsencode(_FUSECTL), b"fusectl")
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


def abort_connection(mount: MountEntry) -> bool:
    """Make every request of the mount fail at once (fuse.rst, "Aborting a filesystem")."""
    try:
        with open(f"{connection_directory(mount)}/abort", "w") as file:
            file.write("1")
    except OSError:
        return False
    return True


def warn_of_request_timeouts() -> None:
    """Log a warning if the kernel ends mounts whose requests wait long (Linux 6.14 on)."""
    for name in _TIMEOUTS:
        try:
            with open(f"/proc/sys/fs/fuse/{name}") as file:
                seconds = int(file.read())
        except (OSError, ValueError):
            continue
        if seconds:
            log.warning(
                "fs.fuse.%s is %d s: the kernel ends this mount if a request waits longer for"
                " its limit; set it to 0 with sysctl to prevent that",
                name,
                seconds,
            )


def fuse_problem() -> str | None:
    """What keeps FUSE from working here for this user, with the cure, or None."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "/dev/fuse is missing; load the kernel module with: modprobe fuse"
    except PermissionError:
        return "no permission to open /dev/fuse; as root: chmod 666 /dev/fuse"
    except OSError as exc:
        return f"cannot open /dev/fuse: {exc.strerror}; load the kernel module with: modprobe fuse"
    return None
