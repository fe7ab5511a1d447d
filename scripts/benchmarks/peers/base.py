"""What a peer is: something that serves images under limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.allowance import Limits
from benchmarks.processes import Processes
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


def last_words(log: Path) -> str | None:
    """Return the last line of a log, which names its program; None if it is empty."""
    said = log.read_text(errors="replace").strip().splitlines()
    return said[-1] if said else None
