"""The channel with a socket in the place of the kernel's FUSE descriptor."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from random import Random
from typing import Any

import pyfuse3
import pytest

from throttlefs.backing import Data
from throttlefs.backing.buffers import address_of
from throttlefs.fuse.channel import Channel, KeptData, PendingWrite
from throttlefs.fuse.replies import Reply
from throttlefs.fuse.table import TABLE

# linux/fuse.h
READ, WRITE, INTERRUPT = 15, 16, 36

LARGE = 128 << 10
"""Bytes: kept and not copied."""


def in_header(opcode: int, unique: int, length: int, pid: int = 0) -> bytes:
    """struct fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, total_extlen."""
    return struct.pack("=IIQQIIIHH", 40 + length, opcode, unique, 1, 0, 0, pid, 0, 0)


def read_request(
    unique: int, fh: int, offset: int, size: int, opcode: int = READ, pid: int = 0
) -> bytes:
    """struct fuse_read_in: fh, offset, size, read_flags, lock_owner, flags, padding."""
    return in_header(opcode, unique, 40, pid) + struct.pack(
        "=QQIIQII", fh, offset, size, 0, 0, 0, 0
    )


def write_request(
    unique: int,
    fh: int,
    offset: int,
    data: bytes,
    flags: int = 0,
    write_flags: int = 0,
    pid: int = 0,
) -> bytes:
    """struct fuse_write_in: fh, offset, size, write_flags, lock_owner, flags, padding."""
    body = struct.pack("=QQIIQII", fh, offset, len(data), write_flags, 0, flags, 0) + data
    return in_header(WRITE, unique, len(body), pid) + body


class Rig:
    """A channel, the kernel's end, and files that a test scripts; no other handlers."""

    def __init__(self) -> None:
        self.kernel, self.fuse = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.kernel, self.fuse):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 << 20)
        self.started: list[tuple[Coroutine[Any, Any, Any], Reply]] = []
        self.room: memoryview | None = None
        self.flags = 0
        self.on_read: Callable[[int, int, int], Any] = lambda fh, off, size: b"?" * size
        self.on_write: Callable[[int, int, Data, PendingWrite], Any] = (
            lambda fh, off, data, pending: len(data)
        )
        self.doomed: set[int] = set()
        self.asked_to_interrupt: list[int] = []
        self.channel = Channel(self.fuse.fileno(), self, self._start, self, max_write=1 << 20)

    def __getattr__(self, name: str) -> Any:
        if name not in {operation.handler for operation in TABLE.values()}:
            raise AttributeError(name)
        return self._refuse

    async def _refuse(self, *_: object) -> None:
        raise OSError(errno.EDOM, "no handler does anything here")

    def begin_read(self, fh: int, off: int, size: int, room: memoryview | None) -> Any:
        self.room = room
        return self.on_read(fh, off, size)

    def begin_write(self, fh: int, off: int, data: Data, flags: int, pending: PendingWrite) -> Any:
        self.flags = flags
        return self.on_write(fh, off, data, pending)

    def interrupted(self, unique: int) -> None:
        self.asked_to_interrupt.append(unique)

    def _start(self, coroutine: Coroutine[Any, Any, Any], reply: Reply) -> None:
        self.started.append((coroutine, reply))

    def ask(self, request: bytes) -> None:
        self.kernel.send(request)
        assert self.channel.take()

    def answer(self) -> tuple[int, int, bytes]:
        """unique, error and the rest of the oldest reply."""
        reply = self.kernel.recv(2 << 20)
        length, error, unique = struct.unpack_from("=IiQ", reply)
        assert length == len(reply)
        return unique, error, reply[16:]

    def finish(self) -> None:
        """Run what was started first to its end, and reply."""
        coroutine, reply = self.started.pop(0)
        try:
            coroutine.send(None)
        except StopIteration as stop:
            reply.done(stop.value)
        except Exception as exc:
            reply.failed(exc)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    for coroutine, _ in rig.started:
        coroutine.close()
    rig.kernel.close()
    rig.fuse.close()


def test_without_a_request_nothing_is_taken(rig: Rig) -> None:
    assert not rig.channel.take()
    assert not rig.channel.ended


def test_a_read_may_be_answered_from_the_room_it_is_given(rig: Rig) -> None:
    def on_read(fh: int, off: int, size: int) -> memoryview:
        assert rig.room is not None
        assert len(rig.room) == size
        rig.room[:5] = b"whole"
        return rig.room[:4] if off else rig.room

    rig.on_read = on_read
    rig.ask(read_request(1, fh=3, offset=0, size=5))
    rig.ask(read_request(2, fh=3, offset=100, size=5))
    rig.ask(read_request(3, fh=3, offset=0, size=5))
    assert [rig.answer() for _ in range(3)] == [(1, 0, b"whole"), (2, 0, b"whol"), (3, 0, b"whole")]


def test_a_read_is_answered_at_once(rig: Rig) -> None:
    asked = []

    def on_read(fh: int, off: int, size: int) -> bytes:
        asked.append((fh, off, size))
        return b"data"

    rig.on_read = on_read
    rig.ask(read_request(7, fh=3, offset=1 << 40, size=4096))
    assert asked == [(3, 1 << 40, 4096)]
    assert rig.answer() == (7, 0, b"data")


def test_a_write_is_answered_at_once_and_its_data_is_aligned(rig: Rig, rng: Random) -> None:
    seen = []

    def on_write(fh: int, off: int, data: Data, pending: PendingWrite) -> int:
        seen.append((fh, off, bytes(data), address_of(data) % mmap.PAGESIZE))
        return len(data) - 1

    rig.on_write = on_write
    data = rng.randbytes(LARGE)
    rig.ask(write_request(8, fh=4, offset=512, data=data))
    assert seen == [(4, 512, data, 0)]
    assert rig.answer() == (8, 0, struct.pack("=II", len(data) - 1, 0))


def test_a_write_has_its_own_flags_and_pages_written_back_do_not_append(rig: Rig) -> None:
    flags = os.O_RDWR | os.O_APPEND | os.O_DSYNC
    rig.ask(write_request(8, 4, 512, b"x", flags))
    assert rig.flags == flags
    rig.ask(write_request(8, 4, 512, b"x", flags, write_flags=1))  # FUSE_WRITE_CACHE
    assert rig.flags == os.O_RDWR | os.O_DSYNC


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (pyfuse3.FUSEError(errno.ENOSPC), errno.ENOSPC),
        (OSError(errno.EROFS, "read-only"), errno.EROFS),
        (KeyError("no such handle"), errno.EIO),
    ],
)
@pytest.mark.parametrize("waits", [False, True])
def test_an_error_becomes_its_errno(rig: Rig, error: Exception, number: int, waits: bool) -> None:
    async def fail_later() -> int:
        raise error

    def fail(*_: object) -> Any:
        if waits:
            return fail_later()
        raise error

    rig.on_read = rig.on_write = fail
    for unique, request in enumerate((read_request(0, 1, 0, 10), write_request(1, 1, 0, b"x"))):
        rig.ask(request)
        if waits:
            rig.finish()
        assert rig.answer() == (unique, -number, b"")


def test_what_waits_is_answered_later_and_holds_up_nobody(rig: Rig) -> None:
    async def later(value: bytes) -> bytes:
        return value

    rig.on_read = lambda fh, off, size: later(b"late") if off else b"early"
    rig.ask(read_request(1, 1, 100, 4))
    rig.ask(read_request(2, 1, 0, 4))
    assert rig.answer() == (2, 0, b"early")
    rig.finish()
    assert rig.answer() == (1, 0, b"late")


def keeping(rig: Rig) -> list[KeptData]:
    """Let every write wait; returns a list of what it kept, until it ends."""
    kept: list[KeptData] = []

    async def later(data: KeptData) -> int:
        size = len(data.data)
        data.release()
        return size

    def on_write(fh: int, off: int, data: Data, pending: PendingWrite) -> Coroutine[Any, Any, int]:
        kept.append(pending.keep())
        return later(kept[-1])

    rig.on_write = on_write
    return kept


@pytest.mark.parametrize("size", [1, 4096, 64 << 10, (64 << 10) + 1, LARGE])
def test_the_data_of_a_write_that_waits_stays_what_it_is(rig: Rig, rng: Random, size: int) -> None:
    kept = keeping(rig)
    written = [rng.randbytes(size) for _ in range(5)]
    for unique, data in enumerate(written):
        rig.ask(write_request(unique, 1, 0, data))
    assert [bytes(data.data) for data in kept] == written
    assert [data.held for data in kept] == [size] * 5
    for unique in range(5):
        rig.finish()
        assert rig.answer() == (unique, 0, struct.pack("=II", size, 0))


def test_what_a_waiting_write_holds_is_all_that_its_buffer_has_resident(rig: Rig) -> None:
    kept = keeping(rig)
    rig.ask(write_request(1, 1, 0, bytes(LARGE)))
    held_by_first = kept.pop().held
    rig.finish()
    for unique in range(2, 4):  # one into a fresh buffer, one into the one that was used
        rig.ask(write_request(unique, 1, 0, bytes(100 << 10)))
    assert held_by_first == LARGE
    assert sorted(data.held for data in kept) == [100 << 10, LARGE]


def test_buffers_are_used_again(rig: Rig) -> None:
    kept = keeping(rig)
    addresses = set()
    for unique in range(50):
        rig.ask(write_request(unique, 1, 0, bytes(LARGE)))
        addresses.add(address_of(kept.pop().data))
        rig.finish()
        rig.answer()
    assert len(addresses) <= 2


@pytest.mark.parametrize("opcode", [0, 7, 31, 34, 39, 48, 50, 53, 54, 4096, (1 << 32) - 1])
def test_an_opcode_outside_the_table_is_not_implemented(rig: Rig, opcode: int) -> None:
    rig.ask(in_header(opcode, 9, 100) + bytes(100))
    assert rig.answer() == (9, -errno.ENOSYS, b"")


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ECONNABORTED])
def test_the_session_ends_when_the_kernel_has_ended_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def gone(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.readv", gone)
    assert rig.channel.take()
    assert rig.channel.ended


def test_a_failure_to_take_a_request_ends_nothing_until_nothing_else_comes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> int:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr("os.readv", fails)
    for _ in range(999):
        assert rig.channel.take()
        assert not rig.channel.ended
    rig.channel.take()
    assert rig.channel.ended
    assert len(caplog.records) == 1
    assert "no memory" in caplog.text


def test_an_interrupt_names_a_request_and_gets_no_reply(rig: Rig) -> None:
    rig.ask(in_header(INTERRUPT, 11, 8) + struct.pack("=Q", 10))
    assert rig.asked_to_interrupt == [10]
    with pytest.raises(BlockingIOError):
        rig.answer()


def test_a_request_that_waits_is_known_by_its_number_and_its_thread(rig: Rig) -> None:
    keeping(rig)

    async def later() -> bytes:
        return b""

    rig.on_read = lambda fh, off, size: later()
    rig.ask(read_request(5, 1, 0, 4, pid=77))
    rig.ask(write_request(6, 1, 0, bytes(LARGE), pid=78))
    rig.ask(write_request(7, 1, 0, b"x", pid=79))
    rig.ask(read_request(8, 1, 0, 4))
    found = [(reply.unique, reply.owner) for _, reply in rig.started]
    assert found == [(5, 77), (6, 78), (7, 79), (8, 0)]


def test_pages_written_back_belong_to_nobody(rig: Rig) -> None:
    keeping(rig)
    rig.doomed.add(78)
    rig.channel.refuse_doomed()
    rig.ask(write_request(6, 1, 0, bytes(LARGE), write_flags=1, pid=78))  # FUSE_WRITE_CACHE
    assert [(reply.unique, reply.owner) for _, reply in rig.started] == [(6, 0)]


def test_reads_and_writes_of_the_doomed_are_refused_as_they_arrive(rig: Rig) -> None:
    rig.doomed.add(78)
    rig.channel.refuse_doomed()
    rig.ask(read_request(1, 1, 0, 4, pid=78))
    rig.ask(write_request(2, 1, 0, b"x", pid=78))
    rig.ask(read_request(3, 1, 0, 4, pid=79))
    rig.doomed.clear()
    rig.channel.refuse_doomed()
    rig.ask(read_request(4, 1, 0, 4, pid=78))
    assert [rig.answer() for _ in range(4)] == [
        (1, -errno.EINTR, b""),
        (2, -errno.EINTR, b""),
        (3, 0, b"????"),
        (4, 0, b"????"),
    ]


def test_a_reply_that_nobody_wants_is_no_error(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise FileNotFoundError(errno.ENOENT, "the request was aborted")

    monkeypatch.setattr("os.writev", refuse)
    rig.ask(read_request(1, 1, 0, 10))
    assert not caplog.records
    monkeypatch.setattr("os.writev", lambda *_: (_ for _ in ()).throw(OSError(errno.EINVAL, "!")))
    rig.ask(read_request(1, 1, 0, 10))
    assert "does not take a reply" in caplog.text


def test_the_end_of_the_session_is_seen(rig: Rig) -> None:
    rig.kernel.close()
    assert rig.channel.take()
    assert rig.channel.ended


@pytest.mark.parametrize(("number", "ended"), [(errno.ENODEV, True), (errno.ENOENT, False)])
def test_errors_of_the_descriptor(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, number: int, ended: bool
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.readv", fail)
    assert rig.channel.take()
    assert rig.channel.ended is ended


def test_memory_is_given_back_in_idle_times(rig: Rig) -> None:
    kept = keeping(rig)
    for unique in range(10):
        rig.ask(write_request(unique, 1, 0, bytes(LARGE)))
    while rig.started:
        rig.finish()
        rig.answer()
    kept.clear()
    assert rig.channel._free
    rig.channel.tidy()
    assert not rig.channel._free
    rig.ask(write_request(1, 1, 0, bytes(LARGE)))
    assert kept[0].held == LARGE
