"""Linux AIO (io_submit(2)) through ctypes: many requests of one file under way at once."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from typing import NamedTuple

# io_setup, io_submit and io_getevents of the architectures that have tables of their own.
_NUMBERS = {"x86_64": (206, 209, 208)}.get(platform.machine(), (0, 2, 4))
_PREAD, _PWRITE = 0, 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Iocb(ctypes.Structure):
    """``struct iocb`` of linux/aio_abi.h, little-endian."""

    _fields_ = [
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_fd", ctypes.c_uint32),
    ]


class _Event(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_uint64),
        ("iocb", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    ]


class Done(NamedTuple):
    """A request that is over: its number, what it transferred or ``-errno``, its memory."""

    number: int
    result: int
    memory: memoryview


def aligned_memory(size: int) -> memoryview:
    """Memory that begins at a page, as O_DIRECT wants it."""
    return memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))[:size]


class KernelAio:
    """Up to *depth* requests under way; each is known by a number of the caller's."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._context = ctypes.c_ulong()
        self._call(0, depth, ctypes.byref(self._context))
        self._under_way: dict[int, tuple[_Iocb, memoryview]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def read(self, number: int, fd: int, offset: int, size: int) -> None:
        self._submit(number, _PREAD, fd, offset, aligned_memory(size))

    def write(self, number: int, fd: int, offset: int, data: bytes) -> None:
        memory = aligned_memory(len(data))
        memory[:] = data
        self._submit(number, _PWRITE, fd, offset, memory)

    def _submit(self, number: int, opcode: int, fd: int, offset: int, memory: memoryview) -> None:
        place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        iocb = _Iocb(
            data=number, opcode=opcode, fd=fd, buffer=place, size=len(memory), offset=offset
        )
        self._under_way[number] = iocb, memory
        pointer = ctypes.pointer(iocb)
        try:
            self._call(1, self._context, ctypes.c_long(1), ctypes.byref(pointer))
        except OSError:
            del self._under_way[number]
            raise

    def wait(self) -> list[Done]:
        """At least one request that is over."""
        events = (_Event * 64)()
        while True:
            try:
                count = self._call(2, self._context, ctypes.c_long(1), ctypes.c_long(64), events, 0)
                break
            except InterruptedError:
                pass
        return [
            Done(event.data, event.result, self._under_way.pop(event.data)[1])
            for event in events[:count]
        ]

    def _call(self, which: int, *args: object) -> int:
        result = _libc.syscall(ctypes.c_long(_NUMBERS[which]), *args)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return int(result)
