"""Whether it matters for whom a write on the event loop is.

The loop writes as the daemon. Becoming the user and back again takes six system calls, several
times as long as a small write to the page cache. But whose write it is matters only where space
runs out: near what ext4 keeps for root (its reserve), or with quotas. Elsewhere the loop may write.
"""

from __future__ import annotations

import os

AMPLE = 256 << 20
"""Bytes available to users. More than all writers of a machine write until the next look."""

LOOK_EVERY = 1e-3
"""s: so long the loop may go on writing after somebody has taken all space at a stroke."""

QUOTAS_LOOK_EVERY = 0.1
"""s: quotas are seldom turned on."""

_DQUOTS = "/proc/sys/fs/quota/allocated_dquots"
"""How many quotas the kernel holds in memory, of all filesystems; the file is missing if it knows
none. A file that is open where quotas count has at least one."""


class Room:
    """Says whether a filesystem has ample room, and whether there are quotas."""

    __slots__ = ("_is_ample", "_known_until")

    def __init__(self) -> None:
        self._is_ample = False
        self._known_until = 0.0

    def is_ample(self, fd: int, now: float) -> bool:
        """Whether a write to *fd* at the instant *now* (s, time.monotonic) is anybody's."""
        if now < self._known_until:
            return self._is_ample
        self._known_until = now + LOOK_EVERY
        self._is_ample = not _quotas.are_used(now) and _is_ample(fd)
        return self._is_ample


def _is_ample(fd: int) -> bool:
    try:
        found = os.fstatvfs(fd)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize >= AMPLE


class _Quotas:
    """Says whether any filesystem of the machine has quotas that the kernel leads root past."""

    def __init__(self) -> None:
        self._are_used = True
        self._known_until = 0.0

    def are_used(self, now: float) -> bool:
        """Whether there are some, as it was at most `QUOTAS_LOOK_EVERY` ago."""
        if now >= self._known_until:
            self._known_until = now + QUOTAS_LOOK_EVERY
            self._are_used = _quotas_are_used()
        return self._are_used


def _quotas_are_used() -> bool:
    try:
        with open(_DQUOTS, "rb") as file:
            return int(file.read()) != 0
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


_quotas = _Quotas()
