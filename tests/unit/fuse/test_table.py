"""The table of opcodes, with a socket in the place of the kernel and handlers that take notes."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator
from typing import Any

import pyfuse3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.fuse.arguments import Caller, OpenFile
from throttlefs.fuse.attributes import Presentation, WireAttributes
from throttlefs.fuse.channel import Channel
from throttlefs.fuse.table import TABLE, UNANSWERED, Listing
from throttlefs.fuse.wire import Opcode

# struct fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding.
NODE, UID, GID, PID = 77, 1000, 1001, 4711


def message(opcode: int, body: bytes, unique: int = 5, extensions: bytes = b"") -> bytes:
    length = 40 + len(body) + len(extensions)
    header = struct.pack(
        "=IIQQIIIHH", length, opcode, unique, NODE, UID, GID, PID, len(extensions) // 8, 0
    )
    return header + body + extensions


class World:
    """A channel whose handlers note their arguments and return what a test has set."""

    def __init__(self, *, has_long_setxattr: bool = False) -> None:
        self.kernel, self.fuse = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.kernel, self.fuse):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.result: Any = None
        self.error: Exception | None = None
        self.doomed: set[int] = set()
        self.channel = Channel(
            self.fuse.fileno(),
            self,
            self._start,
            self,
            max_write=1 << 20,
            has_long_setxattr=has_long_setxattr,
        )

    def begin_read(self, *_: object) -> bytes:
        raise AssertionError

    begin_write = begin_read

    def interrupted(self, unique: int) -> None:
        raise AssertionError

    def __getattr__(self, name: str) -> Any:
        if name not in {operation.handler for operation in TABLE.values()}:
            raise AttributeError(name)

        async def handler(*args: Any) -> Any:
            self.calls.append((name, args))
            if self.error is not None:
                raise self.error
            return args[2] if name == "list_entries" else self.result

        return handler

    def _start(self, coroutine: Any, reply: Any) -> None:
        try:
            coroutine.send(None)
        except StopIteration as stop:
            reply.done(stop.value)
        except Exception as exc:
            reply.failed(exc)

    def ask(self, opcode: int, body: bytes, extensions: bytes = b"") -> tuple[Any, ...]:
        """The arguments of the handler that was called."""
        self.kernel.send(message(opcode, body, extensions=extensions))
        assert self.channel.take()
        return self.calls.pop()[1] if self.calls else ()

    def answer(self) -> tuple[int, bytes]:
        """errno and what follows in the only reply."""
        reply = self.kernel.recv(2 << 20)
        length, error, unique = struct.unpack_from("=IiQ", reply)
        assert (length, unique) == (len(reply), 5)
        with pytest.raises(BlockingIOError):
            self.kernel.recv(1)
        return -error, reply[16:]

    def no_answer(self) -> bool:
        try:
            self.kernel.recv(1)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self.kernel.close()
        self.fuse.close()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def who(caller: Caller) -> tuple[int, int, int, int]:
    assert isinstance(caller, pyfuse3.RequestContext)
    return caller.uid, caller.gid, caller.pid, caller.umask


ENTRY = WireAttributes(Presentation(1.5, 0.25)).entry(9, os.stat("/"))


def test_the_table_has_every_opcode_but_the_channels_own_and_inits() -> None:
    own = {Opcode.READ, Opcode.WRITE, Opcode.INTERRUPT, Opcode.INIT}
    assert set(Opcode) - own == TABLE.keys()
    assert {Opcode.FORGET, Opcode.BATCH_FORGET} == UNANSWERED


@pytest.mark.parametrize(
    ("opcode", "body", "expected", "umask"),
    [
        (Opcode.LOOKUP, b"name\0", (NODE, b"name"), 0),
        (Opcode.READLINK, b"", (NODE,), 0),
        (Opcode.SYMLINK, b"name\0../target\0", (NODE, b"name", b"../target"), 0),
        (
            Opcode.MKNOD,
            struct.pack("=IIII", 0o10644, 7, 0o22, 0) + b"fifo\0",
            (NODE, b"fifo", 0o10644, 7),
            0o22,
        ),
        (Opcode.MKDIR, struct.pack("=II", 0o755, 0o27) + b"d\0", (NODE, b"d", 0o755), 0o27),
        (Opcode.UNLINK, b"x\0", (NODE, b"x"), 0),
        (Opcode.RMDIR, b"\xff\xfe\0", (NODE, b"\xff\xfe"), 0),
        (
            Opcode.RENAME,
            struct.pack("=Q", 88) + b"old\0new\0",
            (NODE, b"old", 88, b"new", 0),
            0,
        ),
        (
            Opcode.RENAME2,
            struct.pack("=QII", 88, 2, 0) + b"old\0new\0",
            (NODE, b"old", 88, b"new", 2),
            0,
        ),
        (Opcode.LINK, struct.pack("=Q", 99) + b"name\0", (99, NODE, b"name"), 0),
        (Opcode.OPEN, struct.pack("=II", os.O_RDWR, 0), (NODE, os.O_RDWR), 0),
        (
            Opcode.CREATE,
            struct.pack("=IIII", os.O_WRONLY | os.O_EXCL, 0o100600, 0o77, 0) + b"new\0",
            (NODE, b"new", 0o100600, os.O_WRONLY | os.O_EXCL),
            0o77,
        ),
        (Opcode.GETATTR, struct.pack("=IIQ", 0, 0, 0), (NODE,), 0),
        (Opcode.STATX, struct.pack("=IIQII", 0, 0, 0, 0, 0xFFF), (NODE,), 0),
        (Opcode.STATFS, b"", (), 0),
        (
            Opcode.SETXATTR,
            struct.pack("=II", 3, os.XATTR_CREATE) + b"user.a\0v\0w",
            (NODE, b"user.a", b"v\0w", os.XATTR_CREATE),
            0,
        ),
        (Opcode.GETXATTR, struct.pack("=II", 10, 0) + b"user.a\0", (NODE, b"user.a"), 0),
        (Opcode.LISTXATTR, struct.pack("=II", 10, 0), (NODE,), 0),
        (Opcode.REMOVEXATTR, b"user.a\0", (NODE, b"user.a"), 0),
        (Opcode.OPENDIR, struct.pack("=II", 0, 0), (NODE,), 0),
    ],
)
def test_arguments_with_a_caller(
    world: World, opcode: Opcode, body: bytes, expected: tuple[Any, ...], umask: int
) -> None:
    world.error = OSError(errno.EDOM, "this will do")
    *arguments, caller = world.ask(opcode, body)
    assert tuple(arguments) == expected
    assert who(caller) == (UID, GID, PID, umask)
    assert world.answer() == (errno.EDOM, b"")


@pytest.mark.parametrize(
    ("opcode", "body", "expected"),
    [
        (Opcode.RELEASE, struct.pack("=QIIQ", 3, os.O_RDWR, 0, 0), (3,)),
        (Opcode.RELEASEDIR, struct.pack("=QIIQ", 3, 0, 0, 0), (3,)),
        (Opcode.FLUSH, struct.pack("=QIIQ", 4, 0, 0, 0), (4,)),
        (Opcode.FSYNC, struct.pack("=QII", 5, 1, 0), (5, True)),
        (Opcode.FSYNC, struct.pack("=QII", 5, 0, 0), (5, False)),
        (Opcode.FSYNCDIR, struct.pack("=QII", 6, 1, 0), (6, True)),
    ],
)
def test_arguments_without_a_caller_and_empty_replies(
    world: World, opcode: Opcode, body: bytes, expected: tuple[Any, ...]
) -> None:
    assert world.ask(opcode, body) == expected
    assert world.answer() == (0, b"")


def test_operations_of_a_disk(world: World) -> None:
    *arguments, caller = world.ask(Opcode.FALLOCATE, struct.pack("=QQQII", 3, 4096, 1 << 40, 3, 0))
    assert arguments == [3, 4096, 1 << 40, 3]
    assert who(caller) == (UID, GID, PID, 0)
    assert world.answer() == (0, b"")
    world.result = 1 << 41
    assert world.ask(Opcode.LSEEK, struct.pack("=QQII", 3, 5, os.SEEK_HOLE, 0)) == (3, 5, 4)
    assert world.answer() == (0, struct.pack("=Q", 1 << 41))
    assert world.ask(Opcode.LSEEK, struct.pack("=QqII", 3, -5, os.SEEK_DATA, 0)) == (3, -5, 3)
    assert world.answer() == (0, struct.pack("=Q", 1 << 41))
    world.result = 4096
    body = struct.pack("=QQQQQQQ", 3, 5, 99, 4, 7, 1 << 33, 0)
    *arguments, caller = world.ask(Opcode.COPY_FILE_RANGE, body)
    assert arguments == [3, 5, 4, 7, 1 << 33, 0]
    assert who(caller) == (UID, GID, PID, 0)
    assert world.answer() == (0, struct.pack("=II", 4096, 0))


def test_extensions_at_the_end_of_a_request_are_not_its_arguments(world: World) -> None:
    """Security contexts and groups (``total_extlen``, in units of 8 bytes)."""
    world.error = OSError(errno.EDOM, "this will do")
    *arguments, _ = world.ask(Opcode.LOOKUP, b"name\0", extensions=b"12345678" * 2)
    assert arguments == [NODE, b"name"]


@pytest.mark.parametrize("count", [1, 8192, 9000, 65_000])
def test_forgets_come_in_any_number_and_get_no_reply(world: World, count: int) -> None:
    forgets = [(number, number % 7 + 1) for number in range(1, count + 1)]
    body = struct.pack("=II", count, 0) + b"".join(struct.pack("=QQ", *one) for one in forgets)
    assert world.ask(Opcode.BATCH_FORGET, body) == (forgets,)
    world.error = OSError(errno.EIO, "even if it fails")
    assert world.ask(Opcode.FORGET, struct.pack("=Q", 3)) == ([(NODE, 3)],)
    assert world.no_answer()


def setattr_body(valid: int, **fields: int) -> bytes:
    names = (
        *("valid", "pad", "fh", "size", "lock_owner", "atime", "mtime", "ctime"),
        *("atimensec", "mtimensec", "ctimensec", "mode", "unused4", "uid", "gid", "unused5"),
    )
    values = [fields.get(name, 0) for name in names]
    values[0] = valid
    return struct.pack("=IIQQQQQQIIIIIIII", *values)


def test_setattr_names_what_is_to_be_set(world: World) -> None:
    world.result = ENTRY
    before_1970 = (1 << 64) - 10
    inode, attributes, fields, fh, caller = world.ask(
        Opcode.SETATTR,
        setattr_body(
            0b1_0111_1111, fh=7, size=1 << 40, mode=0o100644, uid=1, gid=2, atime=before_1970,
            atimensec=5, mtime=9
        ),
    )  # fmt: skip
    assert (inode, fh, who(caller)) == (NODE, 7, (UID, GID, PID, 0))
    assert (attributes.st_size, attributes.st_mode) == (1 << 40, 0o100644)
    assert (attributes.st_uid, attributes.st_gid) == (1, 2)
    assert attributes.st_atime_ns == -10_000_000_000 + 5
    assert isinstance(fields, pyfuse3.SetattrFields)
    assert fields.update_mode
    assert fields.update_uid
    assert fields.update_gid
    assert fields.update_size
    assert fields.update_atime
    assert fields.update_mtime
    assert (fields.atime_now, fields.mtime_now) == (False, True)
    error, reply = world.answer()
    assert (error, len(reply)) == (0, 16 + 88)

    _, _, fields, fh, _ = world.ask(Opcode.SETATTR, setattr_body(1 << 3))
    assert fh is None
    assert fields.update_size
    assert not any((fields.update_mode, fields.update_uid, fields.update_atime))


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


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSYS, "SRC does not have it"), errno.EOPNOTSUPP),
        (OSError(512, "ERESTARTSYS, the kernel's own"), errno.EIO),
        (OSError("no number"), errno.EIO),
        (ValueError("unexpected"), errno.EIO),
        (pyfuse3.FUSEError(errno.ESTALE), errno.ESTALE),
    ],
)
@pytest.mark.parametrize("opcode", [Opcode.FSYNC, Opcode.STATFS])
def test_no_handler_can_answer_what_the_kernel_remembers(
    world: World, error: Exception, number: int, opcode: Opcode
) -> None:
    world.error = error
    world.ask(opcode, bytes(16))
    assert world.answer() == (number, b"")


@pytest.mark.parametrize("opcode", sorted(TABLE))
@pytest.mark.parametrize("body", [b"", b"\0" * 7, b"no zero at the end", b"\xff" * 200])
def test_a_damaged_request_gets_eio_and_ends_nothing(
    world: World, caplog: pytest.LogCaptureFixture, opcode: Opcode, body: bytes
) -> None:
    world.error = OSError(errno.EDOM, "some bodies will do")
    was_called = bool(world.ask(opcode, body))
    if opcode in UNANSWERED:
        assert world.no_answer()
    else:
        assert world.answer() == (errno.EDOM if was_called or not world.error else errno.EIO, b"")
    if not was_called:
        assert f"request {opcode.name} is damaged" in caplog.text
    assert not world.channel.ended


@given(opcode=st.integers(0, 60), body=st.binary(max_size=300), cut=st.integers(0, 400))
def test_nothing_that_comes_from_the_kernel_raises(opcode: int, body: bytes, cut: int) -> None:
    if opcode in (Opcode.READ, Opcode.WRITE):
        return
    world = World()
    try:
        world.error = OSError(errno.EDOM, "if it is called")
        world.kernel.send(message(opcode, body)[: max(cut, 1)])
        assert world.channel.take()
        assert not world.channel.ended
    finally:
        world.close()
