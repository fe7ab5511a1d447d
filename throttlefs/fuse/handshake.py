"""Sees to the first request of a mount, INIT, which libfuse and pyfuse3 answer through a socket.

pyfuse3 answers INIT only in its ``main()``, which would then go on and read requests. So its
descriptor is a socket for that time. INIT goes in, and the reply comes out, is amended and goes on
to the kernel. Then ``main()`` is ended, and libfuse gets its descriptor back, for notifications and
for closing it.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import pyfuse3
import trio

from . import wire
from .wire import Opcode

_MESSAGE_MAX = 1 << 20

_DEFAULT_MAX_WRITE = 1 << 20
"""Bytes: libfuse and the kernel agree on this, unless fs.fuse.max_pages_limit is raised."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The result of the handshake between libfuse and the kernel."""

    max_write: int
    """Bytes: the largest write."""
    has_long_setxattr: bool
    """Whether a SETXATTR has flags of its own (FUSE_SETXATTR_EXT)."""


def open_fuse_descriptors() -> set[int]:
    """The descriptors of this process that are /dev/fuse: pyfuse3 does not say which is its own."""
    device = os.stat("/dev/fuse").st_rdev
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.fstat(int(name)).st_rdev == device:
                found.add(int(name))
        except OSError:
            continue  # the descriptor of the listing itself, closed by now
    return found


async def shake_hands(libfuse_fd: int, kernel_fd: int) -> Agreement:
    """Pass INIT on and its reply back: ``pyfuse3.init`` has mounted with *libfuse_fd*.

    *kernel_fd* is a duplicate of it that does not block. Raises `OSError` if the kernel ends the
    mount before that.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        os.dup2(theirs.fileno(), libfuse_fd, inheritable=False)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pyfuse3.main, 1, 1)
                agreement = None
                while agreement is None:
                    await trio.lowlevel.wait_readable(kernel_fd)
                    agreement = await _pass_init(kernel_fd, ours)
                pyfuse3.terminate()
        finally:
            os.dup2(kernel_fd, libfuse_fd, inheritable=False)
    return agreement


async def _pass_init(kernel_fd: int, libfuse: socket.socket) -> Agreement | None:
    """Pass one INIT on and its reply back; None if the kernel will ask again."""
    try:
        request = os.read(kernel_fd, _MESSAGE_MAX + (64 << 10))
    except BlockingIOError:
        return None
    _, opcode, *_ = wire.in_header.unpack_from(request)
    if opcode != Opcode.INIT:
        raise OSError(f"the kernel sent request {opcode} before INIT")
    libfuse.send(request)
    await trio.lowlevel.wait_readable(libfuse)
    reply = bytearray(libfuse.recv(_MESSAGE_MAX))
    agreement = amend_init(reply)
    os.write(kernel_fd, reply)
    return agreement


def amend_init(reply: bytearray) -> Agreement | None:
    """Let *reply* leave the umask to us, who know of default ACLs; returns what it agrees to.

    None if libfuse wants another version of the protocol; the kernel will ask again.
    """
    if len(reply) < wire.MAX_WRITE_AT + wire.UINT32.size:
        return None
    (flags,) = wire.UINT32.unpack_from(reply, wire.INIT_FLAGS_AT)
    wire.UINT32.pack_into(reply, wire.INIT_FLAGS_AT, flags | wire.DONT_MASK)
    (max_write,) = wire.UINT32.unpack_from(reply, wire.MAX_WRITE_AT)
    return Agreement(max(max_write, _DEFAULT_MAX_WRITE), bool(flags & wire.SETXATTR_EXT))
