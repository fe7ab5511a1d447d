"""The process that a mount ends with: a test, a command, whatever made the mount for itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from throttlefs.errors import ThrottlefsError, UsageError

from .runtime import LARGEST_PID, process_start_time

_LARGEST_START: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, by its id and its start time (clock ticks since boot, proc(5))."""

    pid: int
    start_time: int

    def __str__(self) -> str:
        """The form that `parse_owner` reads."""
        return f"{self.pid}:{self.start_time}"

    def is_alive(self) -> bool:
        """Whether it runs; only in its own PID namespace."""
        return process_start_time(self.pid) == self.start_time

    def open_pidfd(self) -> int:
        """A pidfd of it (pidfd_open(2)), readable once it has ended. Raises `ThrottlefsError`."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError as exc:
            raise ThrottlefsError(f"--end-with: process {self.pid}: {exc.strerror}") from None
        # Check only now: the process that is held is the one that was meant.
        if not self.is_alive():
            os.close(pidfd)
            raise ThrottlefsError(f"--end-with: process {self.pid} has ended; nothing is mounted")
        return pidfd


def this_process() -> Owner:
    """This process."""
    start_time = process_start_time("self")
    assert start_time is not None
    return Owner(os.getpid(), start_time)


def parse_owner(text: str) -> Owner:
    """The owner that ``--end-with`` names: ``PID``, or ``PID:START`` with its start time.

    With the start time a later process of the same id is not taken for it. Raises `UsageError`,
    and `ThrottlefsError` if there is no such process.
    """
    pid, colon, start = text.partition(":")
    if not _is_number(pid, LARGEST_PID) or (colon and not _is_number(start, _LARGEST_START)):
        raise UsageError(f"--end-with: {text!r} is not the id of a process, e.g. --end-with $$")
    start_time = int(start) if colon else process_start_time(int(pid))
    if start_time is None:
        raise ThrottlefsError(f"--end-with: there is no process {pid}")
    return Owner(int(pid), start_time)


def _is_number(text: str, largest: int) -> bool:
    is_short = len(text) <= len(str(largest))
    return is_short and text.isascii() and text.isdigit() and 1 <= int(text) <= largest
