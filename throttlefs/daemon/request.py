"""What ``throttlefs mount`` asks of a daemon."""

from __future__ import annotations

from dataclasses import dataclass

from throttlefs.host.owner import Owner
from throttlefs.host.paths import MountPaths
from throttlefs.settings.options import MountOptions


@dataclass(frozen=True, slots=True)
class MountRequest:
    """The request of ``throttlefs mount``."""

    paths: MountPaths
    options: MountOptions
    state: str
    """The runtime directory, without symlinks: it must not lead through the mount."""

    qmp: str | None = None
    """The absolute path of one more control socket."""

    owner: Owner | None = None
    """The process that the mount ends with."""
