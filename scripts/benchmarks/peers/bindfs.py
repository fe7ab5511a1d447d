"""bindfs: a directory shown elsewhere, by libfuse and C alone, without limits."""

from __future__ import annotations

import re
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

    def _has_direct_io(self) -> bool:
        """Whether it has the option --direct-io; its --help says nothing of that."""
        found = re.search(r"(\d+)\.(\d+)\.", self.version())
        return found is not None and (int(found[1]), int(found[2])) >= (1, 17)

    @contextmanager
    def serve(self, processes: Processes, scratch: Scratch, setup: Setup) -> Iterator[Served]:
        if setup.groups or any(image.limits for image in setup.images):
            raise NotMeasurableError("bindfs has no limits")
        point = scratch.root / "bindfs"
        point.mkdir(exist_ok=True)
        # direct_io: as with throttlefs, the mount has no page cache of its own.
        command = ["bindfs", "-f", "--no-allow-other"]
        options = list(setup.options)
        if self._has_direct_io():
            command.append("--direct-io")
        else:
            options.append("direct_io")  # libfuse's own, up to its 3.16
        if options:
            command += ["-o", ",".join(options)]
        command.append(str(scratch.images))
        log = scratch.root / "bindfs.log"
        with daemon(self, processes, [*command, point], [point], log, 5) as (child, minors):
            yield Served(
                files=[point / image.path.name for image in setup.images],
                directory=point,
                pid=child.pid,
                connections=minors,
            )
