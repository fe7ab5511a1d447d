"""Finds the PID and mount namespaces of processes (namespaces(7))."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Two of a process's namespaces, each by the inode number of its file in /proc.

    A process id is valid only in its PID namespace, a mount point only in its mount namespace.
    """

    pid: int
    mnt: int


def own_namespaces() -> Namespaces:
    """The namespaces of this process."""
    return Namespaces(
        pid=os.stat("/proc/self/ns/pid").st_ino, mnt=os.stat("/proc/self/ns/mnt").st_ino
    )


def mount_namespace_of(pid: int | str) -> int | None:
    """The mount namespace of the process *pid*; None if it is gone or we may not look at it."""
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino
    except OSError:
        return None


def proc_shows_own_ids() -> bool:
    """Whether /proc has the process ids of our own PID namespace.

    After ``unshare --pid --fork`` without ``--mount-proc`` it has those of the outer namespace.
    """
    return os.readlink("/proc/self") == str(os.getpid())
