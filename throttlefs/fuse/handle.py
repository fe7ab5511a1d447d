"""An open file, prepared for the hot path."""

from __future__ import annotations

import errno
import os
from typing import Any, Final, NoReturn

from throttlefs.backing import BackingFile
from throttlefs.device import Spot, Writes
from throttlefs.stats import ImageStatistics
from throttlefs.throttle import READ, WRITE, Image, Ticket

from .inode import Inode

_LARGEST_PIECE: Final = (1 << 20) - 4096
"""Bytes: a write of at least this size may be a piece of a larger one, which the kernel has split.

It sends at most 1 MiB at once, or as many whole pages as that, which may begin and end within one.
"""


class Handle:
    """An open file: its image in the limiter and its backing file, ready for the hot path.

    *flags* are those of open(2).
    """

    __slots__ = (
        "_durable_to",
        "admit",
        "durable",
        "fd",
        "file",
        "image",
        "in_full",
        "inode",
        "may_write",
        "note_read",
        "note_write",
        "read_now",
        "statistics",
        "try_admit",
        "uid",
        "write_now",
    )

    def __init__(
        self,
        inode: Inode,
        fd: int,
        image: Image,
        file: BackingFile,
        statistics: ImageStatistics,
        flags: int,
        uid: int,
    ) -> None:
        self.inode = inode
        self.uid = uid  # who opened it
        self.fd = fd
        # For AIO, which needs O_DIRECT, the kernel turns a short write into EIO. So the write goes
        # on until it gets the error itself (QEMU stops a guest at ENOSPC), as on XFS and ext4 with
        # O_DIRECT.
        self.in_full = flags & (os.O_DIRECT | os.O_APPEND) == os.O_DIRECT
        self.may_write = flags & os.O_ACCMODE != os.O_RDONLY
        self.durable = bool(flags & os.O_DSYNC)  # whether every write asks to reach the medium
        # Where the next piece of a large durable write would begin; -1 if the last one was none.
        self._durable_to = -1
        self.image = image
        self.file = file
        self.statistics = statistics
        # These are bound once, so that a read or write looks nothing up on its way.
        self.try_admit = image.try_admit
        self.admit = image.admit
        self.read_now = file.read_now
        self.write_now = file.write_now
        image.note_wait = statistics.had_waited
        self.note_read = statistics.read.served
        self.note_write = statistics.write.served

    def kill(self) -> None:
        """Let every read and write that comes fail with EIO."""
        failing: Any = _fail
        self.try_admit = self.admit = failing

    def end_read(self, size: int, got: int, elapsed: int) -> None:
        """Count a read of *size* bytes that got *got*, in *elapsed* ns in the backing."""
        self.note_read(got, elapsed)
        if got < size:
            # The file has ended: bytes that were not there are not charged.
            self.image.refund(READ, size, got)

    async def wait_for_limit(
        self, direction: int, size: int, offset: int = 0, durable: bool = False
    ) -> Ticket | None:
        """Wait until the limiter lets a request go that is not due yet, and count how long.

        Returns a ticket if the image has a device; then `Image.finish` waits for the device, or
        for a write `finish_write`. *durable*: a write that asks to reach the medium.
        """
        image = self.image
        ticket = None
        if image.station is None:
            waited = await self.admit(direction, size)
        else:
            durable = durable and not self._continues(offset, size)
            ticket = await image.enter(direction, size, offset, durable=durable)
            waited = 0 if ticket is None else ticket.start - ticket.arrived
        statistics = self.statistics.read if direction == READ else self.statistics.write
        statistics.waited(waited, image.waiting_most[direction])
        if ticket is not None and direction == WRITE and isinstance(ticket.spot, Spot):
            ticket.spot.writes.begin(ticket)
        return ticket

    @property
    def writes(self) -> Writes:
        """The writes of the image under way in its device; it must have one."""
        station = self.image.station
        spot = None if station is None else self.image.spot_on(station)
        return spot.writes if isinstance(spot, Spot) else Writes()

    def _continues(self, offset: int, size: int) -> bool:
        """Whether a durable write goes on where a piece of the largest size has ended.

        The kernel splits a large write, and each piece asks to be durable. A device is flushed
        once for all of them.
        """
        continues = offset == self._durable_to
        self._durable_to = offset + size if size >= _LARGEST_PIECE else -1
        return continues

    async def finish_write(self, ticket: Ticket, durable: bool = False) -> None:
        """Wait until the device is done with a write, as the backing is."""
        await self.image.finish(ticket)
        if isinstance(ticket.spot, Spot):
            ticket.spot.writes.end(ticket, durable=durable)

    def abandon_write(self, ticket: Ticket) -> None:
        """Note that a write has failed, or that nobody waits for it any more."""
        self.image.abandon(ticket)
        if isinstance(ticket.spot, Spot):
            ticket.spot.writes.end(ticket, durable=False)


def _fail(*_: object) -> NoReturn:
    raise OSError(errno.EIO, os.strerror(errno.EIO))
