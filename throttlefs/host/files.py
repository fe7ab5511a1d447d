"""The key that identifies a file of SRC, and the clock of file times."""

from __future__ import annotations

import time

FileKey = tuple[int, int]
"""st_dev and st_ino, which identify a file under any name."""

_REALTIME_COARSE = 5  # CLOCK_REALTIME_COARSE, which has no name in Python's time module


def clock_of_files() -> int:
    """The clock that a filesystem takes its timestamps from, in ns."""
    return time.clock_gettime_ns(_REALTIME_COARSE)
