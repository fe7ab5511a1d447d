"""Decides when a read or write may be done at once on the event loop."""

from __future__ import annotations

import os
import stat
from time import monotonic

from throttlefs.host import filesystems

from .room import Room
from .status import Status

STALL = 0.25e-3
"""s: a write on the loop that takes longer than this delays all other requests."""

STALL_SHARE = 0.1
"""The part of the time that stalls may take before writes go to the engine."""

STALL_CREDIT = 20e-3
"""s of stalls that are allowed beside that, as a host that takes the CPU away looks the same."""

PAUSE_MIN, PAUSE_MAX = 0.1, 6.4
"""s for which writes go to the engine after that; doubled each time it happens again.

After a long stall the pause is longer: no shorter than the stall divided by `STALL_SHARE`.
"""

_LOOK_AGAIN = 1.0
"""s: after this time a device without a disk is examined again when a file on it is opened.

When it is unmounted, another filesystem may get its number. The examination takes some 40 us.
"""


class StallHabit:
    """Learns from stalls of the loop when its calls of one kind go to threads for a while.

    *credit* s of stalls are allowed beside `STALL_SHARE` of the time. Then calls pause, for
    *pause_min* s or as long as the last stall asks for, and each time again twice as long, up to
    *pause_max*.
    """

    __slots__ = ("_credit", "_debt", "_debt_at", "_pause", "_pause_max", "_pause_min", "resume_at")

    def __init__(self, credit: float, pause_min: float, pause_max: float) -> None:
        self._credit = credit
        self._pause_min = pause_min
        self._pause_max = pause_max
        self.resume_at = 0.0
        """s (time.monotonic): until then calls go to threads."""
        self._debt = 0.0  # s of stalls not yet forgiven, ...
        self._debt_at = 0.0  # ... as of then
        self._pause = pause_min

    def stalled(self, begin: float, end: float) -> None:
        """Note that a call held the loop up from *begin* to *end* (s), for more than `STALL`."""
        forgiven = (begin - self._debt_at) * STALL_SHARE
        self._debt = max(0.0, self._debt - forgiven) + end - begin
        self._debt_at = end
        if self._debt <= self._credit:
            return
        if end - self.resume_at > self._pause_max:
            self._pause = self._pause_min  # the last pause is long over
        self._debt = 0.0
        self.resume_at = end + max(self._pause, (end - begin) / STALL_SHARE)
        self._pause = min(2 * self._pause, self._pause_max)


class WriteHabit(StallHabit):
    """Says whether writes to the page cache of one filesystem are quick enough for the loop.

    Most take 2 to 30 us, less than it costs to hand them to the engine (10 to 20 us of the loop's
    CPU and 30 us of a worker's). But a write that meets too many dirty pages, a page under
    write-back or a journal that commits waits for the disk, and with it every other request: in
    300,000 random 4 KiB writes to ext4 on a busy disk 42 waited, 1.3 ms each and 3.8 ms at worst;
    one of 256 KiB waited 23 ms (scripts/benchmarks/backing_io.py stalls). RWF_NOWAIT does not
    predict this: ext4 does not know it for buffered writes, and XFS and btrfs refuse every one of
    them (Linux 6.18: the new mtime needs a transaction). So some stalls are allowed, and then
    writes go to the engine for a while.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(STALL_CREDIT, PAUSE_MIN, PAUSE_MAX)


_SPARES_ROOM = frozenset({"ext2", "ext3", "ext4", "f2fs", "jfs", "reiserfs", "tmpfs", "ubifs"})
"""Local filesystems that keep room for root, or have quotas that CAP_SYS_RESOURCE leads past.

Those of XFS and btrfs hold whoever writes. An overlay writes with the rights of who mounted it.
"""


class Filesystem:
    """What matters here about one filesystem, for all files on it."""

    __slots__ = ("habit", "in_memory", "looked_at", "may_block", "name", "room")

    def __init__(self, name: str, *, may_block: bool, in_memory: bool = False) -> None:
        self.name = name
        """Its type as in mount(8); empty for a block device that is the image itself."""
        self.may_block = may_block
        """Whether a read or write may wait for a server or daemon; then none runs inline."""
        self.in_memory = in_memory
        """Whether no access waits for a disk, except for swapped pages."""
        self.room = Room() if name in _SPARES_ROOM else None
        """None if it does not matter for whom a write is."""
        self.habit = WriteHabit()
        self.looked_at = 0.0
        """s (time.monotonic)."""


def _filesystem_of_type(name: str) -> Filesystem:
    # The filesystem below an overlay is not examined; mostly it is a local disk. The kernel refuses
    # RWF_NOWAIT there, so no read is inline, and the habit learns whether writes wait.
    may_block = not filesystems.is_local(name) and name != "overlay"
    return Filesystem(name, may_block=may_block, in_memory=filesystems.is_in_memory(name))


_known: dict[int, Filesystem] = {}
"""By ``st_dev``."""

_block_devices: dict[int, Filesystem] = {}
"""By ``st_rdev``: block devices that are images themselves, each as if it were a filesystem."""


def filesystem_of(fd: int, status: Status) -> Filesystem:
    """The filesystem of the open file *fd*; each device is examined once.

    Raises `OSError` if the kernel's tables cannot be read.
    """
    if stat.S_ISBLK(status.mode):
        # Its node is in devtmpfs, its contents are not.
        return _block_devices.setdefault(status.rdev, Filesystem("", may_block=False))
    device = status.device
    found = _known.get(device)
    if found is not None and os.major(device):
        return found
    now = monotonic()
    if found is not None and now < found.looked_at + _LOOK_AGAIN:
        return found
    name = filesystems.filesystem_type(fd)
    if found is None or found.name != name:
        found = _known[device] = _filesystem_of_type(name)
    found.looked_at = now
    return found
