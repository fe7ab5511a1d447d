"""Finding, awaiting and ending FUSE mounts."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from benchmarks.processes import wait_until


def _unescape(field: str) -> str:
    """Undo the octal escapes of /proc/self/mountinfo (space, tab, newline, backslash)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def parse_mountinfo(text: str) -> dict[Path, int]:
    """Return mount point -> minor device number, the topmost mount of each; proc_pid_mountinfo(5).

    The minor number of a FUSE mount is its connection's name in /sys/fs/fuse/connections.
    """
    found = {}
    for line in text.splitlines():
        fields = line.split(" ")
        found[Path(_unescape(fields[4]))] = int(fields[2].partition(":")[2])
    return found


def mounted() -> dict[Path, int]:
    """Return mount point -> minor device number of all mounts this process sees."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))


def mounted_below(directory: Path) -> list[Path]:
    """Return the mount points at or below a directory, the innermost first."""
    inside = [point for point in mounted() if point.is_relative_to(directory)]
    return sorted(inside, key=lambda point: len(point.parts), reverse=True)


def wait_until_gone(point: Path, seconds: float) -> bool:
    """Wait until nothing is mounted at ``point`` any more; return whether nothing is."""
    return wait_until(lambda: point not in mounted(), seconds)


def answers(path: Path, seconds: float) -> bool:
    """Return whether ``stat`` of a path succeeds in time.

    By a process of its own: a mount whose daemon hangs would hold this one for good.
    """
    try:
        done = subprocess.run(
            ["stat", "--", os.fspath(path)],
            check=False,
            timeout=seconds,
            capture_output=True,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def waiting_requests(connections: Iterable[int]) -> int | None:
    """Return how many requests of some mounts are under way, in the kernel or in the daemon.

    /sys/fs/fuse/connections/N/waiting (kernel, filesystems/fuse/fuse.rst); None without fusectl.
    """
    try:
        return sum(
            int(Path(f"/sys/fs/fuse/connections/{number}/waiting").read_text())
            for number in connections
        )
    except OSError:
        return None


def force_unmount(point: Path) -> None:
    """Take a mount away whatever its daemon does: its waiting requests fail with ECONNABORTED.

    /sys/fs/fuse/connections/N/abort ends the connection (kernel, filesystems/fuse/fuse.rst).
    """
    minor = mounted().get(point)
    if minor is None:
        return
    with suppress(OSError):
        Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1")
    for command in (["fusermount3", "-u", "-z"], ["umount", "--lazy"]):
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                [*command, os.fspath(point)],
                check=False,
                timeout=5,
                capture_output=True,
                start_new_session=True,
            )
        if wait_until_gone(point, 0.2):
            return
