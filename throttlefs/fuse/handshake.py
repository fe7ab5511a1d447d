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


_WITH_PARALLEL_WRITES = 38
_WITH_STATX = 39
_WITH_BOTH = 40
"""Minor versions of the protocol: FOPEN_PARALLEL_DIRECT_WRITES came with 7.38 (Linux 6.2), STATX
and shared mmap with 7.39 (Linux 6.6). Until 7.40 (Linux 6.9) there are either parallel writes or
shared mmap: the kernel makes all writes of a file exclusive if the latter was agreed on."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The result of the handshake with the kernel; without arguments: of one with none of it."""

    max_write: int = _DEFAULT_MAX_WRITE
    """Bytes: the largest write."""
    has_long_setxattr: bool = False
    """Whether a SETXATTR has flags of its own (FUSE_SETXATTR_EXT)."""
    shared_mmap: bool = False
    """Whether files that are opened past the page cache can be mapped shared."""
    parallel_writes: bool = False
    """Whether the kernel sends writes of one file side by side."""
    birth_times: bool = False
    """Whether the kernel asks when a file was made (STATX)."""


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


async def shake_hands(libfuse_fd: int, kernel_fd: int, wants_mmap: bool) -> Agreement:
    """Pass INIT on and its reply back: ``pyfuse3.init`` has mounted with *libfuse_fd*.

    *kernel_fd* is a duplicate of it that does not block. *wants_mmap* is as in `amend_init`. Raises
    `OSError` if the kernel ends the mount before that.
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
                    agreement = await _pass_init(kernel_fd, ours, wants_mmap)
                pyfuse3.terminate()
        finally:
            os.dup2(kernel_fd, libfuse_fd, inheritable=False)
    return agreement


async def _pass_init(kernel_fd: int, libfuse: socket.socket, wants_mmap: bool) -> Agreement | None:
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
    agreement = amend_init(request, reply, wants_mmap)
    os.write(kernel_fd, reply)
    return agreement


def amend_init(request: bytes, reply: bytearray, wants_mmap: bool) -> Agreement | None:
    """Agree in *reply* to what libfuse does not know; returns what kernel and daemon agreed on.

    The umask is left to us, who know of default ACLs. Shared mmap is agreed on if the kernel offers
    it in *request* and *wants_mmap*. None if libfuse wants another version of the protocol; the
    kernel will ask again.
    """
    if len(reply) < wire.MAX_WRITE_AT + wire.UINT32.size:
        return None
    (flags,) = wire.UINT32.unpack_from(reply, wire.INIT_FLAGS_AT)
    flags |= wire.DONT_MASK
    padded = request.ljust(wire.INIT_IN.size, b"\0")  # old kernels have no flags2
    _, minor, _, offered, offered2 = wire.INIT_IN.unpack_from(padded)
    has_mmap = bool(
        wants_mmap
        and offered & wire.INIT_EXT
        and offered2 & wire.DIRECT_IO_ALLOW_MMAP
        and len(reply) >= wire.INIT_FLAGS2_AT + wire.UINT32.size
    )
    if has_mmap:
        flags |= wire.INIT_EXT
        (flags2,) = wire.UINT32.unpack_from(reply, wire.INIT_FLAGS2_AT)
        flags2 |= wire.DIRECT_IO_ALLOW_MMAP
        wire.UINT32.pack_into(reply, wire.INIT_FLAGS2_AT, flags2)
    wire.UINT32.pack_into(reply, wire.INIT_FLAGS_AT, flags)
    (max_write,) = wire.UINT32.unpack_from(reply, wire.MAX_WRITE_AT)
    return Agreement(
        max_write=max(max_write, _DEFAULT_MAX_WRITE),
        has_long_setxattr=bool(flags & wire.SETXATTR_EXT),
        shared_mmap=has_mmap,
        parallel_writes=minor >= (_WITH_BOTH if has_mmap else _WITH_PARALLEL_WRITES),
        birth_times=minor >= _WITH_STATX,
    )
