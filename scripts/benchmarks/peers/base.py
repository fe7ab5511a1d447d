"""What a peer is: something that serves images under limits."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from benchmarks.allowance import Limits
from benchmarks.errors import BenchmarkError
from benchmarks.mounts import answers, force_unmount, mounted, wait_until_gone
from benchmarks.processes import Processes, wait_until
from benchmarks.scratch import Scratch


@dataclass(frozen=True)
class Image:
    """An image to be served, and the limits it is held to."""

    path: Path
    limits: Limits = field(default_factory=dict)
    """Its own limits; in a group they are none."""
    group: str | None = None
    weight: int = 100


@dataclass(frozen=True)
class Setup:
    """A mount (or several) to be made: images, the limits of groups, the cache mode."""

    images: Sequence[Image]
    groups: Mapping[str, Limits] = field(default_factory=dict)
    direct: bool = False
    """Whether the image behind is opened past the page cache (cache=none)."""
    options: Sequence[str] = ()
    """What else goes after -o: for throttlefs and bindfs alone."""
    live: bool = False
    """Whether the limits are to be changed while they are in use."""
    apart: str = ""
    """Ends the names of its mount point and files, if others are served at the same time."""


@dataclass(frozen=True)
class Served:
    """What a peer serves: a path to open for each image, and the daemon to look at."""

    files: Sequence[Path]
    directory: Path
    """Where the files are; a mount for throttlefs, a plain directory otherwise."""
    pid: int | None = None
    connections: Sequence[int] = ()
    """The FUSE connections, by minor device number."""
    reload: Callable[[Setup], None] | None = None
    """Puts other limits into effect while the images are in use; None: it cannot."""

    @property
    def file(self) -> Path:
        """The first or only image."""
        return self.files[0]


class Peer(ABC):
    """A way to serve images."""

    name: str
    shows_directories: ClassVar[bool] = True
    """Whether it shows the directory of the images, not the images alone."""

    @abstractmethod
    def version(self) -> str:
        """Return what is measured, with its version. Raises BenchmarkError if it is missing."""

    @abstractmethod
    def serve(
        self, processes: Processes, scratch: Scratch, setup: Setup
    ) -> AbstractContextManager[Served]:
        """Serve images until the block ends; whatever waits in it then goes through or fails.

        Raises NotMeasurableError for what the peer cannot do, BenchmarkError if it fails.
        """


@contextmanager
def daemon(
    peer: Peer,
    processes: Processes,
    command: Sequence[str | Path],
    points: Sequence[Path],
    log: Path,
    grace: float,
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """Run what mounts at ``points``; give the process and the minor device numbers.

    At the end it gets SIGTERM, and ``grace`` seconds to let go what waits.
    Raises BenchmarkError, with its last words, if it does not mount or ends early.
    """
    with log.open("wb") as output:
        child = processes.start(command, output)
    try:
        wait_until(lambda: child.poll() is not None or mounted().keys() >= {*points}, 15)
        # Without a mount the directory itself answers, hence both questions in this order.
        answered = all(answers(point, 10) for point in points if child.poll() is None)
        minors = mounted()
        if child.poll() is not None or not answered or not minors.keys() >= {*points}:
            raise BenchmarkError(_last_words(log) or f"{peer.name}: no usable mount in time")
        yield child, [minors[point] for point in points]
        if child.poll() is not None:
            raise BenchmarkError(_last_words(log) or f"{peer.name}: exit {child.returncode}")
    finally:
        processes.end(child, grace)
        for point in points:
            if not wait_until_gone(point, 0):
                force_unmount(point)


def _last_words(log: Path) -> str | None:
    """Return the last line of a log, which names its program; None if it is empty."""
    said = log.read_text(errors="replace").strip().splitlines()
    return said[-1] if said else None
