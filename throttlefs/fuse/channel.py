"""Takes the requests of the kernel and sends the replies.

::

    kernel <== /dev/fuse ==> Channel --- READ, WRITE ---> Contents
                                |
                                +------ all others -----> table.py ---> Operations

libfuse and pyfuse3 have mounted and shaken hands (`handshake`). From then on only the channel reads
the FUSE descriptor: libfuse and pyfuse3 would take as long for a small request as all the rest
together. Work that can finish at once returns its result, and the reply goes out. Work that must
wait returns a coroutine, which the session loop runs.

A request is received in two pieces: the 80 bytes before a write's data, and that data. The data
then begins at a page, and O_DIRECT can take it from there.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
from collections.abc import Callable, Collection, Coroutine
from types import CoroutineType
from typing import Any, Protocol

from throttlefs.backing import Data

from . import wire
from .errors import errno_of
from .replies import OperationReply, ReadReply, Reply, WriteReply
from .reply_buffer import ReplyBuffer
from .table import TABLE, UNANSWERED, Request
from .wire import Opcode

log = logging.getLogger("throttlefs")

_MAX_READ = 1 << 20
"""Bytes: the largest read that is answered from memory which is used again and again."""

# Up to this size (bytes), data that must stay is copied, so that its buffer is free again.
_COPIED_MAX = 64 << 10

_FREE_BUFFERS_KEPT = 16

_MOST_DAMAGES_LOGGED = 100
"""The most lines in the log about damaged requests; there may be many of them."""

_MOST_FAILURES = 1000
"""After so many failures to take a request, the descriptor counts as useless."""

_ENDED = (errno.ENODEV, errno.ECONNABORTED)
"""The errors of read(2) on the FUSE descriptor when the mount is gone or was aborted."""

_INTERRUPT = int(Opcode.INTERRUPT)


class Contents(Protocol):
    """Serves reads and writes, at once or by a coroutine if they have to wait.

    An exception, here or in the coroutine, becomes the errno that the program gets.
    """

    def begin_read(
        self, fh: int, off: int, size: int, room: memoryview | None
    ) -> Data | Coroutine[Any, Any, Data]:
        """*size* bytes at *off*.

        Data that is there at once may be put into *room*, which has this size; then the result is
        *room* or a part of it. A coroutine must not use *room*.
        """

    def begin_write(
        self, fh: int, off: int, data: Data, flags: int, pending: PendingWrite
    ) -> int | Coroutine[Any, Any, int]:
        """Write *data* at *off*; returns how many bytes were written.

        *flags* are those of open(2) for this write (O_APPEND, O_DSYNC, O_SYNC). *data* is valid
        only during this call, unless *pending* keeps it.
        """


class ReceiveBuffer:
    """Memory for one request. ``touched``: how much of it was ever used, in bytes."""

    __slots__ = ("body", "head", "parts", "touched")

    def __init__(self, max_write: int) -> None:
        self.head = bytearray(wire.HEAD_SIZE)
        # The kernel refuses a read with less room than a header and its largest write (fuse(4)).
        size = max_write + mmap.PAGESIZE
        self.body = memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self.parts = (self.head, self.body)
        self.touched = 0


class KeptData:
    """The data of a write that waits, with the memory that they lie in."""

    __slots__ = ("_buffer", "_channel", "data", "held")

    def __init__(
        self, channel: Channel, data: Data, held: int, buffer: ReceiveBuffer | None
    ) -> None:
        self._channel = channel
        self._buffer = buffer
        self.data = data
        self.held = held
        """Bytes of memory."""

    def release(self) -> None:
        """Free the memory; nobody uses the data any more."""
        self.data = b""
        self.held = 0
        if self._buffer is not None:
            self._channel.give_back(self._buffer)
            self._buffer = None


class PendingWrite:
    """The write that is being begun, whose data lie in the channel's buffer."""

    __slots__ = ("_channel", "size")

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.size = 0

    def keep(self) -> KeptData:
        """Keep the data beyond the call that they came with, until they are released."""
        channel, size = self._channel, self.size
        buffer = channel.receive_buffer
        if size <= _COPIED_MAX:
            return KeptData(channel, bytes(buffer.body[:size]), size, None)
        channel.change_buffer()
        return KeptData(channel, buffer.body[:size], buffer.touched, buffer)


class InterruptedRequests(Protocol):
    """Is told which requests the kernel would like to have interrupted."""

    doomed: Collection[int]
    """Threads whose requests are refused as they arrive, because they are dying."""

    def interrupted(self, unique: int) -> None:
        """The program of the request *unique* got a signal."""


class Channel:
    """Takes requests from *fd*, the FUSE descriptor of a mount, and has them served.

    *operations* has the methods of `Contents` and the handlers that the table names. *start* is
    called with each coroutine and its reply. *interrupts* is told of interrupted requests.
    *max_write* is the largest write (bytes) that was agreed on; *has_long_setxattr* says whether
    FUSE_SETXATTR_EXT was. Nothing that the kernel or a program sends makes the channel raise.
    """

    def __init__(
        self,
        fd: int,
        operations: Any,
        start: Callable[[Coroutine[Any, Any, Any], Reply], None],
        interrupts: InterruptedRequests,
        *,
        max_write: int,
        has_long_setxattr: bool = False,
    ) -> None:
        self.fd = fd
        self.ended = False
        """Whether the kernel has closed the session."""
        self._contents: Contents = operations
        self._begin_read = self._contents.begin_read
        self._begin_write = self._contents.begin_write
        self._handlers = {
            int(opcode): (operation, getattr(operations, operation.handler))
            for opcode, operation in TABLE.items()
        }
        self._start = start
        self._interrupts = interrupts
        self._max_write = max_write
        self._has_long_setxattr = has_long_setxattr
        self.receive_buffer = ReceiveBuffer(max_write)
        self._free: list[ReceiveBuffer] = []
        self._pending = PendingWrite(self)
        self._reply_buffer = ReplyBuffer(_MAX_READ)
        self._room = self._reply_buffer.rooms.get
        self._damages = 0
        self._failures = 0

    # -- requests --------------------------------------------------------------------------

    def take(self) -> bool:
        """Take one request and begin with it; False if there is none."""
        buffer = self.receive_buffer
        try:
            got = os.readv(self.fd, buffer.parts)
        except BlockingIOError:
            return False
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.EINTR):
                return True  # the request was withdrawn while it was being read
            if exc.errno not in _ENDED and not self._keeps_failing(exc):
                return True
            got = 0
        if not got:
            self.ended = True
            return True
        opcode, unique, fh, offset, size, write_flags, flags = wire.parse_head(buffer.head)
        if opcode == wire.READ:
            self._read(unique, fh, offset, size)
        elif opcode == wire.WRITE:
            if size > buffer.touched:  # noqa: PLR1730  (max() takes longer, on the hot path)
                buffer.touched = size
            if write_flags & wire.WRITE_CACHE:
                flags &= ~os.O_APPEND  # mapped pages have a fixed place
            self._write(unique, fh, offset, size, flags)
        elif opcode == _INTERRUPT:  # its argument is where a read has its handle; it gets no reply
            self._interrupts.interrupted(fh)
        else:
            self._serve(opcode, unique, got)
        return True

    def _read(self, unique: int, fh: int, offset: int, size: int) -> None:
        room = self._room(size) or self._reply_buffer.make_room(size)
        try:
            data = self._begin_read(fh, offset, size, room)
        except Exception as exc:
            self.reply_error(unique, errno_of(exc, "READ"))
            return
        if data is room:  # *room* may be None, but no read is answered by None
            try:
                os.write(self.fd, self._reply_buffer.reply(unique, size))
            except OSError as exc:
                self._not_wanted(exc)
        elif isinstance(data, CoroutineType):
            owner, _ = wire.asker(self.receive_buffer.head)
            self._start(data, ReadReply(self, unique, owner))
        else:
            self.reply_data(unique, data)

    def _write(self, unique: int, fh: int, offset: int, size: int, flags: int) -> None:
        pending, buffer = self._pending, self.receive_buffer
        pending.size = size
        try:
            written = self._begin_write(fh, offset, buffer.body[:size], flags, pending)
        except Exception as exc:
            self.reply_error(unique, errno_of(exc, "WRITE"))
            return
        if isinstance(written, CoroutineType):
            owner, write_flags = wire.asker(buffer.head)
            if write_flags & wire.WRITE_CACHE:
                owner = 0  # whoever changed the pages, they must be written
            self._start(written, WriteReply(self, unique, owner))
        else:
            self.reply_written(unique, written)

    def refuse_doomed(self) -> None:
        """Look anew whether there are doomed threads; only then each read and write is checked."""
        contents = self._contents
        if self._interrupts.doomed:
            self._begin_read, self._begin_write = self._check_read, self._check_write
        else:
            self._begin_read, self._begin_write = contents.begin_read, contents.begin_write

    def _check_read(
        self, fh: int, off: int, size: int, room: memoryview | None
    ) -> Data | Coroutine[Any, Any, Data]:
        owner, _ = wire.asker(self.receive_buffer.head)
        self._check(owner)
        return self._contents.begin_read(fh, off, size, room)

    def _check_write(
        self, fh: int, off: int, data: Data, flags: int, pending: PendingWrite
    ) -> int | Coroutine[Any, Any, int]:
        owner, write_flags = wire.asker(self.receive_buffer.head)
        if not write_flags & wire.WRITE_CACHE:
            self._check(owner)
        return self._contents.begin_write(fh, off, data, flags, pending)

    def _check(self, owner: int) -> None:
        if owner in self._interrupts.doomed:
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

    def _serve(self, opcode: int, unique: int, size: int) -> None:
        """Begin with a request of *size* bytes that is neither read nor write."""
        known = self._handlers.get(opcode)
        if known is None:
            self.reply_error(unique, errno.ENOSYS)
            return
        operation, handler = known
        buffer = self.receive_buffer
        message = bytes(buffer.head[:size])
        rest = size - wire.HEAD_SIZE
        if rest > 0:
            message += buffer.body[:rest]
            buffer.touched = max(buffer.touched, rest)
        try:
            request = Request(message, self._has_long_setxattr)
            coroutine = handler(*operation.arguments(request))
        except Exception as exc:  # a strange number or a missing byte may raise anything
            self._damaged(opcode, unique, exc)
            return
        self._start(coroutine, OperationReply(self, operation, request))

    def _keeps_failing(self, exc: OSError) -> bool:
        """Whether so many requests could not be taken that the mount must end."""
        if not self._failures:
            log.error("cannot take a request: %s", exc.strerror)
        self._failures += 1
        return self._failures >= _MOST_FAILURES

    def _damaged(self, opcode: int, unique: int, exc: Exception) -> None:
        """Answer a request that breaks the protocol with EIO; the mount goes on."""
        self._damages += 1
        if self._damages <= _MOST_DAMAGES_LOGGED:
            log.error("request %s is damaged: %s; it gets EIO", Opcode(opcode).name, exc)
        if opcode not in UNANSWERED:
            self.reply_error(unique, errno.EIO)

    def caller_pid(self) -> int:
        """The process that made the request which is being begun with; 0 if it is the kernel."""
        return int(wire.in_header.unpack_from(self.receive_buffer.head)[6])

    # -- memory ----------------------------------------------------------------------------

    def change_buffer(self) -> None:
        """Receive into another buffer from now on, because a write keeps the present one."""
        self.receive_buffer = self._free.pop() if self._free else ReceiveBuffer(self._max_write)

    def give_back(self, buffer: ReceiveBuffer) -> None:
        """Let *buffer* be used for another request."""
        if len(self._free) < _FREE_BUFFERS_KEPT:
            self._free.append(buffer)

    def tidy(self) -> None:
        """Free memory that is not needed while no requests come."""
        self._free.clear()
        self._reply_buffer.tidy()
        if self.receive_buffer.touched > _COPIED_MAX:
            self.receive_buffer = ReceiveBuffer(self._max_write)

    # -- replies ---------------------------------------------------------------------------

    def reply_data(self, unique: int, data: Data) -> None:
        """Reply with the data that was read, or with the packed result of another request."""
        try:
            header = wire.out_header(wire.OUT_HEADER_SIZE + len(data), 0, unique)
            os.writev(self.fd, (header, data))
        except OSError as exc:
            self._not_wanted(exc)

    def reply_written(self, unique: int, written: int) -> None:
        """Reply with the number of bytes written."""
        try:
            os.write(self.fd, wire.write_reply(24, 0, unique, written))
        except OSError as exc:
            self._not_wanted(exc)

    def reply_error(self, unique: int, number: int) -> None:
        """Reply with the errno *number*."""
        try:
            os.write(self.fd, wire.out_header(wire.OUT_HEADER_SIZE, -number, unique))
        except OSError as exc:
            self._not_wanted(exc)

    def _not_wanted(self, exc: OSError) -> None:
        # ENOENT: nobody waits for the reply any more, because the mount was aborted.
        if exc.errno not in (errno.ENOENT, errno.ENODEV):
            log.error("the kernel does not take a reply: %s", exc)
