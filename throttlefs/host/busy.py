"""Finds who keeps a mount busy, or alive after it is unmounted.

A mount is busy while processes have files open or mapped on it, or something is mounted on it. It
stays alive while the same filesystem is mounted elsewhere: by a bind mount, or as a copy in another
mount namespace.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass

from .mountinfo import MountEntry, parse_mountinfo, read_mounts
from .namespaces import mount_namespace_of, own_namespaces

_MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class User:
    """A user that keeps the mount busy, and how."""

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
        pass  # the process has gone, or is another user's
    return None


def users_of(mount: MountEntry) -> list[User]:
    """All visible users of *mount*; only root sees processes of other users."""
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
            name = _name(pid)
            if name is not None:
                found.append(User(name, how))
    return found


def _name(pid: str | int) -> str | None:
    """``name[pid]`` of a process; None if it is gone."""
    try:
        with open(f"/proc/{pid}/comm", errors="backslashreplace") as file:
            return f"{file.read().strip()}[{pid}]"
    except OSError:
        return None


def describe_users(mount: MountEntry) -> str:
    """A short list of `users_of` for a message."""
    users = users_of(mount)
    if not users:
        return "a process of another user, or the kernel"
    shown = ", ".join(map(str, users[:_MAX_NAMED]))
    more = len(users) - _MAX_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


@dataclass(frozen=True, slots=True)
class Place:
    """One more place where a filesystem is mounted.

    *process* (``name[pid]``) sees it there, if that is in another mount namespace.
    """

    point: str
    process: str | None = None
    pid: str | None = None

    def __str__(self) -> str:
        where = "" if self.process is None else f" in the mount namespace of {self.process}"
        return f"at {self.point}{where}"

    @property
    def command(self) -> str:
        """The command that unmounts it there."""
        enter = "" if self.pid is None else f"nsenter --target {self.pid} --mount "
        return f"{enter}umount {self.point}"


def mounted_elsewhere(mount: MountEntry, daemon: int | None = None) -> list[Place]:
    """The other places where the filesystem of *mount* is mounted, as far as we may see them.

    Only root sees the mount namespaces of other users. Nobody sees one without a process. For each
    namespace *daemon* is named if it is there, else the first process.
    """
    found = [
        Place(os.fsdecode(entry.point))
        for entry in read_mounts()
        if entry.shows_same_as(mount) and entry.mount_id != mount.mount_id
    ]
    seen = {own_namespaces().mnt, None}
    pids = sorted(map(int, filter(str.isdigit, os.listdir("/proc"))))
    for pid in (*(() if daemon is None else (daemon,)), *pids):
        namespace = mount_namespace_of(pid)
        if namespace in seen:
            continue
        seen.add(namespace)
        try:
            with open(f"/proc/{pid}/mountinfo", "rb") as file:
                entries = parse_mountinfo(file.read())
        except OSError:
            continue  # the process has gone
        points = [os.fsdecode(entry.point) for entry in entries if entry.shows_same_as(mount)]
        found += [Place(point, _name(pid) or f"process {pid}", str(pid)) for point in points]
    return found


def describe_elsewhere(mount: MountEntry, daemon: int | None = None) -> str | None:
    """`mounted_elsewhere` for a message, with the cure for the first; None if there is none."""
    places = mounted_elsewhere(mount, daemon)
    if not places:
        return None
    shown = " and ".join(map(str, places[:_MAX_NAMED]))
    more = len(places) - _MAX_NAMED
    if more > 0:
        shown += f" and in {more} more places"
    return f"{shown}; unmount it there with: {places[0].command}"
