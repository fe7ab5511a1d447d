"""A channel with a socket in the place of the kernel and handlers that take notes."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

import pytest

from throttlefs.fuse.attributes import Presentation, WireAttributes
from throttlefs.fuse.channel import Channel
from throttlefs.fuse.table import TABLE

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


ENTRY = WireAttributes(Presentation(1.5, 0.25)).entry(9, os.stat("/"))
