"""The kernel's requests: reads and writes are answered here, libfuse gets all others.

libfuse and pyfuse3 cost a request two copies of its data more than it needs (into an unaligned
buffer, and from there into a ``bytes`` object that Python makes under its lock), and half of the
time that a small one takes. So reads and writes are taken from the FUSE descriptor and answered
here, and whatever else comes is handed to libfuse unchanged, through a socket that it takes for
the FUSE descriptor::

    kernel <== /dev/fuse ==> Channel <== READ, WRITE ==> Contents
                                ^
                                +--- socket, all else ---> libfuse, pyfuse3's handlers

A request is received in two pieces: the 80 bytes before a write's data, and that data, which so
comes to lie at the beginning of a page, where O_DIRECT can take it from.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import socket
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, Protocol

from throttlefs.backing import Data

from . import wire
from .errors import to_fuse_error
from .reply_buffer import ReplyBuffer

log = logging.getLogger("throttlefs")

_MAX_WRITE = 1 << 20
"""Bytes: what libfuse agrees on with the kernel, unless fs.fuse.max_pages_limit is raised."""

_MAX_READ = 1 << 20
"""Bytes: the largest read that is answered from memory which is used again and again."""

# Up to this size (bytes), data that has to stay is copied, and its buffer is free again.
_COPIED_MAX = 64 << 10

_FREE_BUFFERS_KEPT = 16

# Bytes of a message to or from libfuse that every socket has room for (net.core.wmem_default is
# 208 KiB). Only listings and batches of forgotten inodes may be larger, and can be divided.
_MESSAGE_MAX = 128 << 10

_REPLY_SIZE = 1 << 20

Keep = Callable[[], tuple[Data, int]]
"""Lets a write's data outlive the call it came with: the data, and the bytes that this holds."""


class Contents(Protocol):
    """Who serves reads and writes: at once, or by a coroutine for what has to wait.

    What they raise, here and in the coroutine, becomes the errno that the program gets.
    """

    def begin_read(
        self, fh: int, off: int, size: int, room: memoryview | None
    ) -> Data | Coroutine[Any, Any, Data]:
        """*size* bytes at *off*.

        What can be had at once may be put into *room*, which has this size, and be *room* itself
        or a part of it. A coroutine must not use it.
        """

    def begin_write(
        self, fh: int, off: int, data: Data, keep: Keep
    ) -> int | Coroutine[Any, Any, int]:
        """Write *data*, which only stays what it is if *keep* is called; how much was written."""


class ReceiveBuffer:
    """Memory for one request. ``touched``: how much of it was ever used, in bytes."""

    __slots__ = ("body", "head", "parts", "touched")

    def __init__(self, max_write: int) -> None:
        self.head = bytearray(wire.HEAD_SIZE)
        # The kernel refuses to be read with less than a header and its largest write (fuse(4)).
        size = max_write + mmap.PAGESIZE
        self.body = memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self.parts = (self.head, self.body)
        self.touched = 0


class Reply:
    """How a coroutine's result gets back to the kernel, and the memory that it used."""

    __slots__ = ("_buffer", "_channel", "_is_read", "_unique")

    def __init__(
        self, channel: Channel, unique: int, is_read: bool, buffer: ReceiveBuffer | None
    ) -> None:
        self._channel = channel
        self._unique = unique
        self._is_read = is_read
        self._buffer = buffer

    def done(self, result: Any) -> None:
        """Reply with what was read, or with how much was written."""
        if self._is_read:
            self._channel.reply_data(self._unique, result)
        else:
            self._channel.reply_written(self._unique, result)
        self.drop()

    def failed(self, error: Exception) -> None:
        """Reply with the errno of *error*."""
        self._channel.reply_error(self._unique, error)
        self.drop()

    def drop(self) -> None:
        """Give the memory back; nobody uses it any more."""
        if self._buffer is not None:
            self._channel.give_back(self._buffer)
            self._buffer = None


class Channel:
    """The FUSE descriptor of a mounted session.

    Takes *fd*, which libfuse goes on using, over: until `restore` it is one end of a socket.
    *start* is called with the coroutine of each read or write that has to wait, *forward*
    when a request is in the socket for libfuse.
    """

    def __init__(
        self,
        fd: int,
        contents: Contents,
        start: Callable[[Coroutine[Any, Any, Any], Reply], None],
        forward: Callable[[], None],
    ) -> None:
        self._libfuse_fd = fd
        self.fd = os.dup(fd)
        # Between epoll and read the client may be killed and its request withdrawn; a blocking
        # read would then freeze the whole loop.
        os.set_blocking(self.fd, False)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            for end in (self._socket, theirs):
                end.setblocking(False)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _REPLY_SIZE)
            os.dup2(theirs.fileno(), fd, inheritable=False)
        self.ended = False
        """Whether the kernel has closed the session."""
        self._begin_read = contents.begin_read
        self._begin_write = contents.begin_write
        self._start = start
        self._forward = forward
        self._max_write = _MAX_WRITE
        self._knows_max_write = False
        self._buffer = ReceiveBuffer(self._max_write)
        self._free: list[ReceiveBuffer] = []
        self._reply_buffer = ReplyBuffer(_MAX_READ)
        self._room = self._reply_buffer.rooms.get
        self._size = 0  # of the write that is being begun
        self._kept: ReceiveBuffer | None = None
        # Not a bytearray, which would be resident.
        self._reply = memoryview(mmap.mmap(-1, _REPLY_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def restore(self) -> None:
        """Give libfuse its descriptor back, for it to close."""
        os.dup2(self.fd, self._libfuse_fd, inheritable=False)
        os.close(self.fd)
        self._socket.close()

    # -- requests --------------------------------------------------------------------------

    def take(self) -> bool:
        """Take one request and begin with it; False if there is none."""
        buffer = self._buffer
        try:
            got = os.readv(self.fd, buffer.parts)
        except BlockingIOError:
            return False
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                return True  # the request was withdrawn while it was being read
            if exc.errno != errno.ENODEV:
                raise
            got = 0
        if not got:
            self.ended = True
            return True
        opcode, unique, fh, offset, size = wire.parse_head(buffer.head)
        if opcode == wire.READ:
            self._read(unique, fh, offset, size)
        elif opcode == wire.WRITE:
            if size > buffer.touched:  # noqa: PLR1730  (max() takes longer, on the hot path)
                buffer.touched = size
            self._write(unique, fh, offset, size)
        elif opcode != wire.INTERRUPT:  # which may be ignored: what waits cannot be hurried
            self._hand_on(opcode, unique, got)
        return True

    def _read(self, unique: int, fh: int, offset: int, size: int) -> None:
        room = self._room(size) or self._reply_buffer.make_room(size)
        try:
            data = self._begin_read(fh, offset, size, room)
        except Exception as exc:
            self.reply_error(unique, exc)
            return
        if data is room:  # which is not None: no read is answered by that
            try:
                os.write(self.fd, self._reply_buffer.reply(unique, size))
            except OSError as exc:
                self._not_wanted(exc)
        elif isinstance(data, CoroutineType):
            self._start(data, Reply(self, unique, True, None))
        else:
            self.reply_data(unique, data)  # type: ignore[arg-type]  # no other Coroutine comes

    def _write(self, unique: int, fh: int, offset: int, size: int) -> None:
        self._size = size
        try:
            written = self._begin_write(fh, offset, self._buffer.body[:size], self._keep)
        except Exception as exc:
            self.reply_error(unique, exc)
            return
        if isinstance(written, CoroutineType):
            kept, self._kept = self._kept, None
            self._start(written, Reply(self, unique, False, kept))
        else:
            self.reply_written(unique, written)  # type: ignore[arg-type]

    def _keep(self) -> tuple[Data, int]:
        buffer, size = self._buffer, self._size
        if size <= _COPIED_MAX:
            return bytes(buffer.body[:size]), size
        self._kept = buffer
        self._buffer = self._free.pop() if self._free else ReceiveBuffer(self._max_write)
        return buffer.body[:size], buffer.touched

    def give_back(self, buffer: ReceiveBuffer) -> None:
        """*buffer* may be used for another request."""
        if len(self._free) < _FREE_BUFFERS_KEPT:
            self._free.append(buffer)

    def tidy(self) -> None:
        """Let go of memory that is not needed when no requests come."""
        self._free.clear()
        self._reply_buffer.tidy()
        if self._buffer.touched > _COPIED_MAX:
            self._buffer = ReceiveBuffer(self._max_write)

    # -- replies ---------------------------------------------------------------------------

    def reply_data(self, unique: int, data: Data) -> None:
        """What was read."""
        try:
            header = wire.out_header(wire.OUT_HEADER_SIZE + len(data), 0, unique)
            os.writev(self.fd, (header, data))
        except OSError as exc:
            self._not_wanted(exc)

    def reply_written(self, unique: int, written: int) -> None:
        """How much was written."""
        try:
            os.write(self.fd, wire.write_reply(24, 0, unique, written))
        except OSError as exc:
            self._not_wanted(exc)

    def reply_error(self, unique: int, error: Exception) -> None:
        """The errno of *error*."""
        number = to_fuse_error(error, "a read or write").errno
        self._send(wire.out_header(wire.OUT_HEADER_SIZE, -number, unique))

    def _send(self, reply: Data) -> None:
        try:
            os.write(self.fd, reply)
        except OSError as exc:
            self._not_wanted(exc)

    def _not_wanted(self, exc: OSError) -> None:
        # ENOENT: nobody waits for it any more, as the mount was aborted.
        if exc.errno not in (errno.ENOENT, errno.ENODEV):
            log.error("the kernel does not take a reply: %s", exc)

    # -- libfuse ---------------------------------------------------------------------------

    def _hand_on(self, opcode: int, unique: int, size: int) -> None:
        """Let libfuse have the request of *size* bytes that was just received."""
        buffer = self._buffer
        if size > _MESSAGE_MAX and opcode == wire.BATCH_FORGET:
            self._hand_on_forgets(bytes(buffer.head) + buffer.body[: size - wire.HEAD_SIZE])
            return
        if opcode in (wire.READDIR, wire.READDIRPLUS):
            (wanted,) = wire.number.unpack_from(buffer.head, wire.SIZE_AT)
            wire.number.pack_into(buffer.head, wire.SIZE_AT, min(wanted, _MESSAGE_MAX))
        head = min(size, wire.HEAD_SIZE)
        try:
            self._socket.sendmsg((memoryview(buffer.head)[:head], buffer.body[: size - head]))
        except OSError as exc:
            log.error("libfuse does not take request %d of %d bytes: %s", opcode, size, exc)
            self.reply_error(unique, exc)
            return
        self._forward()

    def _hand_on_forgets(self, request: bytes) -> None:
        """Let libfuse have a batch of forgotten inodes in several, for it has no upper bound."""
        header = bytearray(request[: wire.FORGETS_AT])
        for start in range(wire.FORGETS_AT, len(request), _MESSAGE_MAX):
            forgets = request[start : start + _MESSAGE_MAX]
            wire.number.pack_into(header, wire.LENGTH_AT, len(header) + len(forgets))
            wire.number.pack_into(header, wire.COUNT_AT, len(forgets) // wire.FORGET_SIZE)
            self._socket.sendmsg((header, forgets))
            self._forward()

    def pass_replies(self) -> None:
        """Let the kernel have what libfuse has replied."""
        reply = self._reply
        while True:
            try:
                size = self._socket.recv_into(reply)
            except BlockingIOError:
                return
            if not size:
                return
            if not self._knows_max_write:
                self._see_init(reply[:size])
            self._send(reply[:size])

    def _see_init(self, reply: memoryview) -> None:
        """See what libfuse agrees to, and take the umask over; its first reply is that to INIT."""
        if len(reply) < wire.MAX_WRITE_AT + wire.number.size:
            return  # it wants another version of the protocol; the kernel will ask again
        self._knows_max_write = True
        (flags,) = wire.number.unpack_from(reply, wire.INIT_FLAGS_AT)
        wire.number.pack_into(reply, wire.INIT_FLAGS_AT, flags | wire.DONT_MASK)
        (max_write,) = wire.number.unpack_from(reply, wire.MAX_WRITE_AT)
        if max_write > self._max_write:
            self._max_write = max_write
            self._buffer = ReceiveBuffer(max_write)
