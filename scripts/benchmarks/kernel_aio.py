"""Linux AIO (io_submit(2)) through ctypes, without libaio, whose name differs between systems."""

from __future__ import annotations

import ctypes
import os
import platform

# io_setup, io_submit and io_getevents of the architectures that have tables of their own.
_SETUP, _SUBMIT, _GET_EVENTS = {"x86_64": (206, 209, 208)}.get(platform.machine(), (0, 2, 4))

_libc = ctypes.CDLL(None, use_errno=True)


class Iocb(ctypes.Structure):
    """``struct iocb`` of linux/aio_abi.h, on a little-endian machine."""

    _fields_ = [
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),  # 0: read, 1: write
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_fd", ctypes.c_uint32),
    ]


class Event(ctypes.Structure):
    """``struct io_event`` of linux/aio_abi.h; ``result`` is in bytes, or ``-errno``."""

    _fields_ = [
        ("data", ctypes.c_uint64),
        ("iocb", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    ]


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class Context:
    """Up to *depth* requests under way. All methods raise `OSError`."""

    def __init__(self, depth: int, at_once: int) -> None:
        self._id = ctypes.c_ulong()
        self._events = (Event * at_once)()
        _call(_SETUP, ctypes.c_long(depth), ctypes.byref(self._id))

    def submit(self, iocb: Iocb) -> None:
        """Ask for *iocb*."""
        pointer = ctypes.pointer(iocb)
        _call(_SUBMIT, self._id, ctypes.c_long(1), ctypes.byref(pointer))

    def wait(self, seconds: float | None = None) -> list[Event]:
        """What is over: at least one request, or nothing after so many *seconds*, if they are said.

        Good until the next call. Up to *at_once* of them.
        """
        patience = None
        if seconds is not None:
            patience = ctypes.byref(_Timespec(int(seconds), int(seconds % 1 * 1e9)))
        numbers = ctypes.c_long(1), ctypes.c_long(len(self._events))
        while True:
            try:
                count = _call(_GET_EVENTS, self._id, *numbers, self._events, patience)
            except InterruptedError:
                continue
            return self._events[:count]


def _call(number: int, *arguments: object) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(result)
