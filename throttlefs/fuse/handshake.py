"""The first request of a mount, INIT: libfuse and pyfuse3 answer it, through a socket.

pyfuse3 comes to INIT in its ``main()`` alone, which would then go on and read requests. So its
descriptor is a socket for that long: INIT goes in, the reply comes out, is amended on its way to
the kernel, and ``main()`` is ended. Afterwards libfuse has its descriptor back, for notifications
and for closing it.
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
"""Bytes: what libfuse agrees on with the kernel, unless fs.fuse.max_pages_limit is raised."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What libfuse and the kernel have agreed on."""

    max_write: int
    """Bytes: the largest write."""
    has_long_setxattr: bool
    """Whether a SETXATTR has flags of its own (FUSE_SETXATTR_EXT)."""


def open_fuse_descriptors() -> set[int]:
    """The descriptors of this process that are /dev/fuse: pyfuse3 does not tell which is its."""
    device = os.stat("/dev/fuse").st_rdev
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.fstat(int(name)).st_rdev == device:
                found.add(int(name))
        except OSError:
            continue  # the listing's own, closed by now
    return found


async def shake_hands(libfuse_fd: int, kernel_fd: int) -> Agreement:
    """See INIT through: *libfuse_fd* is the descriptor that ``pyfuse3.init`` has mounted with.

    *kernel_fd* is a duplicate of it, without blocking. Raises `OSError` if the kernel ends the
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
    """Pass one INIT on and its reply back; None if the kernel is to ask again."""
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
    """Have the umask left to us, for we know of default ACLs; what the reply agrees to.

    None if libfuse wants another version of the protocol; the kernel will ask again.
    """
    if len(reply) < wire.MAX_WRITE_AT + wire.UINT32.size:
        return None
    (flags,) = wire.UINT32.unpack_from(reply, wire.INIT_FLAGS_AT)
    wire.UINT32.pack_into(reply, wire.INIT_FLAGS_AT, flags | wire.DONT_MASK)
    (max_write,) = wire.UINT32.unpack_from(reply, wire.MAX_WRITE_AT)
    return Agreement(max(max_write, _DEFAULT_MAX_WRITE), bool(flags & wire.SETXATTR_EXT))
