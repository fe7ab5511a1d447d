"""Memory in which a read that can be answered at once becomes its reply.

The data is read to the beginning of a page and the header is put right before it, so that the
reply is one piece. The kernel pins a reply page by page while it copies it: of 4 KiB these are
two pages, while a header and data of their own, wherever they happen to lie, are three.
"""

from __future__ import annotations

import mmap

from . import wire

_MOST_SIZES = 64
"""Sizes of which the views are kept: to make one takes longer than to find it."""

_TOUCHED_MAX = 64 << 10


class ReplyBuffer:
    """Room for one reply of up to *max_data* bytes of data, to be used again and again."""

    def __init__(self, max_data: int) -> None:
        self._max_data = max_data
        self._touched = 0  # how much of it was ever used, in bytes
        self.rooms: dict[int, memoryview] = {}
        """By size the places where data goes; `make_room` adds one."""
        self._replies: dict[int, memoryview] = {}
        self._memory = self._map()

    def _map(self) -> memoryview:
        size = mmap.PAGESIZE + self._max_data
        return memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def make_room(self, size: int) -> memoryview | None:
        """The place for *size* bytes of data, from now on in ``rooms``.

        None if they are too many, or if there are too many sizes already (until `tidy`).
        """
        if not 0 < size <= self._max_data or len(self.rooms) >= _MOST_SIZES:
            return None
        self._touched = max(self._touched, size)
        page = mmap.PAGESIZE
        self._replies[size] = self._memory[page - wire.OUT_HEADER_SIZE : page + size]
        room = self.rooms[size] = self._memory[page : page + size]
        return room

    def reply(self, unique: int, size: int) -> memoryview:
        """The reply to request *unique*, with what is in the room of *size* bytes."""
        wire.put_out_header(
            self._memory,
            mmap.PAGESIZE - wire.OUT_HEADER_SIZE,
            wire.OUT_HEADER_SIZE + size,
            0,
            unique,
        )
        return self._replies[size]

    def tidy(self) -> None:
        """Forget the sizes, and let go of memory if much was used."""
        self.rooms.clear()
        self._replies.clear()
        if self._touched > _TOUCHED_MAX:
            self._memory = self._map()
            self._touched = 0
