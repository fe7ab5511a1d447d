"""Says what a process died of that is gone (``PIDFD_GET_INFO`` of linux/pidfd.h, Linux 6.15).

Linux may let a program that used io_uring go, and its parent take it away, while its requests wait.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import struct
from collections import OrderedDict
from typing import Final

from .tasks import Task

_PIDFD_GET_INFO: Final = 0xC040FF0B
_EXIT: Final = 1 << 3
"""``PIDFD_INFO_EXIT``: asks for the exit status, and says that it is there."""

_INFO: Final = struct.Struct("=Q52xi")
"""``struct pidfd_info``: mask, what is not needed here, exit_code."""

_MOST: Final = 256
"""For how many processes a descriptor is kept."""


class Departed:
    """Remembers the processes that were seen last. For one thread."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[int, Task]] = OrderedDict()

    def close(self) -> None:
        """Close all descriptors."""
        for fd, _ in self._known.values():
            os.close(fd)
        self._known.clear()

    def remember(self, leader: Task) -> None:
        """Remember the process whose first thread, *leader*, has just been seen."""
        known = self._known.pop(leader.number, None)
        if known is not None and known[1].started == leader.started:
            self._known[leader.number] = known
            return
        if known is not None:
            os.close(known[0])
        try:
            fd = os.pidfd_open(leader.number)
        except OSError:
            return
        self._known[leader.number] = fd, leader
        if len(self._known) > _MOST:
            _, (oldest, _) = self._known.popitem(last=False)
            os.close(oldest)

    def take(self, group: int) -> Task | None:
        """The first thread of process *group*, which is gone, as it exited; and forget it.

        None if that is not known.
        """
        known = self._known.pop(group, None)
        if known is None:
            return None
        fd, leader = known
        try:
            info = bytearray(_INFO.pack(_EXIT, 0))
            fcntl.ioctl(fd, _PIDFD_GET_INFO, info)
        except OSError:
            return None  # an older kernel
        finally:
            os.close(fd)
        mask, code = _INFO.unpack(info)
        if not mask & _EXIT:
            return None
        return dataclasses.replace(leader, exits=True, exit_signal=code & 0x7F)
