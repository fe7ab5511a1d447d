"""What O_DIRECT demands of offsets, lengths and memory (open(2), NOTES)."""

from __future__ import annotations

import ctypes
import os
import stat
from functools import lru_cache
from typing import NamedTuple

_AT_EMPTY_PATH = 0x1000
_STATX_DIOALIGN = 0x2000


class Alignment(NamedTuple):
    """Powers of two, in bytes; O_DIRECT wants multiples of them."""

    offset: int
    """For offsets and lengths."""
    memory: int
    """For addresses."""


_SAFE = Alignment(4096, 4096)
"""Right for every disk whose sectors are not larger; no disk with larger ones is known."""


class _Statx(ctypes.Structure):
    """``struct statx``, as far as it is needed; statx(2)."""

    _fields_ = [
        ("mask", ctypes.c_uint32),
        ("unused", ctypes.c_uint8 * 148),
        ("dio_mem_align", ctypes.c_uint32),
        ("dio_offset_align", ctypes.c_uint32),
        ("spare", ctypes.c_uint8 * 96),
    ]


def direct_alignment(fd: int) -> Alignment | None:
    """The alignment for direct I/O on the file *fd*; None if the file cannot do any.

    Since Linux 6.1 statx(2) says it (memory need only suit the disk's DMA since 6.0, often 4
    bytes). Before that it is the logical block size of the disk, or 4096 if that is not known.

    Raises `OSError` if fstat(2) fails.
    """
    told = _ask_statx(fd)
    if told is None:
        status = os.fstat(fd)
        device = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
        block = _logical_block_size(device)
        return Alignment(block, block) if block else _SAFE
    if not told.offset or not told.memory:
        return None
    return told


def _ask_statx(fd: int) -> Alignment | None:
    statx = getattr(ctypes.CDLL(None), "statx", None)
    result = _Statx()
    if (
        statx is None  # glibc before 2.28
        or statx(fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, ctypes.byref(result)) < 0
        or not result.mask & _STATX_DIOALIGN
    ):
        return None
    return Alignment(result.dio_offset_align, result.dio_mem_align)


@lru_cache(maxsize=256)
def _logical_block_size(device: int) -> int | None:
    where = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    for queue in ("queue", "../queue"):  # a partition has none of its own; its disk has one
        try:
            with open(f"{where}/{queue}/logical_block_size", encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    return None
