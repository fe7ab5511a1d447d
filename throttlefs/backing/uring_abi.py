"""The io_uring kernel interface: numbers, structures and the three system calls.

Everything here is a transcription of ``<linux/io_uring.h>`` and of the manual pages
io_uring_setup(2), io_uring_enter(2) and io_uring_register(2); this module decides nothing.
Python has no binding for these calls, so they go through libc's ``syscall(2)``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from enum import IntEnum, IntFlag

ODD_NUMBERS = os.uname().machine.startswith(("alpha", "mips"))
"""Whether the numbers below are wrong: system calls added since Linux 5.1 have the same numbers on
every architecture but Alpha and MIPS, which add an offset."""

SYS_IO_URING_SETUP = 425
SYS_IO_URING_ENTER = 426
SYS_IO_URING_REGISTER = 427

_syscall = ctypes.PyDLL(None, use_errno=True).syscall
"""PyDLL keeps the GIL: none of these calls blocks, and once the GIL has been given away to a busy
thread, it takes up to sys.getswitchinterval(), 5 ms, to get it back."""


class Op(IntEnum):
    """Opcodes used (``IORING_OP_*``); all of them exist since Linux 5.6."""

    FSYNC = 3
    SYNC_FILE_RANGE = 8
    READ = 22
    WRITE = 23


class Setup(IntFlag):
    """``IORING_SETUP_*``: what we ask io_uring_setup(2) for."""

    CQSIZE = 1 << 3  # 5.5: the caller chooses the completion ring's size
    CLAMP = 1 << 4  # 5.6: sizes over the limit are lowered, not refused
    SUBMIT_ALL = 1 << 7  # 5.18: a bad entry does not stop those behind it
    COOP_TASKRUN = 1 << 8  # 5.19: completions do not interrupt the thread
    TASKRUN_FLAG = 1 << 9  # 5.19: a flag in the ring says that completions want a system call
    SINGLE_ISSUER = 1 << 12  # 6.0: only one thread submits
    DEFER_TASKRUN = 1 << 13  # 6.1: completions are posted only when that thread asks


class Feature(IntFlag):
    """``IORING_FEAT_*``: what the kernel says it can do."""

    SINGLE_MMAP = 1 << 0  # 5.4: both rings lie in one mapping
    NODROP = 1 << 1  # 5.5: completions that find no room are kept, not dropped
    SUBMIT_STABLE = 1 << 2  # 5.5: an entry may be reused as soon as it is submitted


SQE_ASYNC = 1 << 4
"""IOSQE_ASYNC: do not try inline, hand over to a kernel worker at once."""
SQ_CQ_OVERFLOW = 1 << 1
"""IORING_SQ_CQ_OVERFLOW: completions wait in the kernel for room."""
SQ_TASKRUN = 1 << 2
"""IORING_SQ_TASKRUN: completions wait for a system call of this thread."""
ENTER_GETEVENTS = 1 << 0
"""IORING_ENTER_GETEVENTS."""
FSYNC_DATASYNC = 1 << 0
"""IORING_FSYNC_DATASYNC."""

OFFSET_SQ_RING = 0
"""For mmap(2): IORING_OFF_SQ_RING. The completion ring lies in the same mapping."""
OFFSET_SQES = 0x10000000
"""For mmap(2): IORING_OFF_SQES."""

REGISTER_EVENTFD = 4
"""IORING_REGISTER_EVENTFD."""
REGISTER_PROBE = 8
"""IORING_REGISTER_PROBE, 5.6."""
REGISTER_PERSONALITY = 9
"""IORING_REGISTER_PERSONALITY, 5.6."""
UNREGISTER_PERSONALITY = 10
"""IORING_UNREGISTER_PERSONALITY, 5.6."""
REGISTER_IOWQ_MAX_WORKERS = 19
"""IORING_REGISTER_IOWQ_MAX_WORKERS, 5.15."""
PROBE_OP_SUPPORTED = 1 << 0
"""IO_URING_OP_SUPPORTED."""

SQE = struct.Struct("=BBHiQQIIQ2xH")
"""``struct io_uring_sqe``: opcode, flags, ioprio, fd, offset, address, length, rw_flags
(fsync_flags), user_data, personality. The 20 bytes behind them stay zero."""
SQE_USER_DATA = 8
"""The place of user_data among these fields."""
SQE_SIZE = 64

CQE = struct.Struct("=QiI")
"""``struct io_uring_cqe``: user_data, res, flags."""


class _SqOffsets(ctypes.Structure):
    """``struct io_sqring_offsets``: where in the mapping the submission ring's words are."""

    _fields_ = [
        (name, ctypes.c_uint32)
        for name in ("head", "tail", "ring_mask", "ring_entries", "flags", "dropped", "array")
    ] + [("resv", ctypes.c_uint32 * 3)]


class _CqOffsets(ctypes.Structure):
    """``struct io_cqring_offsets``: where the completion ring's words and entries are."""

    _fields_ = [
        (name, ctypes.c_uint32)
        for name in ("head", "tail", "ring_mask", "ring_entries", "overflow", "cqes", "flags")
    ] + [("resv", ctypes.c_uint32 * 3)]


class Params(ctypes.Structure):
    """``struct io_uring_params``: what is asked for, and what the kernel gave."""

    _fields_ = [
        ("sq_entries", ctypes.c_uint32),
        ("cq_entries", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("sq_thread_cpu", ctypes.c_uint32),
        ("sq_thread_idle", ctypes.c_uint32),
        ("features", ctypes.c_uint32),
        ("wq_fd", ctypes.c_uint32),
        ("resv", ctypes.c_uint32 * 3),
        ("sq_off", _SqOffsets),
        ("cq_off", _CqOffsets),
    ]


class _ProbeOp(ctypes.Structure):
    """``struct io_uring_probe_op``."""

    _fields_ = [
        ("op", ctypes.c_uint8),
        ("resv", ctypes.c_uint8),
        ("flags", ctypes.c_uint16),
        ("resv2", ctypes.c_uint32),
    ]


class _Probe(ctypes.Structure):
    """``struct io_uring_probe`` with room for every opcode a byte can name."""

    _fields_ = [
        ("last_op", ctypes.c_uint8),
        ("ops_len", ctypes.c_uint8),
        ("resv", ctypes.c_uint16),
        ("resv2", ctypes.c_uint32 * 3),
        ("ops", _ProbeOp * 256),
    ]


def setup(entries: int, params: Params) -> int:
    """io_uring_setup(2): make a ring and return its descriptor; fills *params*.

    Raises `OSError`: ENOSYS (no io_uring), EPERM (forbidden by sysctl, seccomp or LSM), EINVAL
    (flags this kernel does not know), ENOMEM (RLIMIT_MEMLOCK, before Linux 5.12).
    """
    fd: int = _syscall(SYS_IO_URING_SETUP, entries, ctypes.byref(params))
    if fd < 0:
        raise _last_error("io_uring_setup")
    return fd


def enter(fd: int, to_submit: int, flags: int) -> int:
    """io_uring_enter(2) without waiting: the number of entries the kernel took.

    Arguments go as plain ints, without ctypes' ``argtypes``: half the cost (0.45 us, not 0.9).
    Raises `OSError`: EAGAIN (no memory now), EBUSY (completions must be reaped first), EBADF.
    """
    taken: int = _syscall(SYS_IO_URING_ENTER, fd, to_submit, 0, flags, None, 0)
    if taken < 0:
        raise _last_error("io_uring_enter")
    return taken


def register_eventfd(fd: int, event_fd: int) -> None:
    """io_uring_register(2): signal *event_fd* whenever a completion is posted or waits."""
    word = ctypes.c_int(event_fd)
    if _syscall(SYS_IO_URING_REGISTER, fd, REGISTER_EVENTFD, ctypes.byref(word), 1) < 0:
        raise _last_error("io_uring_register(IORING_REGISTER_EVENTFD)")


def limit_workers(fd: int, bounded: int) -> None:
    """io_uring_register(2): let at most *bounded* workers do requests that block on files."""
    numbers = (ctypes.c_uint32 * 2)(bounded, 0)  # 0: leave the unbounded ones (sockets) alone
    if _syscall(SYS_IO_URING_REGISTER, fd, REGISTER_IOWQ_MAX_WORKERS, numbers, 2) < 0:
        raise _last_error("io_uring_register(IORING_REGISTER_IOWQ_MAX_WORKERS)")


def register_personality(fd: int) -> int:
    """io_uring_register(2): a number for the credentials that this thread has now."""
    number: int = _syscall(SYS_IO_URING_REGISTER, fd, REGISTER_PERSONALITY, None, 0)
    if number < 0:
        raise _last_error("io_uring_register(IORING_REGISTER_PERSONALITY)")
    return number


def unregister_personality(fd: int, number: int) -> None:
    """io_uring_register(2): forget these credentials; requests under way keep them."""
    if _syscall(SYS_IO_URING_REGISTER, fd, UNREGISTER_PERSONALITY, None, number) < 0:
        raise _last_error("io_uring_register(IORING_UNREGISTER_PERSONALITY)")


def supported_ops(fd: int) -> frozenset[int]:
    """io_uring_register(2): the opcodes this kernel carries out."""
    probe = _Probe()
    if _syscall(SYS_IO_URING_REGISTER, fd, REGISTER_PROBE, ctypes.byref(probe), 256) < 0:
        raise _last_error("io_uring_register(IORING_REGISTER_PROBE)")
    return frozenset(
        entry.op for entry in probe.ops[: probe.ops_len] if entry.flags & PROBE_OP_SUPPORTED
    )


def _last_error(call: str) -> OSError:
    number = ctypes.get_errno() or errno.EIO
    return OSError(number, f"{call}: {os.strerror(number)}")
