"""The table of opcodes: how a request is read, which handler serves it, how it is answered.

It has one `Operation` for each opcode except READ and WRITE, which the channel serves itself
because they are hot. A handler is a method of `Operations`; most have pyfuse3's signature. An
opcode without a row gets ENOSYS, **which the kernel remembers for the whole connection**: after one
ENOSYS for FSYNC every later fsync would succeed without being sent. So no row may answer ENOSYS.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import pyfuse3

from . import wire
from .arguments import AttributesToSet, Caller, OpenFile
from .attributes import WireEntry
from .wire import Fattr, Opcode


class DamagedRequestError(Exception):
    """A request that breaks the protocol."""


class Request:
    """One request other than a read or write.

    *body* follows the header. *has_long_setxattr* says whether FUSE_SETXATTR_EXT was agreed on.
    """

    __slots__ = ("body", "caller", "has_long_setxattr", "nodeid", "opcode", "unique")

    def __init__(self, message: bytes, has_long_setxattr: bool = False) -> None:
        """Raises `DamagedRequestError` if *message* is shorter than a header."""
        if len(message) < wire.in_header.size:
            raise DamagedRequestError(f"{len(message)} bytes are no header")
        length, self.opcode, self.unique, self.nodeid, uid, gid, pid, extensions, _ = (
            wire.in_header.unpack_from(message)
        )
        end = length - 8 * extensions  # extensions are at the end, in units of 8 bytes
        self.body = message[wire.in_header.size : end]
        self.caller = Caller(uid, gid, pid)
        self.has_long_setxattr = has_long_setxattr

    def __repr__(self) -> str:
        try:
            name = Opcode(self.opcode).name
        except ValueError:
            name = str(self.opcode)
        return f"<{name} unique={self.unique} nodeid={self.nodeid} {self.caller}>"


class Operation:
    """One row of the table.

    *arguments* takes a `Request` apart into the handler's arguments. It raises
    `DamagedRequestError`, or `struct.error` if bytes are missing. *result* packs the handler's
    result; a row without it sends no reply at all.
    """

    __slots__ = ("arguments", "handler", "result")

    def __init__(
        self,
        handler: str,
        arguments: Callable[[Request], tuple[Any, ...]],
        result: Callable[[Request, Any], bytes] | None,
    ) -> None:
        self.handler = handler
        self.arguments = arguments
        self.result = result


class Listing:
    """The reply to READDIRPLUS as it grows: up to *size* bytes of entries."""

    __slots__ = ("_left", "_parts")

    def __init__(self, size: int) -> None:
        self._left = size
        self._parts: list[bytes] = []

    def add(self, name: bytes, entry: WireEntry, next_id: int) -> bool:
        """Add an entry, after which a listing goes on at *next_id*; False if it does not fit."""
        length = wire.ENTRY_OUT.size + wire.DIRENT.size + len(name)
        padding = -length % 8
        if length + padding > self._left:
            return False
        self._left -= length + padding
        dirent = wire.DIRENT.pack(entry.number, next_id, len(name), entry.mode >> 12)
        self._parts += (entry.packed, dirent, name, bytes(padding))
        return True

    def packed(self) -> bytes:
        """All entries."""
        return b"".join(self._parts)


# -- how arguments are read ----------------------------------------------------------------


def _names(data: bytes, count: int) -> list[bytes]:
    """The *count* strings in *data*, each ended by a zero byte."""
    names = data.split(b"\0")
    if len(names) != count + 1 or names.pop():
        raise DamagedRequestError(f"{count} names were to follow")
    return names


def _name(data: bytes) -> bytes:
    return _names(data, 1)[0]


def _lookup(request: Request) -> tuple[Any, ...]:
    return request.nodeid, _name(request.body), request.caller


def _forget(request: Request) -> tuple[Any, ...]:
    (count,) = wire.UINT64.unpack_from(request.body)
    return ([(request.nodeid, count)],)


def _batch_forget(request: Request) -> tuple[Any, ...]:
    count, _ = wire.TWO_UINT32.unpack_from(request.body)
    forgets = request.body[wire.TWO_UINT32.size :]
    if len(forgets) != count * wire.FORGET_ONE.size:
        raise DamagedRequestError(f"{count} forgotten inodes were to follow")
    return (list(wire.FORGET_ONE.iter_unpack(forgets)),)


def _inode(request: Request) -> tuple[Any, ...]:
    return request.nodeid, request.caller


def _setattr(request: Request) -> tuple[Any, ...]:
    valid, fh, size, _, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, _, uid, gid, _ = (
        wire.SETATTR_IN.unpack_from(request.body)
    )
    attributes = pyfuse3.EntryAttributes()
    attributes.st_mode = mode
    attributes.st_uid = uid
    attributes.st_gid = gid
    attributes.st_size = size
    attributes.st_atime_ns = _instant(atime, atime_ns)
    attributes.st_mtime_ns = _instant(mtime, mtime_ns)
    attributes.st_ctime_ns = _instant(ctime, ctime_ns)
    handle = fh if valid & Fattr.FH else None
    return request.nodeid, attributes, AttributesToSet(valid), handle, request.caller


def _instant(seconds: int, nanoseconds: int) -> int:
    """ns since the epoch; the seconds are signed, whatever the structure says."""
    if seconds >= 1 << 63:
        seconds -= 1 << 64
    return seconds * 1_000_000_000 + nanoseconds


def _symlink(request: Request) -> tuple[Any, ...]:
    name, target = _names(request.body, 2)
    return request.nodeid, name, target, request.caller


def _mknod(request: Request) -> tuple[Any, ...]:
    mode, rdev, request.caller.umask = wire.MKNOD_IN.unpack_from(request.body)
    name = _name(request.body[wire.MKNOD_IN.size :])
    return request.nodeid, name, mode, rdev, request.caller


def _mkdir(request: Request) -> tuple[Any, ...]:
    mode, request.caller.umask = wire.TWO_UINT32.unpack_from(request.body)
    return request.nodeid, _name(request.body[wire.TWO_UINT32.size :]), mode, request.caller


def _rename(request: Request) -> tuple[Any, ...]:
    (directory,) = wire.UINT64.unpack_from(request.body)
    old, new = _names(request.body[wire.UINT64.size :], 2)
    return request.nodeid, old, directory, new, 0, request.caller


def _rename2(request: Request) -> tuple[Any, ...]:
    directory, flags = wire.RENAME2_IN.unpack_from(request.body)
    old, new = _names(request.body[wire.RENAME2_IN.size :], 2)
    return request.nodeid, old, directory, new, flags, request.caller


def _link(request: Request) -> tuple[Any, ...]:
    (inode,) = wire.UINT64.unpack_from(request.body)
    return inode, request.nodeid, _name(request.body[wire.UINT64.size :]), request.caller


def _open(request: Request) -> tuple[Any, ...]:
    (flags,) = wire.UINT32.unpack_from(request.body)
    return request.nodeid, flags, request.caller


def _create(request: Request) -> tuple[Any, ...]:
    flags, mode, request.caller.umask, _ = wire.CREATE_IN.unpack_from(request.body)
    name = _name(request.body[wire.CREATE_IN.size :])
    return request.nodeid, name, mode, flags, request.caller


def _caller(request: Request) -> tuple[Any, ...]:
    return (request.caller,)


def _handle(request: Request) -> tuple[Any, ...]:
    return wire.UINT64.unpack_from(request.body)


def _fsync(request: Request) -> tuple[Any, ...]:
    handle, flags = wire.UINT64_UINT32.unpack_from(request.body)
    return handle, bool(flags & wire.FSYNC_FDATASYNC)


def _setxattr(request: Request) -> tuple[Any, ...]:
    size, flags = wire.TWO_UINT32.unpack_from(request.body)
    start = wire.TWO_UINT32.size + (wire.SETXATTR_EXTRA if request.has_long_setxattr else 0)
    name, zero, value = request.body[start:].partition(b"\0")
    if not zero or len(value) != size:
        raise DamagedRequestError(f"a name and a value of {size} bytes were to follow")
    return request.nodeid, name, value, flags, request.caller


def _getxattr(request: Request) -> tuple[Any, ...]:
    return request.nodeid, _name(request.body[wire.TWO_UINT32.size :]), request.caller


def _removexattr(request: Request) -> tuple[Any, ...]:
    return request.nodeid, _name(request.body), request.caller


def _fallocate(request: Request) -> tuple[Any, ...]:
    return *wire.FALLOCATE_IN.unpack_from(request.body), request.caller


def _lseek(request: Request) -> tuple[Any, ...]:
    return wire.LSEEK_IN.unpack_from(request.body)


def _copy_file_range(request: Request) -> tuple[Any, ...]:
    fh_in, off_in, _, fh_out, off_out, length, flags = wire.COPY_FILE_RANGE_IN.unpack_from(
        request.body
    )
    return fh_in, off_in, fh_out, off_out, length, flags, request.caller


def _readdirplus(request: Request) -> tuple[Any, ...]:
    handle, offset, size = wire.READDIR_IN.unpack_from(request.body)
    return handle, offset, Listing(size)


# -- how results are packed ----------------------------------------------------------------


def _done(request: Request, result: None) -> bytes:
    return b""


def _entry(request: Request, entry: WireEntry) -> bytes:
    return entry.packed


def _attributes(request: Request, entry: WireEntry) -> bytes:
    packed = entry.packed
    (seconds,) = wire.UINT64.unpack_from(packed, wire.ATTR_VALID_AT)
    (nanoseconds,) = wire.UINT32.unpack_from(packed, wire.ATTR_VALID_NSEC_AT)
    return wire.ATTR_VALID.pack(seconds, nanoseconds) + packed[wire.ATTR_AT :]


def _statx(request: Request, result: tuple[WireEntry, int | None]) -> bytes:
    """A ``fuse_statx_out``: what GETATTR tells, and when the file was made (ns), if known."""
    entry, born = result
    fields = wire.ENTRY_OUT.unpack(entry.packed)
    valid, valid_ns, ino, size, blocks, atime, mtime, ctime = fields[3], *fields[5:12]
    atime_ns, mtime_ns, ctime_ns, mode, nlink, uid, gid, rdev, blksize, _ = fields[12:]
    mask = wire.STATX_BASIC_STATS if born is None else wire.STATX_BASIC_STATS | wire.STATX_BTIME
    return wire.STATX_OUT.pack(
        *(valid, valid_ns, 0),
        *(mask, blksize, 0, nlink, uid, gid, mode, ino, size, blocks, 0),
        *(atime, atime_ns),
        *divmod(born or 0, 1_000_000_000),
        *(ctime, ctime_ns, mtime, mtime_ns),
        *(os.major(rdev), os.minor(rdev), 0, 0),
    )


def _bytes(request: Request, data: bytes) -> bytes:
    return data


def _opened(request: Request, file: OpenFile) -> bytes:
    return wire.OPEN_OUT.pack(file.fh, file.open_flags)


def _offset(request: Request, offset: int) -> bytes:
    return wire.UINT64.pack(offset)


def _written(request: Request, count: int) -> bytes:
    return wire.TWO_UINT32.pack(count, 0)


def _opened_directory(request: Request, handle: int) -> bytes:
    return wire.OPEN_OUT.pack(handle, 0)


def _created(request: Request, result: tuple[OpenFile, WireEntry]) -> bytes:
    file, entry = result
    return entry.packed + wire.OPEN_OUT.pack(file.fh, file.open_flags)


def _statfs(request: Request, st: pyfuse3.StatvfsData) -> bytes:
    return wire.STATFS_OUT.pack(
        st.f_blocks,
        st.f_bfree,
        st.f_bavail,
        st.f_files,
        st.f_ffree,
        st.f_bsize,
        st.f_namemax,
        st.f_frsize,
    )


def _attribute_value(request: Request, value: bytes) -> bytes:
    """An attribute's value; its size alone if there is no room for any (getxattr(2)).

    Raises `OSError`, ERANGE, if there is too little room.
    """
    size, _ = wire.TWO_UINT32.unpack_from(request.body)
    if not size:
        return wire.TWO_UINT32.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, "the value is longer than the room for it")
    return value


def _attribute_names(request: Request, names: Sequence[bytes]) -> bytes:
    return _attribute_value(request, b"".join(name + b"\0" for name in names))


def _listing(request: Request, listing: Listing) -> bytes:
    return listing.packed()


Handler = Callable[..., Coroutine[Any, Any, Any]]

TABLE: Final[dict[Opcode, Operation]] = {
    Opcode.LOOKUP: Operation("lookup", _lookup, _entry),
    Opcode.FORGET: Operation("forget", _forget, None),
    Opcode.BATCH_FORGET: Operation("forget", _batch_forget, None),
    Opcode.GETATTR: Operation("getattr", _inode, _attributes),
    Opcode.STATX: Operation("statx", _inode, _statx),
    Opcode.SETATTR: Operation("setattr", _setattr, _attributes),
    Opcode.READLINK: Operation("readlink", _inode, _bytes),
    Opcode.SYMLINK: Operation("symlink", _symlink, _entry),
    Opcode.MKNOD: Operation("mknod", _mknod, _entry),
    Opcode.MKDIR: Operation("mkdir", _mkdir, _entry),
    Opcode.UNLINK: Operation("unlink", _lookup, _done),
    Opcode.RMDIR: Operation("rmdir", _lookup, _done),
    Opcode.RENAME: Operation("rename", _rename, _done),
    Opcode.RENAME2: Operation("rename", _rename2, _done),
    Opcode.LINK: Operation("link", _link, _entry),
    Opcode.OPEN: Operation("open", _open, _opened),
    Opcode.CREATE: Operation("create", _create, _created),
    Opcode.TMPFILE: Operation("tmpfile", _create, _created),
    Opcode.RELEASE: Operation("release", _handle, _done),
    Opcode.FLUSH: Operation("flush", _handle, _done),
    Opcode.FSYNC: Operation("fsync", _fsync, _done),
    Opcode.FALLOCATE: Operation("fallocate", _fallocate, _done),
    Opcode.LSEEK: Operation("lseek", _lseek, _offset),
    Opcode.COPY_FILE_RANGE: Operation("copy_file_range", _copy_file_range, _written),
    Opcode.STATFS: Operation("statfs", _caller, _statfs),
    Opcode.SETXATTR: Operation("setxattr_with_flags", _setxattr, _done),
    Opcode.GETXATTR: Operation("getxattr", _getxattr, _attribute_value),
    Opcode.LISTXATTR: Operation("listxattr", _inode, _attribute_names),
    Opcode.REMOVEXATTR: Operation("removexattr", _removexattr, _done),
    Opcode.OPENDIR: Operation("opendir", _inode, _opened_directory),
    Opcode.READDIRPLUS: Operation("list_entries", _readdirplus, _listing),
    Opcode.FSYNCDIR: Operation("fsyncdir", _fsync, _done),
    Opcode.RELEASEDIR: Operation("releasedir", _handle, _done),
}
"""Every opcode that is served, except READ and WRITE.

The kernel sends DESTROY only to filesystems on a block device.
"""

UNANSWERED: Final = frozenset(opcode for opcode, row in TABLE.items() if row.result is None)
"""Requests that the kernel wants no reply to, not even an error."""
