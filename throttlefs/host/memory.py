"""How the C library keeps the memory of freed buffers (mallopt(3)).

A request of 1 MiB passes through buffers of that size. By default glibc gets each from the
kernel and gives it back, page by page zeroed and faulted in: that doubled the CPU time of a
1 MiB read or write. So freed buffers are kept while requests come, and given back once
they do not.
"""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_KEPT = 32 << 20  # the largest threshold that glibc takes
_MOST_KEPT = 1 << 30

_libc = ctypes.CDLL(None)


def keep_buffers() -> None:
    """Let freed memory be used again instead of returning it to the system; glibc only."""
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)


def give_back() -> None:
    """Return what is no longer needed to the system: Python's garbage, glibc's freed memory.

    Takes some 30 ms after 10,000 files were open (malloc_trim(3)), so only for idle times.
    """
    gc.collect()
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)
