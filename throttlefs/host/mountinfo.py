"""Reads what is mounted where, from /proc/self/mountinfo (proc(5)), without touching any mount.

A stat(2) of a FUSE mount asks its daemon, which may be this process, starting, or dead. This table
answers the same questions without it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

_USER_ID = re.compile(rb"(?:^|,)user_id=([0-9]{1,10})(?:,|$)")
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
_NUMBERS = re.compile(rb"[0-9]{1,10} [0-9]{1,10}:[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of mountinfo, with *point* and *source* unescaped.

    *user_id* mounted a FUSE filesystem. *root* is the directory of the filesystem that is shown at
    *point*; for a bind mount of a part it is not the topmost one.
    """

    mount_id: int
    major: int
    minor: int
    point: bytes
    fstype: str
    source: bytes
    options: str
    user_id: int | None = None
    root: bytes = b"/"

    def shows_same_as(self, other: MountEntry) -> bool:
        """Whether both show one filesystem.

        The device number says so; the rest reveals a later mount that has got the number.
        """
        return (self.major, self.minor, self.fstype, self.source, self.user_id) == (
            *(other.major, other.minor, other.fstype, other.source, other.user_id),
        )


def _unescape(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field)


def parse_mountinfo(text: bytes) -> list[MountEntry]:
    """All mounts of a mountinfo *text*, in order: if two have one point, the last is on top.

    Malformed lines are left out.
    """
    entries = []
    for line in text.split(b"\n"):  # the kernel escapes newlines only, not carriage returns
        left, _, right = line.partition(b" - ")
        fields, tail = left.split(b" "), right.split(b" ")
        if len(fields) < 6 or len(tail) < 2:
            continue
        if not _NUMBERS.fullmatch(fields[0] + b" " + fields[2]):
            continue
        major, _, minor = fields[2].partition(b":")
        entries.append(
            MountEntry(
                mount_id=int(fields[0]),
                major=int(major),
                minor=int(minor),
                point=_unescape(fields[4]),
                fstype=os.fsdecode(tail[0]),
                source=_unescape(tail[1]),
                options=os.fsdecode(fields[5]),
                user_id=_user_id(tail[2]) if len(tail) > 2 else None,
                root=_unescape(fields[3]),
            )
        )
    return entries


def _user_id(options: bytes) -> int | None:
    match = _USER_ID.search(options)
    return int(match[1]) if match else None


def read_mounts() -> list[MountEntry]:
    """The mounts of this process's namespace."""
    with open("/proc/self/mountinfo", "rb") as file:
        return parse_mountinfo(file.read())


def mounted_at(point: bytes) -> MountEntry | None:
    """The topmost mount at exactly *point* (absolute, symlinks resolved), if there is one."""
    found = [entry for entry in read_mounts() if entry.point == point]
    return found[-1] if found else None


def resolve_mount_point(path: bytes) -> bytes:
    """*path* absolute, with the symlinks of its parents resolved and the last component unread.

    The last component is not touched, because it may be a mount whose daemon is dead.
    """
    path = os.path.abspath(path)
    parent, name = os.path.split(path)
    resolved = os.path.join(os.path.realpath(parent), name)
    if mounted_at(resolved) is None:
        resolved = os.path.realpath(resolved)
    return resolved
