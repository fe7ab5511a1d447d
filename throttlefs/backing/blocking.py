"""Whole reads and writes by plain system calls, which may block the calling thread.

read(2) and write(2) may transfer only a part. These functions go on until all is done, the file
ends, or an error comes. They raise an error as `OSError`. But a write that fails after its first
part returns the number of bytes written, as write(2) does. A write that goes on from there gets the
error.
"""

from __future__ import annotations

import ctypes
import errno
import os

from .buffers import Data

WRITE_BACK_AND_WAIT = 1 | 2 | 4
"""sync_file_range(2): wait for write-back under way, start it for dirty pages, wait for that."""

# These calls release the GIL while they run. With 64 in the name off_t has 64 bits everywhere;
# where the name is missing (musl), off_t always has them.
_libc = ctypes.CDLL(None, use_errno=True)
_pread = getattr(_libc, "pread64", None) or _libc.pread
_pwrite = getattr(_libc, "pwrite64", None) or _libc.pwrite
for _call in (_pread, _pwrite):
    _call.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
    _call.restype = ctypes.c_ssize_t
_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


def read(fd: int, offset: int, size: int) -> bytes:
    """Read up to *size* bytes at *offset*; fewer only at the end of the file."""
    data = os.pread(fd, size, offset)
    if len(data) == size or not data:
        return data
    parts, done = [data], len(data)
    while done < size and (data := os.pread(fd, size - done, offset + done)):
        parts.append(data)
        done += len(data)
    return b"".join(parts)


def write(fd: int, offset: int, data: Data, flags: int = 0) -> int:
    """Write *data* at *offset*; returns the number of bytes written.

    *flags* are those of pwritev2(2). With RWF_APPEND the offset does not matter.
    """
    done, size = _write_some(fd, data, offset, flags), len(data)
    while done < size:
        try:
            written = _write_some(fd, memoryview(data)[done:], offset + done, flags)
        except OSError:
            break
        if not written:
            break
        done += written
    return done


def _write_some(fd: int, data: Data, offset: int, flags: int) -> int:
    return os.pwritev(fd, (data,), offset, flags) if flags else os.pwrite(fd, data, offset)


def read_into(fd: int, offset: int, address: int, size: int) -> int:
    """Read as `read` does, to the memory at *address*; returns the number of bytes."""
    done = 0
    while done < size:
        got = _pread(fd, address + done, size - done, offset + done)
        if got > 0:
            done += got
        elif got == 0:
            break
        elif (number := ctypes.get_errno()) != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return done


def write_from(fd: int, offset: int, address: int, size: int, flags: int = 0) -> int:
    """Write as `write` does, from the memory at *address*."""
    if flags:
        return write(fd, offset, memoryview((ctypes.c_char * size).from_address(address)), flags)
    done = 0
    while done < size:
        written = _pwrite(fd, address + done, size - done, offset + done)
        if written > 0:
            done += written
        elif written == 0:
            break
        elif (number := ctypes.get_errno()) != errno.EINTR:
            if done:
                break
            raise OSError(number, os.strerror(number))
    return done


def write_back(fd: int, offset: int, size: int) -> None:
    """Write the dirty pages of the range to the disk and wait for it; see sync_file_range(2)."""
    while _sync_file_range(fd, offset, size, WRITE_BACK_AND_WAIT) < 0:
        if (number := ctypes.get_errno()) != errno.EINTR:
            raise OSError(number, os.strerror(number))
