"""The image itself, without anything before it: what there is to lose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.errors import NotMeasurableError
from benchmarks.peers.base import Peer, Served, Setup
from benchmarks.processes import Processes
from benchmarks.scratch import Scratch


class Native(Peer):
    name = "native"

    def version(self) -> str:
        return "the file itself"

    @contextmanager
    def serve(self, processes: Processes, scratch: Scratch, setup: Setup) -> Iterator[Served]:
        if setup.groups or any(image.limits for image in setup.images):
            raise NotMeasurableError("a plain file has no limits")
        yield Served(files=[image.path for image in setup.images], directory=scratch.images)
