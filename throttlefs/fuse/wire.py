"""The numbers and structures of the FUSE protocol: ``linux/fuse.h``.

The kernel keeps them as they are for all of major version 7. Numbers are in the machine's own
byte order. A request is a ``fuse_in_header`` (40 bytes) and the arguments of its opcode, a reply
a ``fuse_out_header`` (16 bytes) and the result.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final


class Opcode(IntEnum):
    """``enum fuse_opcode``: what a request asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    TMPFILE = 51
    STATX = 52


# -- requests ------------------------------------------------------------------------------

HEAD_SIZE: Final = 80
"""Bytes of a read, and of a write without its data."""

READ: Final = int(Opcode.READ)
WRITE: Final = int(Opcode.WRITE)
"""Plain integers, because the hot path compares with them."""

parse_head: Final = struct.Struct("=4xIQ24xQQII8xI").unpack_from
"""opcode, unique, and of a read or write (noise for others): fh, offset, size in bytes,
write_flags (``FUSE_WRITE_*``), and flags (open(2)'s, as they are for this read or write)."""

asker: Final = struct.Struct("=32xI24xI").unpack_from
"""The thread that asked, in our own PID namespace (0 if it is not there), and the write_flags of a
write."""

WRITE_CACHE: Final = 1 << 0
"""A bit of write_flags: the kernel writes back pages of its cache, whoever changed them."""

in_header: Final = struct.Struct("=IIQQIIIHH")
"""len (bytes), opcode, unique, nodeid, uid, gid, pid, total_extlen, padding."""

UINT32: Final = struct.Struct("=I")
UINT64: Final = struct.Struct("=Q")
TWO_UINT32: Final = struct.Struct("=II")
UINT64_UINT32: Final = struct.Struct("=QI")

FORGET_ONE: Final = struct.Struct("=QQ")
"""nodeid, nlookup."""

MKNOD_IN: Final = struct.Struct("=III4x")
"""mode, rdev, umask."""

RENAME2_IN: Final = struct.Struct("=QI4x")
"""newdir, flags."""

CREATE_IN: Final = struct.Struct("=IIII")
"""flags, mode, umask, open_flags."""

READDIR_IN: Final = struct.Struct("=QQI")
"""fh, offset, size in bytes (the rest of ``fuse_read_in`` has no meaning for a directory)."""

SETATTR_IN: Final = struct.Struct("=I4xQQQQQQIIIIIIII")
"""valid, fh, size, lock_owner, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode,
unused, uid, gid, unused."""

SETXATTR_EXTRA: Final = 8
"""How many bytes longer ``fuse_setxattr_in`` is if FUSE_SETXATTR_EXT was agreed on."""


class Fattr(IntEnum):
    """``FATTR_*``: which attributes a SETATTR sets."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    CTIME = 1 << 10


FALLOCATE_IN: Final = struct.Struct("=QQQI4x")
"""fh, offset, length (bytes), mode."""

LSEEK_IN: Final = struct.Struct("=QqI4x")
"""fh, offset (which a program may give as negative), whence."""

COPY_FILE_RANGE_IN: Final = struct.Struct("=QQQQQQQ")
"""fh_in, off_in, nodeid_out, fh_out, off_out, len (bytes), flags."""

FSYNC_FDATASYNC: Final = 1 << 0

# -- replies -------------------------------------------------------------------------------

_OUT_HEADER: Final = struct.Struct("=IiQ")

OUT_HEADER_SIZE: Final = _OUT_HEADER.size

out_header: Final = _OUT_HEADER.pack
"""``fuse_out_header``: length in bytes, negative errno or 0, unique."""

put_out_header: Final = _OUT_HEADER.pack_into
"""The same, to a place in memory."""

write_reply: Final = struct.Struct("=IiQI4x").pack
"""A ``fuse_out_header`` and a ``fuse_write_out``: 24, 0, unique, bytes written."""

ENTRY_OUT: Final = struct.Struct("=QQQQII" + "QQQqqqIIIIIIIIII")
"""nodeid, generation, entry_valid, attr_valid (s), entry_valid_nsec, attr_valid_nsec, and a
``fuse_attr``: ino, size, blocks, atime, mtime, ctime (s), atimensec, mtimensec, ctimensec, mode,
nlink, uid, gid, rdev, blksize, flags."""

ATTR_AT: Final = 40
"""Where the ``fuse_attr`` lies in a ``fuse_entry_out``."""

ATTR_VALID: Final = struct.Struct("=QI4x")
"""What precedes the ``fuse_attr`` in a ``fuse_attr_out``: attr_valid (s), attr_valid_nsec."""

ATTR_VALID_AT: Final = 24
ATTR_VALID_NSEC_AT: Final = 36

STATX_OUT: Final = struct.Struct("=QII16x" + "IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIII112x")
"""attr_valid (s), attr_valid_nsec, flags, and a ``fuse_statx``: mask, blksize, attributes, nlink,
uid, gid, mode, ino, size, blocks, attributes_mask; atime, btime, ctime, mtime (each in s and ns);
rdev_major, rdev_minor, dev_major, dev_minor."""

STATX_BASIC_STATS: Final = 0x7FF
STATX_BTIME: Final = 0x800

OPEN_OUT: Final = struct.Struct("=QI4x")
"""fh, open_flags."""

STATFS_OUT: Final = struct.Struct("=QQQQQIII28x")
"""blocks, bfree, bavail, files, ffree, bsize (bytes), namelen, frsize (bytes)."""

DIRENT: Final = struct.Struct("=QQII")
"""ino, off, namelen, type; the name follows, and zeroes up to a multiple of 8 bytes."""

FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_NONSEEKABLE: Final = 1 << 2
FOPEN_PARALLEL_DIRECT_WRITES: Final = 1 << 6
"""Send writes of one file side by side if they are within it (Linux 6.2; others ignore it)."""

FOPEN_NOFLUSH: Final = 1 << 5
"""Send no FLUSH when the file is closed (Linux 5.16; older kernels send it)."""

# -- notifications -------------------------------------------------------------------------

NOTIFY_INVAL_INODE: Final = 2
"""``FUSE_NOTIFY_INVAL_INODE``: the kernel's pages of an inode are out of date. It writes back those
that programs have changed, and forgets them all."""

_NOTIFY_INVAL_INODE: Final = struct.Struct("=IiQQqq")

NOTIFY_INVAL_INODE_SIZE: Final = _NOTIFY_INVAL_INODE.size

notify_inval_inode: Final = _NOTIFY_INVAL_INODE.pack
"""A ``fuse_out_header`` and a ``fuse_notify_inval_inode_out``: length in bytes, the kind, 0;
nodeid, offset and length (bytes) of the pages."""

# -- INIT ----------------------------------------------------------------------------------

INIT_IN: Final = struct.Struct("=40xIIIII")
"""A ``fuse_in_header`` and what follows in an INIT: major, minor, max_readahead, flags, flags2."""

INIT_MINOR_AT: Final = 20
INIT_FLAGS_AT: Final = 28
"""The place in the reply to INIT of the flags: which offers of the kernel are taken."""

MAX_WRITE_AT: Final = 36
"""The place in the reply to INIT of the size (bytes) of the largest write."""

DONT_MASK: Final = 1 << 6
"""The filesystem applies the umask, because it knows of default ACLs."""

SETXATTR_EXT: Final = 1 << 29
"""A ``fuse_setxattr_in`` has flags of its own."""

INIT_EXT: Final = 1 << 30
"""There are more flags, in flags2."""

INIT_FLAGS2_AT: Final = 48
"""The place in the reply to INIT of flags2."""

DIRECT_IO_ALLOW_MMAP: Final = 1 << (36 - 32)
"""In flags2: files opened with FOPEN_DIRECT_IO can be mapped shared (Linux 6.6)."""
