"""Memory in which the data of a read that is answered at once becomes the reply.

The data is read to the beginning of a page, and the header is put right before it, so that the
reply is one piece. The kernel pins a reply page by page while it copies it. A reply of 4 KiB has
two pages this way; a separate header and data would have three.
"""

from __future__ import annotations

import mmap

from . import wire

_MOST_SIZES = 64
"""For how many sizes the views are kept: making one takes longer than finding it."""

_TOUCHED_MAX = 64 << 10


class ReplyBuffer:
    """Room for one reply of up to *max_data* bytes of data, to be used again and again."""

    def __init__(self, max_data: int) -> None:
        self._max_data = max_data
        self._touched = 0  # how much of it was ever used, in bytes
        self.rooms: dict[int, memoryview] = {}
        """The place for the data of each size; `make_room` adds one."""
        self._replies: dict[int, memoryview] = {}
        self._memory = self._map()

    def _map(self) -> memoryview:
        size = mmap.PAGESIZE + self._max_data
        return memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def make_room(self, size: int) -> memoryview | None:
        """The place for *size* bytes of data, which is in ``rooms`` from now on.

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
        """The reply to request *unique*, with the data in the room of *size* bytes."""
        wire.put_out_header(
            self._memory,
            mmap.PAGESIZE - wire.OUT_HEADER_SIZE,
            wire.OUT_HEADER_SIZE + size,
            0,
            unique,
        )
        return self._replies[size]

    def tidy(self) -> None:
        """Forget the sizes, and free memory if much was used."""
        self.rooms.clear()
        self._replies.clear()
        if self._touched > _TOUCHED_MAX:
            self._memory = self._map()
            self._touched = 0
