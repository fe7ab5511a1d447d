"""The table of opcodes, with a socket in the place of the kernel and handlers that take notes."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import Any

import pyfuse3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fuse.table_world import ENTRY, GID, NODE, PID, UID, World, message
from throttlefs.fuse.arguments import Caller
from throttlefs.fuse.table import TABLE, UNANSWERED
from throttlefs.fuse.wire import Opcode


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def who(caller: Caller) -> tuple[int, int, int, int]:
    assert isinstance(caller, pyfuse3.RequestContext)
    return caller.uid, caller.gid, caller.pid, caller.umask


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
