"""Decides whether the loop may write as the daemon, or a write must be done as its user.

The loop writes as the daemon. Becoming the user and then the daemon again takes six system calls,
several times as long as a small write to the page cache. But the user matters only when space runs
out: near the blocks that ext4 keeps for root (its reserve), or with quotas. Otherwise the loop may
write.
"""

from __future__ import annotations

import os

AMPLE = 256 << 20
"""Bytes that users may still take: more than a machine writes before the next look."""

LOOK_EVERY = 1e-3
"""s: for so long the loop may go on writing after somebody has taken all space at once."""

QUOTAS_LOOK_EVERY = 0.1
"""s: quotas are rarely turned on."""

_DQUOTS = "/proc/sys/fs/quota/allocated_dquots"
"""This file says how many quotas of all filesystems the kernel holds in memory.

It is missing if the kernel knows no quotas. An open file on a filesystem with quotas has at least
one."""


class Room:
    """Says whether a filesystem has ample room, and whether there are quotas."""

    __slots__ = ("_is_ample", "_known_until")

    def __init__(self) -> None:
        self._is_ample = False
        self._known_until = 0.0

    def is_ample(self, fd: int, now: float) -> bool:
        """Whether anybody may write to *fd* at the instant *now* (s, time.monotonic)."""
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
    """Says whether any filesystem of the machine has quotas, which do not hold for root."""

    def __init__(self) -> None:
        self._are_used = True
        self._known_until = 0.0

    def are_used(self, now: float) -> bool:
        """Whether there were quotas at the last look, at most `QUOTAS_LOOK_EVERY` ago."""
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
