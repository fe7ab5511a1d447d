"""What a daemon holds: as it says itself, and as /proc shows it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.qmp import RawClient, socket_of
from tests.support import Mounted
from throttlefs.backing.pool import METADATA_THREADS
from throttlefs.backing.threads import IO_THREADS

# The interpreter's own, trio's (which end after 10 s) and io_uring's workers come and go.
_OTHER_THREADS = 24


@dataclass(frozen=True)
class Counts:
    """All of them are of one instant, or nearly."""

    inodes: int
    handles: int
    held_bytes: int
    spilled_bytes: int
    requests: int | None
    waiting: int
    images: int
    descriptors: int
    threads: int
    memory_kib: int

    def __str__(self) -> str:
        return (
            f"{self.inodes} inodes, {self.handles} handles, {self.requests} requests,"
            f" {self.waiting} waiting, {self.images} images, {self.descriptors} descriptors,"
            f" {self.threads} threads, {self.memory_kib / 1024:.0f} MiB"
        )

    def has_returned_to(self, before: Counts) -> bool:
        """Whether nothing is left of what came since *before*; memory is another matter."""
        return (
            self.inodes <= before.inodes
            and self.handles == self.held_bytes == self.spilled_bytes == self.waiting == 0
            and (self.requests is None or self.requests == 0)
            and self.descriptors <= before.descriptors
            and self.threads <= before.threads + METADATA_THREADS + IO_THREADS + _OTHER_THREADS
        )


def count(mounted: Mounted) -> Counts:
    with RawClient(socket_of(mounted.entry)) as client:
        status = client.run("x-throttlefs-query")["return"]
        process = Path(f"/proc/{mounted.pid}")
        own = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return Counts(
            **{name.replace("-", "_"): number for name, number in status["counts"].items()},
            waiting=sum(sum(image["waiting"].values()) for image in status["images"]),
            images=len(status["images"]),
            descriptors=len(os.listdir(process / "fd")),
            threads=len(os.listdir(process / "task")),
            # Not the pages of libraries, which the kernel takes and brings back as it likes.
            memory_kib=int(own["RssAnon"].split()[0]),
        )


def forget_everything() -> None:
    """Make the kernel drop the names that it remembers: it tells the daemon to forget them."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


def known_images(mounted: Mounted) -> list[str]:
    """The names of all images that the daemon knows something of."""
    with RawClient(socket_of(mounted.entry)) as client:
        return [image["device"] for image in client.run("x-throttlefs-query")["return"]["images"]]


def at_rest(mounted: Mounted) -> Counts:
    """The counts when nothing has been asked for a while."""
    forget_everything()
    time.sleep(1.3)  # the daemon gives memory back after a second without requests
    return count(mounted)


def settled(mounted: Mounted, before: Counts, seconds: float = 60) -> Counts:
    """The counts once all is as it was *before*; fails with what is left if it never is."""
    deadline = time.monotonic() + seconds
    while True:
        now = at_rest(mounted)
        if now.has_returned_to(before):
            return now
        assert time.monotonic() < deadline, f"before: {before}\nstill: {now}"
