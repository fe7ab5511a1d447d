"""The requests of the FUSE protocol that throttlefs answers without libfuse.

The structures are those of ``linux/fuse.h``, which the kernel keeps as they are for all of major
version 7; numbers are in the machine's own byte order. A request is a ``fuse_in_header`` (40
bytes) and what belongs to its opcode: for a read and a write 40 bytes each, which begin alike
(``fuse_read_in``, ``fuse_write_in``), and for a write its data.
"""

from __future__ import annotations

import struct
from typing import Final

READ: Final = 15
WRITE: Final = 16
READDIR: Final = 28
INTERRUPT: Final = 36
BATCH_FORGET: Final = 42
READDIRPLUS: Final = 44

HEAD_SIZE: Final = 80
"""Bytes of a read, and of a write without its data."""

parse_head: Final = struct.Struct("=4xIQ24xQQI").unpack_from
"""opcode, unique, and of a read or write (noise for others): fh, offset, size in bytes."""

SIZE_AT: Final = 56
"""Where the size wanted by a READ, READDIR or READDIRPLUS lies in its request."""

LENGTH_AT: Final = 0
COUNT_AT: Final = 40
"""Where the number of inodes that a BATCH_FORGET forgets lies in its request."""

FORGETS_AT: Final = 48
FORGET_SIZE: Final = 16

number: Final = struct.Struct("=I")

INIT_FLAGS_AT: Final = 28
"""Where the reply to INIT says which of the kernel's offers are taken."""

DONT_MASK: Final = 1 << 6
"""Of these: the umask is for the filesystem to apply, which knows of default ACLs."""

MAX_WRITE_AT: Final = 36
"""Where the reply to INIT says how many bytes the largest write may have."""

_OUT_HEADER: Final = struct.Struct("=IiQ")

OUT_HEADER_SIZE: Final = _OUT_HEADER.size

out_header: Final = _OUT_HEADER.pack
"""``fuse_out_header``: length in bytes, negative errno or 0, unique."""

put_out_header: Final = _OUT_HEADER.pack_into
"""The same, to a place in memory."""

write_reply: Final = struct.Struct("=IiQI4x").pack
"""A ``fuse_out_header`` and a ``fuse_write_out``: 24, 0, unique, bytes written."""
