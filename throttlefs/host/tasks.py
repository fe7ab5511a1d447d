"""Reads from /proc whether a thread and its process are about to die (proc(5)).

Never call `read_task` in a thread that serves requests: see `task_reader`. `process_of` may be.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from . import syscalls

_PF_EXITING: Final = 0x4
"""``PF_EXITING`` of linux/sched.h, in the flags of /proc/PID/stat."""

_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

_PIECE: Final = 16 << 10
"""Bytes: more than either file has, if the process is not in thousands of groups."""


_ROOM_FOR_ENTRIES: Final = 128
"""Bytes, for ``.``, ``..`` and few more: a process may have thousands of threads."""


@dataclass(frozen=True, slots=True)
class Task:
    """A thread, as /proc shows it.

    *group* is the process that it belongs to: the id of its first thread. *started* is in ns since
    boot (CLOCK_BOOTTIME), rounded down to a clock tick. The other numbers are sets of signals: bit
    n - 1 is signal n. *pending* are those sent to this thread alone, *group_pending* those sent to
    its process. *exit_signal* is the signal that a process dies of once it *exits*, 0 if none does
    or if we may not see it.
    """

    number: int
    group: int
    started: int
    traced: bool
    pending: int
    group_pending: int
    blocked: int
    ignored: int
    caught: int
    exits: bool
    exit_signal: int


def parse_task(number: int, status: bytes, stat: bytes) -> Task:
    """Take /proc/*number*/status and /proc/*number*/stat apart.

    Raises `ValueError` if something is missing.
    """
    found = {}
    for line in status.splitlines():
        name, _, value = line.partition(b":")
        found[name] = value.strip()
    # The command's name, in parentheses, may itself hold spaces and parentheses.
    fields = stat.rpartition(b")")[2].split()
    try:
        return Task(
            number=number,
            group=int(found[b"Tgid"]),
            started=int(fields[19]) * _TICK_NS,
            traced=int(found[b"TracerPid"]) != 0,
            pending=int(found[b"SigPnd"], 16),
            group_pending=int(found[b"ShdPnd"], 16),
            blocked=int(found[b"SigBlk"], 16),
            ignored=int(found[b"SigIgn"], 16),
            caught=int(found[b"SigCgt"], 16),
            exits=bool(int(fields[6]) & _PF_EXITING),
            exit_signal=int(fields[49]) & 0x7F,  # as waitpid(2) has it
        )
    except (KeyError, IndexError) as exc:
        raise ValueError(f"no {exc} of thread {number}") from None


def read_task(number: int) -> Task | None:
    """What /proc shows of thread *number*; None if it is gone, or if we may not look at it."""
    try:
        # Both files are of the same thread, even if its number is given to another meanwhile.
        directory = os.open(f"/proc/{number}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return parse_task(number, _read(b"status", directory), _read(b"stat", directory))
        finally:
            os.close(directory)
    except (OSError, ValueError):
        return None


def process_of(thread: int) -> int:
    """The process that *thread* belongs to, as the id of its first thread; 0 if it is gone.

    Unlike `read_task` it is quick, and does not hold the process's memory: a process's threads are
    listed from the first one on (``first_tid`` in fs/proc/base.c), and that one is read.
    """
    try:
        fd = os.open(f"/proc/{thread}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while entries := syscalls.list_directory(fd, _ROOM_FOR_ENTRIES):
                for entry in entries:
                    if entry.name.isdigit():
                        return int(entry.name)
        finally:
            os.close(fd)
    except OSError:
        pass
    return 0


def _read(name: bytes, directory: int) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        text = b""
        while piece := os.read(fd, _PIECE):
            text += piece
        return text
    finally:
        os.close(fd)
