"""Keeps memory for the daemon, and gives it back without delaying a request.

A request of 1 MiB passes through buffers of that size. By default glibc gets each buffer from the
kernel and gives it back, and the kernel zeroes it page by page. That doubled the CPU time of a 1
MiB read or write. So freed buffers are kept while requests come (mallopt(3)), and given back when
no more come (malloc_trim(3)).

At times Python's garbage collector looks at every object that it knows: with 200,000 known files
that took 83 ms. So it does not look at an object a second time (`gc.freeze`). Frozen objects are
still freed when nothing refers to them. Only circles among them stay, and serving requests makes
none (tests/mounted/test_garbage.py).
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
_M_ARENA_MAX = -8
_LARGEST_KEPT = 32 << 20  # the largest threshold that glibc takes
_MOST_KEPT = 1 << 30

_YOUNG: Final = 700
"""New objects from which on the youngest are looked at: what Python had before 3.13."""

_YOUNG_ROUNDS: Final = 2
"""Collections of the younger objects between those that look at all that are not frozen.

Each looks at some 7,700 new objects, so all of them look at 23,000: 2 ms.
"""

_STEP: Final = 16 << 20
"""Bytes given back at a time: 2 to 4 ms, in which nobody can allocate."""

_STEP_TAKES_S: Final = 0.005
"""After a step that takes longer the next one is larger.

There are many small pieces elsewhere then, and each step looks at all of them."""

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
    """Let freed memory be used again instead of returning it to the system; glibc only.

    Call this before any thread is started. All threads get their memory from one heap: `give_back`
    cannot return what is free at the top of others.
    """
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)


def collect_in_steps() -> None:
    """Let the garbage collector look only at new objects from now on, a few at a time.

    A Python that collects in steps by itself (3.14) still does so.
    """
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(min(young, _YOUNG), middle, _YOUNG_ROUNDS)
    gc.callbacks.append(_freeze_survivors)


def _freeze_survivors(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


def give_back() -> None:
    """Return unused memory to the system: Python's garbage, and memory that glibc keeps.

    Call this when idle. Much memory is returned in a thread, in steps.
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
    """Return the memory that glibc keeps; the part at the top in steps."""
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
    """How much glibc has free; nothing if it is too old to say (before 2.33)."""
    mallinfo2 = getattr(_libc, "mallinfo2", None)
    if mallinfo2 is None:
        return _Mallinfo2()
    mallinfo2.restype = _Mallinfo2
    found: _Mallinfo2 = mallinfo2()
    return found
