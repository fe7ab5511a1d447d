"""Whole reads and writes by plain system calls, which may block the calling thread.

read(2) and write(2) may do a part of what was asked for; these go on until all is done, the
file ends or an error comes. Errors are raised as OSError, except that a write which had got
somewhere returns how far: whoever goes on from there meets the error again, as write(2) has it.
"""

import ctypes
import errno
import os

from .buffers import Data

# sync_file_range(2): wait for write-back under way, start it for what is dirty, wait for that.
WRITE_BACK_AND_WAIT = 1 | 2 | 4

# These give away the GIL while they run. With 64 in the name off_t has 64 bits everywhere;
# where the name is missing (musl), it has them anyhow.
_libc = ctypes.CDLL(None, use_errno=True)
_pread = getattr(_libc, "pread64", None) or _libc.pread
_pwrite = getattr(_libc, "pwrite64", None) or _libc.pwrite
for _call in (_pread, _pwrite):
    _call.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
    _call.restype = ctypes.c_ssize_t
_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


def read(fd: int, offset: int, size: int) -> bytes:
    """Up to `size` bytes at `offset`; fewer only at the end of the file."""
    data = os.pread(fd, size, offset)
    if len(data) == size or not data:
        return data
    parts, done = [data], len(data)
    while done < size and (data := os.pread(fd, size - done, offset + done)):
        parts.append(data)
        done += len(data)
    return b"".join(parts)


def write(fd: int, offset: int, data: Data) -> int:
    """Write `data` at `offset`; returns how much was written."""
    done, size = os.pwrite(fd, data, offset), len(data)
    while done < size:
        try:
            written = os.pwrite(fd, memoryview(data)[done:], offset + done)
        except OSError:
            break
        if not written:
            break
        done += written
    return done


def read_into(fd: int, offset: int, address: int, size: int) -> int:
    """`read` to the memory at `address`: the number of bytes."""
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


def write_from(fd: int, offset: int, address: int, size: int) -> int:
    """`write` from the memory at `address`."""
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
    """Write dirty pages of the range back and wait for it: sync_file_range(2)."""
    while _sync_file_range(fd, offset, size, WRITE_BACK_AND_WAIT) < 0:
        if (number := ctypes.get_errno()) != errno.EINTR:
            raise OSError(number, os.strerror(number))
