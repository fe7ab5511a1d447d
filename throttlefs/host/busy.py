"""Who keeps a mount busy: processes with files open or mapped on it, and what is stacked on it."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass

from .mountinfo import MountEntry, read_mounts

_MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class User:
    """One that keeps the mount busy, and how."""

    who: str
    how: str

    def __str__(self) -> str:
        return f"{self.who} ({self.how})"


def _holds_descriptor(pid: str, mount_id: int) -> bool:
    """Whether the process has a descriptor on the mount (fdinfo's mnt_id, proc(5)).

    Unlike stat(2) of the descriptor this asks nothing of the mount's daemon.
    """
    wanted = b"mnt_id:\t%d\n" % mount_id
    directory = f"/proc/{pid}/fdinfo"
    for name in os.listdir(directory):
        try:
            with open(f"{directory}/{name}", "rb") as file:
                if wanted in file.read(4096):
                    return True
        except OSError:
            continue
    return False


def _maps_file(pid: str, mount: MountEntry) -> bool:
    wanted = b" %02x:%02x " % (mount.major, mount.minor)
    with open(f"/proc/{pid}/maps", "rb") as file:
        return any(wanted in line for line in file)


def _is_below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _how(pid: str, mount: MountEntry, point: str) -> str | None:
    for link, how in (("cwd", "working directory"), ("root", "root directory")):
        try:
            if _is_below(os.readlink(f"/proc/{pid}/{link}"), point):
                return how
        except OSError:
            pass
    try:
        if _holds_descriptor(pid, mount.mount_id):
            return "open file"
        if _maps_file(pid, mount):
            return "mapped file"
    except OSError:
        pass  # gone meanwhile, or another user's
    return None


def users_of(mount: MountEntry) -> list[User]:
    """Everyone seen to use *mount*; other users' processes show to root only."""
    point = os.fsdecode(mount.point)
    found = []
    for entry in read_mounts():
        if entry.mount_id != mount.mount_id and entry.point.startswith(mount.point + b"/"):
            found.append(User(os.fsdecode(entry.point), "mounted on it"))
    for backing in glob.glob("/sys/block/loop*/loop/backing_file"):
        try:
            with open(backing) as file:
                if _is_below(file.read().rstrip("\n"), point):
                    found.append(User("/dev/" + backing.split("/")[3], "loop device"))
        except OSError:
            continue
    for pid in filter(str.isdigit, os.listdir("/proc")):
        how = _how(pid, mount, point)
        if how is not None:
            try:
                with open(f"/proc/{pid}/comm") as file:
                    name = file.read().strip()
            except OSError:
                continue
            found.append(User(f"{name}[{pid}]", how))
    return found


def describe_users(mount: MountEntry) -> str:
    """A short list of `users_of` for a message."""
    users = users_of(mount)
    if not users:
        return "a process of another user, or the kernel"
    shown = ", ".join(map(str, users[:_MAX_NAMED]))
    more = len(users) - _MAX_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
