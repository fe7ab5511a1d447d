"""An open file, prepared for the hot path."""

from __future__ import annotations

from throttlefs.backing import BackingFile
from throttlefs.stats import ImageStatistics
from throttlefs.throttle import READ, Image

from .inode import Inode


class Handle:
    """An open file: its image in the limiter and its backing file, ready for the hot path."""

    __slots__ = (
        "admit",
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
        in_full: bool,
        may_write: bool,
        uid: int,
    ) -> None:
        self.inode = inode
        self.uid = uid  # who opened it
        self.fd = fd
        self.in_full = in_full
        self.may_write = may_write
        self.image = image
        self.file = file
        self.statistics = statistics
        # These are bound once, so that a read or write looks nothing up on its way.
        self.try_admit = image.try_admit
        self.admit = image.admit
        self.read_now = file.read_now
        self.write_now = file.write_now
        self.note_read = statistics.read.served
        self.note_write = statistics.write.served

    def end_read(self, size: int, got: int, elapsed: int) -> None:
        """Count a read of *size* bytes that got *got*, in *elapsed* ns in the backing."""
        self.note_read(got, elapsed)
        if got < size:
            # The file has ended: bytes that were not there are not charged.
            self.image.refund(READ, size, got)

    async def wait_for_limit(self, direction: int, size: int) -> None:
        """Wait until the limiter lets a request go that is not due yet, and count how long."""
        waited = await self.admit(direction, size)
        statistics = self.statistics.read if direction == READ else self.statistics.write
        statistics.waited(waited, self.image.waiting_most[direction])
