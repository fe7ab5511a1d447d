"""Wrong bytes: what a corrupted read returns, and how much of a torn write is kept. Pure.

All of it follows from a seed, so the same bytes come back the same way each time.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

SECTOR: Final = 512
"""Bytes: a flip changes one bit in each, and noise is drawn for each."""

_THREE: Final = struct.Struct("<QQQ")

Piece = tuple[int, int]
"""The first byte of a range, and the one after its last."""


def draw(seed: int, number: int, count: int) -> int:
    """A number from 0 to 2^64 - 1 that only these three decide: BLAKE2b, so as good as random."""
    packed = _THREE.pack(seed, number, count)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


def torn_length(offset: int, length: int, unit: int, drawn: int) -> int:
    """How many bytes of a write are kept: fewer than all, up to a multiple of *unit* in the file.

    *drawn* is a number of `draw`. 0 if the write crosses no such multiple.
    """
    first = offset // unit + 1
    inner = (offset + length - 1) // unit - first + 1  # multiples inside the write
    choice = drawn % (inner + 1)
    return 0 if not choice else (first + choice - 1) * unit - offset


def corrupted(
    data: bytes | bytearray | memoryview, offset: int, pieces: Iterable[Piece], kind: str, seed: int
) -> bytearray:
    """A copy of *data*, which was read at *offset*, with the bytes in *pieces* gone wrong.

    *kind* is one of ``flip``, ``zeros`` and ``noise``. What is at a place of the file depends only
    on *kind*, *seed* and the place, however it is read.
    """
    result = bytearray(data)
    end = offset + len(result)
    for first, last in pieces:
        first, last = max(first, offset), min(last, end)  # noqa: PLW2901  (what was read of it)
        if first >= last:
            continue
        if kind == "zeros":
            result[first - offset : last - offset] = bytes(last - first)
            continue
        for sector in range(first // SECTOR, (last - 1) // SECTOR + 1):
            begin = sector * SECTOR
            if kind == "flip":
                bit = draw(seed, sector, 0) % (SECTOR * 8)
                place = begin + bit // 8
                if first <= place < last:
                    result[place - offset] ^= 1 << bit % 8
            else:
                noise = hashlib.shake_128(_THREE.pack(seed, sector, 1)).digest(SECTOR)
                low, high = max(first, begin), min(last, begin + SECTOR)
                result[low - offset : high - offset] = noise[low - begin : high - begin]
    return result


class Pieces:
    """A set of bytes of a file, as ranges that neither touch nor overlap."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []

    def add(self, first: int, end: int) -> None:
        """Add the bytes from *first* to before *end*."""
        low = bisect_left(self._ends, first)
        high = low
        while high < len(self._firsts) and self._firsts[high] <= end:
            high += 1
        if low < high:
            first = min(first, self._firsts[low])
            end = max(end, self._ends[high - 1])
        self._firsts[low:high] = [first]
        self._ends[low:high] = [end]

    def within(self, first: int, end: int) -> list[Piece]:
        """Those of its bytes that lie from *first* to before *end*."""
        found = []
        at = bisect_left(self._ends, first + 1)
        while at < len(self._firsts) and self._firsts[at] < end:
            found.append((max(first, self._firsts[at]), min(end, self._ends[at])))
            at += 1
        return found

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return sum(self._ends) - sum(self._firsts)
