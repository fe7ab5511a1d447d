"""Finds the alignment of offsets, lengths and memory that O_DIRECT demands (open(2), NOTES)."""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from typing import NamedTuple

from .status import direct_io_alignment, status_of


class Alignment(NamedTuple):
    """Powers of two, in bytes; O_DIRECT demands multiples of them."""

    offset: int
    """For offsets and lengths."""
    memory: int
    """For addresses."""


_SAFE = Alignment(4096, 4096)
"""This is right for every disk with sectors of at most this size; no larger ones are known."""


def direct_alignment(fd: int) -> Alignment | None:
    """The alignment for direct I/O on the file *fd*; None if the file cannot do any.

    Since Linux 6.1 statx(2) says it (since 6.0 memory must only suit the disk's DMA, often 4
    bytes). Before that it is the logical block size of the disk, or 4096 if that is unknown.

    Raises `OSError` if the file's status cannot be read.
    """
    told = direct_io_alignment(fd)
    if told is None:
        status = status_of(fd)
        device = status.rdev if stat.S_ISBLK(status.mode) else status.device
        block = _logical_block_size(device)
        return Alignment(block, block) if block else _SAFE
    return Alignment(*told) if all(told) else None


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
