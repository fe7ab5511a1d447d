"""The memory in which reads that are answered at once become replies."""

from __future__ import annotations

import mmap
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.backing.buffers import address_of
from throttlefs.fuse.reply_buffer import ReplyBuffer

MAX_DATA = 64 << 10


def room_for(buffer: ReplyBuffer, size: int) -> memoryview | None:
    return buffer.rooms.get(size) or buffer.make_room(size)


@given(replies=st.lists(st.tuples(st.integers(1, MAX_DATA), st.integers(0, 255)), max_size=200))
def test_a_reply_is_header_and_data_whatever_came_before(replies: list[tuple[int, int]]) -> None:
    buffer = ReplyBuffer(MAX_DATA)
    for unique, (size, filling) in enumerate(replies):
        room = room_for(buffer, size)
        if room is None:
            assert len(buffer.rooms) == 64
            buffer.tidy()
            room = room_for(buffer, size)
            assert room is not None
        room[:] = bytes([filling]) * size
        reply = buffer.reply(unique, size)
        assert struct.unpack_from("=IiQ", reply) == (16 + size, 0, unique)
        assert reply[16:] == bytes([filling]) * size


def test_a_room_stays_the_same_and_begins_a_page() -> None:
    buffer = ReplyBuffer(MAX_DATA)
    room = room_for(buffer, 4096)
    assert room is not None
    assert room_for(buffer, 4096) is room
    assert address_of(room) % mmap.PAGESIZE == 0


@pytest.mark.parametrize("size", [0, MAX_DATA + 1])
def test_what_does_not_fit_gets_no_room(size: int) -> None:
    assert room_for(ReplyBuffer(MAX_DATA), size) is None


def test_tidy_gives_much_memory_back_and_keeps_little() -> None:
    buffer = ReplyBuffer(1 << 20)

    def where() -> int:
        room = room_for(buffer, 4096)
        assert room is not None
        return address_of(room)

    place = where()
    buffer.tidy()
    assert where() == place
    large = room_for(buffer, 1 << 20)
    assert large is not None
    buffer.tidy()
    assert where() != place
    del large
