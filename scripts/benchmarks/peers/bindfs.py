"""bindfs: a directory shown elsewhere, by libfuse and C alone, without limits."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.errors import BenchmarkError, NotMeasurableError
from benchmarks.mounts import force_unmount, mounted, wait_until_gone
from benchmarks.peers.base import Peer, Served, Setup, last_words
from benchmarks.processes import Processes, wait_until
from benchmarks.scratch import Scratch


class Bindfs(Peer):
    name = "bindfs"

    def version(self) -> str:
        try:
            done = subprocess.run(
                ["bindfs", "--version"], check=True, capture_output=True, text=True
            )
        except (OSError, subprocess.CalledProcessError):
            raise BenchmarkError("bindfs is not installed: apt-get install bindfs") from None
        return done.stdout.strip()

    @contextmanager
    def serve(self, processes: Processes, scratch: Scratch, setup: Setup) -> Iterator[Served]:
        if setup.groups or any(image.limits for image in setup.images):
            raise NotMeasurableError("bindfs has no limits")
        point = scratch.root / "bindfs"
        point.mkdir(exist_ok=True)
        log = scratch.root / "bindfs.log"
        # direct_io: as with throttlefs, the mount has no page cache of its own.
        options = ",".join(["direct_io", *setup.options])
        command = ["bindfs", "-f", "--no-allow-other", "-o", options]
        with log.open("wb") as output:
            child = processes.start([*command, scratch.images, point], output)
        try:
            wait_until(lambda: child.poll() is not None or point in mounted(), 10)
            minor = mounted().get(point)
            if minor is None:
                raise BenchmarkError(last_words(log) or "bindfs: no mount within 10 s")
            yield Served(
                files=[point / image.path.name for image in setup.images],
                directory=point,
                pid=child.pid,
                connections=[minor],
            )
        finally:
            processes.end(child, grace=5)
            if not wait_until_gone(point, 0):
                force_unmount(point)
