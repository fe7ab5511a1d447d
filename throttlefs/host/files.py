"""What identifies a file of SRC, and the clock of its times."""

from __future__ import annotations

import time

FileKey = tuple[int, int]
"""What identifies a file whatever its name: st_dev and st_ino."""

_REALTIME_COARSE = 5  # CLOCK_REALTIME_COARSE, which Python's time has no name for


def clock_of_files() -> int:
    """The clock that a filesystem takes its timestamps from, in ns."""
    return time.clock_gettime_ns(_REALTIME_COARSE)
