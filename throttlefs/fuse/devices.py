"""Knows which filesystems of SRC answer at once, so that the loop may ask them itself."""

from __future__ import annotations

from time import monotonic
from typing import Final

from throttlefs.host import filesystems

_KNOWN_FOR_S: Final = 10.0
"""How long an answer is valid: after an unmount another filesystem may get the device number."""


class Devices:
    """Remembers by st_dev whether a filesystem is local.

    A local filesystem waits at most for its own disk, and not for long. A network filesystem, or
    that of another daemon, may never answer, so it is asked in a thread. An unknown filesystem
    counts as not local.
    """

    def __init__(self) -> None:
        self._local: dict[int, float] = {}  # st_dev: until when it is known to be local

    def is_local(self, device: int) -> bool:
        """Whether *device* (st_dev) may be asked on the loop."""
        return self._local.get(device, 0.0) > monotonic()

    def learn(self, device: int, fd: int) -> bool:
        """Find out whether *device*, on which *fd* is open, is local."""
        if self.is_local(device):
            return True
        if not filesystems.closes_silently(fd):
            self._local.pop(device, None)
            return False
        self._local[device] = monotonic() + _KNOWN_FOR_S
        return True
