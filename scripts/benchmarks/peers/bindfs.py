"""bindfs: a directory shown elsewhere, by libfuse and C alone, without limits."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.errors import BenchmarkError, NotMeasurableError
from benchmarks.peers.base import Peer, Served, Setup, daemon
from benchmarks.processes import Processes
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
        # direct_io: as with throttlefs, the mount has no page cache of its own.
        options = ",".join(["direct_io", *setup.options])
        command = ["bindfs", "-f", "--no-allow-other", "-o", options, str(scratch.images)]
        log = scratch.root / "bindfs.log"
        with daemon(self, processes, [*command, point], [point], log, 5) as (child, minors):
            yield Served(
                files=[point / image.path.name for image in setup.images],
                directory=point,
                pid=child.pid,
                connections=minors,
            )
