"""How results of handlers look on the wire."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator

import pyfuse3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fuse.table_world import ENTRY, NODE, World
from throttlefs.fuse.arguments import OpenFile
from throttlefs.fuse.attributes import Presentation, WireAttributes
from throttlefs.fuse.table import Listing
from throttlefs.fuse.wire import Opcode


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def test_an_entry_on_the_wire(world: World) -> None:
    status = os.stat("/")
    world.result = ENTRY
    world.ask(Opcode.LOOKUP, b"x\0")
    error, reply = world.answer()
    head, attributes = reply[:40], reply[40:]
    assert error == 0
    # nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec
    assert struct.unpack("=QQQQII", head) == (9, 0, 0, 1, 250_000_000, 500_000_000)
    unpacked = struct.unpack("=QQQqqqIIIIIIIIII", attributes)
    assert unpacked[:3] == (9, status.st_size, status.st_blocks)
    assert unpacked[4] * 10**9 + unpacked[7] == status.st_mtime_ns
    assert unpacked[9:13] == (status.st_mode, status.st_nlink, status.st_uid, status.st_gid)

    world.ask(Opcode.GETATTR, bytes(16))
    # struct fuse_attr_out: attr_valid, attr_valid_nsec, dummy, attr
    assert world.answer() == (0, struct.pack("=QII", 1, 500_000_000, 0) + attributes)


@pytest.mark.parametrize("born", [None, 10**9 + 5, -5])
def test_statx_adds_when_the_file_was_made(world: World, born: int | None) -> None:
    status = os.stat("/dev/null")
    world.result = WireAttributes(Presentation(0.5, 1.25)).entry(9, status), born
    world.ask(Opcode.STATX, struct.pack("=IIQII", 0, 0, 0, 0, 0xFFF))
    error, reply = world.answer()
    # struct fuse_statx_out: attr_valid, attr_valid_nsec, flags, spare, and struct fuse_statx
    assert (error, len(reply)) == (0, 32 + 256)
    assert struct.unpack_from("=QII", reply) == (0, 500_000_000, 0)
    found = struct.unpack_from("=IIQIIIH2xQQQQ", reply, 32)
    mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, _ = found
    assert mask == (0x7FF if born is None else 0xFFF)
    assert (blksize, attributes, nlink) == (status.st_blksize, 0, status.st_nlink)
    assert (uid, gid, mode) == (status.st_uid, status.st_gid, status.st_mode)
    assert (ino, size, blocks) == (9, status.st_size, status.st_blocks)
    times = [
        seconds * 10**9 + ns
        for seconds, ns in struct.iter_unpack("=qI4x", reply[32 + 64 : 32 + 128])
    ]
    assert times == [status.st_atime_ns, born or 0, status.st_ctime_ns, status.st_mtime_ns]
    assert struct.unpack_from("=IIII", reply, 32 + 128) == (1, 3, 0, 0)


@given(ns=st.integers(-(1 << 61), 1 << 62))
def test_times_before_1970_and_far_away(ns: int) -> None:
    """The seconds round down, and the nanoseconds are never negative."""

    class Status:
        st_mode, st_nlink, st_uid, st_gid, st_rdev = stat.S_IFREG, 1, 0, 0, 0
        st_size = st_blocks = st_blksize = 0
        st_atime_ns = st_mtime_ns = st_ctime_ns = ns

    packed = WireAttributes(Presentation(0, 0)).entry(2, Status()).packed  # type: ignore[arg-type]
    _, _, _, atime, mtime, ctime, *rest = struct.unpack_from("=QQQqqqIIIIIIIIII", packed, 40)
    assert [s * 10**9 + n for s, n in zip((atime, mtime, ctime), rest, strict=False)] == [ns] * 3


def test_opened_files_and_directories(world: World) -> None:
    world.result = OpenFile(12, 0b100001)
    assert (world.result.fh, world.result.direct_io, world.result.keep_cache) == (12, True, False)
    world.ask(Opcode.OPEN, bytes(8))
    assert world.answer() == (0, struct.pack("=QII", 12, 0b100001, 0))
    world.result = (OpenFile(13, 1), ENTRY)
    world.ask(Opcode.CREATE, bytes(16) + b"new\0")
    assert world.answer() == (0, ENTRY.packed + struct.pack("=QII", 13, 1, 0))
    world.result = 14
    world.ask(Opcode.OPENDIR, bytes(8))
    assert world.answer() == (0, struct.pack("=QII", 14, 0, 0))


def test_statfs(world: World) -> None:
    data = pyfuse3.StatvfsData()
    for value, field in enumerate(("blocks", "bfree", "bavail", "files", "ffree"), 10):
        setattr(data, f"f_{field}", value << 33)
    data.f_bsize, data.f_frsize, data.f_namemax = 4096, 1024, 255
    world.result = data
    world.ask(Opcode.STATFS, b"")
    expected = struct.pack("=5Q", *(value << 33 for value in range(10, 15)))
    expected += struct.pack("=IIII", 4096, 255, 1024, 0) + bytes(24)
    assert world.answer() == (0, expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, (0, struct.pack("=II", 5, 0))),
        (4, (errno.ERANGE, b"")),
        (5, (0, b"value")),
        (99, (0, b"value")),
    ],
)
def test_a_value_is_sized_or_told_or_too_long(
    world: World, size: int, expected: tuple[int, bytes]
) -> None:
    world.result = b"value"
    world.ask(Opcode.GETXATTR, struct.pack("=II", size, 0) + b"user.a\0")
    assert world.answer() == expected


def test_attribute_names_end_in_zeroes(world: World) -> None:
    for names, expected in ([], b""), ([b"user.a", b"user.bc"], b"user.a\0user.bc\0"):
        world.result = names
        world.ask(Opcode.LISTXATTR, struct.pack("=II", 100, 0))
        assert world.answer() == (0, expected)


def test_a_setxattr_with_flags_of_its_own() -> None:
    """FUSE_SETXATTR_EXT: two more numbers stand before the name."""
    world = World(has_long_setxattr=True)
    *arguments, _ = world.ask(
        Opcode.SETXATTR, struct.pack("=IIII", 1, os.XATTR_REPLACE, 1, 0) + b"user.a\0v"
    )
    assert arguments == [NODE, b"user.a", b"v", os.XATTR_REPLACE]
    assert world.answer() == (0, b"")
    world.close()


def parse_listing(data: bytes) -> list[tuple[bytes, int, int, int]]:
    """name, nodeid, off and type of each struct fuse_direntplus."""
    found = []
    while data:
        (nodeid,) = struct.unpack_from("=Q", data)
        _, off, length, kind = struct.unpack_from("=QQII", data, 128)
        end = 152 + length
        found.append((data[152:end], nodeid, off, kind))
        data = data[end + -end % 8 :]
    return found


@given(
    names=st.lists(st.binary(min_size=1, max_size=255), max_size=40),
    size=st.integers(0, 8000),
)
def test_a_listing_holds_what_fits(names: list[bytes], size: int) -> None:
    listing = Listing(size)
    added = []
    for number, name in enumerate(names, 1):
        if not listing.add(name, ENTRY, number):
            break
        added.append((name, 9, number, stat.S_IFDIR >> 12))
    packed = listing.packed()
    assert len(packed) <= size
    assert parse_listing(packed) == added
    if len(added) < len(names):
        assert len(packed) + 152 + len(names[len(added)]) + 7 > size


def test_a_listing_is_asked_for_by_handle_offset_and_size(world: World) -> None:
    fh, offset, listing = world.ask(
        Opcode.READDIRPLUS, struct.pack("=QQIIQII", 3, 77, 4096, 0, 0, 0, 0)
    )
    assert (fh, offset) == (3, 77)
    assert isinstance(listing, Listing)
    assert world.answer() == (0, b"")
