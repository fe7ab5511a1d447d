"""How the daemon keeps memory, and gives it back without holding up a request.

A request of 1 MiB passes through buffers of that size. By default glibc gets each from the
kernel and gives it back, page by page zeroed and faulted in: that doubled the CPU time of a
1 MiB read or write. So freed buffers are kept while requests come (mallopt(3)), and given back
once they do not (malloc_trim(3)).

Python's collector of garbage looks at every object that it knows of, now and then: with 200,000
known files that took 83 ms, whenever it came. So what has been looked at is not looked at again
(`gc.freeze`). Of frozen objects those go that nobody refers to any more, as ever; only circles
among them stay, and what serves requests makes none (tests/mounted/test_garbage.py).
"""

from __future__ import annotations

import _thread
import ctypes
import gc
import threading
import time
from typing import Final

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_KEPT = 32 << 20  # the largest threshold that glibc takes
_MOST_KEPT = 1 << 30

_YOUNG_ROUNDS: Final = 2
"""Collections of the younger objects between those that look at all that are not frozen.

Each looks at some 7,700 new objects, so that all of them are 23,000: 2 ms.
"""

_STEP: Final = 16 << 20
"""Bytes given back at a time: 2 to 4 ms, in which nobody can allocate."""

_STEP_TAKES_S: Final = 0.005
"""After a step that takes longer the next is larger: there are many small pieces elsewhere, and
each step looks at them all."""

_BETWEEN_STEPS_S: Final = 0.02

_libc = ctypes.CDLL(None)


class _Mallinfo2(ctypes.Structure):
    """``struct mallinfo2`` (mallinfo(3)); all sizes in bytes."""

    _fields_ = [
        *((f"_unused{number}", ctypes.c_size_t) for number in range(8)),
        ("fordblks", ctypes.c_size_t),  # free, though perhaps given back already
        ("keepcost", ctypes.c_size_t),  # free at the top
    ]


def keep_buffers() -> None:
    """Let freed memory be used again instead of returning it to the system; glibc only."""
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)


def collect_in_steps() -> None:
    """From now on let the collector of garbage look at new objects only, few at a time.

    A Python that collects in steps by itself (3.14) is not kept from it.
    """
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _YOUNG_ROUNDS)
    gc.callbacks.append(_freeze_survivors)


def _freeze_survivors(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


def give_back() -> None:
    """Return what is no longer needed to the system: Python's garbage, glibc's freed memory.

    For idle times. Much memory goes in a thread, in steps.
    """
    gc.collect()
    if not hasattr(_libc, "malloc_trim") or _trimming.is_set():
        return
    if _free().fordblks <= _STEP:
        _malloc_trim(0)
    else:
        _trimming.set()
        # Not threading.Thread, whose start() waits until the thread has got a CPU.
        _thread.start_new_thread(_trim_in_steps, ())


_trimming = threading.Event()


def _trim_in_steps() -> None:
    """Give back glibc's freed memory, that at the top in steps."""
    try:
        step = _STEP
        while (kept := _free().keepcost) > step:
            began = time.monotonic()
            _malloc_trim(kept - step)
            if time.monotonic() - began > _STEP_TAKES_S:
                step *= 2
            time.sleep(_BETWEEN_STEPS_S)
        _malloc_trim(0)
    finally:
        _trimming.clear()


def _malloc_trim(keep: int) -> None:
    """malloc_trim(3), which leaves *keep* bytes at the top."""
    _libc.malloc_trim(ctypes.c_size_t(keep))


def _free() -> _Mallinfo2:
    """What glibc has free; nothing if it is too old to say (before 2.33)."""
    mallinfo2 = getattr(_libc, "mallinfo2", None)
    if mallinfo2 is None:
        return _Mallinfo2()
    mallinfo2.restype = _Mallinfo2
    found: _Mallinfo2 = mallinfo2()
    return found
