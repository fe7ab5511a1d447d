"""What the reply to INIT agrees to, by what the kernel offers."""

from __future__ import annotations

import struct

import pytest

from throttlefs.fuse import wire
from throttlefs.fuse.handshake import Agreement, amend_init

INIT_OUT = struct.Struct("=IiQ" + "IIIIHHIIHHI28x")
"""A ``fuse_out_header`` and a ``fuse_init_out`` up to flags2."""

SETXATTR_EXT = wire.SETXATTR_EXT


def request(minor: int, flags: int = 0, flags2: int = 0) -> bytes:
    head = wire.in_header.pack(104, wire.Opcode.INIT, 2, 0, 0, 0, 0, 0, 0)
    return head + struct.pack("=IIIII44x", 7, minor, 131_072, flags, flags2)


def reply(flags: int = 0, flags2: int = 0) -> bytearray:
    values = (80, 0, 2, 7, 38, 131_072, flags, 12, 9, 1 << 20, 1, 256, 0, flags2)
    return bytearray(INIT_OUT.pack(*values))


def flags_of(message: bytearray) -> tuple[int, int]:
    fields = INIT_OUT.unpack(message)
    return fields[6], fields[-1]


OFFERS = wire.INIT_EXT, wire.DIRECT_IO_ALLOW_MMAP


@pytest.mark.parametrize(
    ("minor", "offers", "wants_mmap", "shared_mmap", "parallel_writes"),
    [
        (33, (0, 0), True, False, False),  # Linux 5.10
        (37, (wire.INIT_EXT, 0), True, False, False),  # Linux 6.1
        (38, (wire.INIT_EXT, 0), True, False, True),  # Linux 6.2
        (39, OFFERS, True, True, False),  # Linux 6.6: one of the two
        (39, OFFERS, False, False, True),
        (40, OFFERS, True, True, True),  # Linux 6.9
        (45, OFFERS, False, False, True),
        (45, (0, wire.DIRECT_IO_ALLOW_MMAP), True, False, True),  # flags2 has no meaning
    ],
)
def test_mmap_and_parallel_writes_go_by_the_kernel(
    minor: int,
    offers: tuple[int, int],
    wants_mmap: bool,
    shared_mmap: bool,
    parallel_writes: bool,
) -> None:
    amended = reply()
    agreement = amend_init(request(minor, *offers), amended, wants_mmap)
    assert agreement == Agreement(1 << 20, False, shared_mmap, parallel_writes, minor >= 39)
    flags, flags2 = flags_of(amended)
    assert bool(flags2 & wire.DIRECT_IO_ALLOW_MMAP) is shared_mmap
    assert bool(flags & wire.INIT_EXT) is shared_mmap
    assert flags & wire.DONT_MASK


def test_what_libfuse_agreed_to_stays() -> None:
    amended = reply(SETXATTR_EXT | 1, 1 << 3)
    agreement = amend_init(request(45, *OFFERS), amended, True)
    assert agreement is not None
    assert agreement.has_long_setxattr
    flags, flags2 = flags_of(amended)
    assert flags == SETXATTR_EXT | 1 | wire.DONT_MASK | wire.INIT_EXT
    assert flags2 == 1 << 3 | wire.DIRECT_IO_ALLOW_MMAP
    before, after = INIT_OUT.unpack(reply(SETXATTR_EXT | 1, 1 << 3)), INIT_OUT.unpack(amended)
    assert [at for at in range(len(before)) if before[at] != after[at]] == [6, 13]


def test_an_old_kernel_ends_its_init_after_flags() -> None:
    amended = reply()
    assert amend_init(request(33)[: wire.in_header.size + 16], amended, True) == Agreement()


def test_a_short_reply_without_flags2_is_left_so() -> None:
    amended = reply()[: wire.INIT_FLAGS2_AT]
    agreement = amend_init(request(45, *OFFERS), amended, True)
    assert agreement is not None
    assert not agreement.shared_mmap
    assert len(amended) == wire.INIT_FLAGS2_AT


def test_another_version_of_the_protocol_is_no_agreement() -> None:
    assert amend_init(request(45, *OFFERS), reply()[:24], True) is None
