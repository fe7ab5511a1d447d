"""A client that keeps requests of thousands of files under way: one line of JSON on stdout.

One fio job for each file would be as many processes. This one reads by libaio (io_submit(2)), which
fio needs as well, from one thread.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

BLOCK = 4096
_AT_ONCE = 256


@dataclass
class Limited:
    """Files that are read by ``depth`` requests each, under one limit of ``rate`` requests/s."""

    files: Sequence[str]
    depth: int
    rate: float
    answered: list[int] = field(default_factory=list)
    """When each request was answered (ns)."""


class _Iocb(ctypes.Structure):
    """``struct iocb`` of linux/aio_abi.h, on a little-endian machine."""

    _fields_ = [
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),  # 0: read
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_fd", ctypes.c_uint32),
    ]


class _Event(ctypes.Structure):
    """``struct io_event`` of linux/aio_abi.h."""

    _fields_ = [
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    ]


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


def _libaio() -> ctypes.CDLL:
    """The library, under the name that it has here. Raises `OSError`."""
    try:
        return ctypes.CDLL("libaio.so.1t64")  # from Debian 13 on
    except OSError:
        return ctypes.CDLL("libaio.so.1")


class Queue:
    """Reads under way, each of which is asked for again as soon as it is answered."""

    def __init__(self, limited: Sequence[Limited]) -> None:
        self._libaio = _libaio()
        # O_DIRECT wants aligned memory; nobody looks at the data, so all have the same.
        self._buffer = mmap.mmap(-1, BLOCK)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        owners = [owner for owner in limited for _ in owner.files for _ in range(owner.depth)]
        self._owners = owners
        self._requests = (_Iocb * len(owners))()
        self._events = (_Event * _AT_ONCE)()
        self._context = ctypes.c_void_p()
        self._check(self._libaio.io_setup(max(1, len(owners)), ctypes.byref(self._context)))
        number = 0
        for owner in limited:
            for path in owner.files:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
                for _ in range(owner.depth):
                    request = self._requests[number]
                    request.data, request.fd = number, fd
                    request.address, request.size = address, BLOCK
                    number += 1

    @staticmethod
    def _check(result: int) -> int:
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def submit(self, number: int) -> None:
        """Ask for the read *number*."""
        request = ctypes.pointer(self._requests[number])
        self._check(self._libaio.io_submit(self._context, 1, ctypes.byref(request)))

    def run(self, until: float) -> None:
        """Take answers, and ask again, until the instant *until* (s, time.monotonic)."""
        while (left := until - time.monotonic()) > 0:
            patience = _Timespec(int(left), int(left % 1 * 1e9))
            count = self._check(
                self._libaio.io_getevents(
                    self._context, 1, _AT_ONCE, self._events, ctypes.byref(patience)
                )
            )
            now = time.monotonic_ns()
            for event in self._events[:count]:
                self._check(event.result)
                self._owners[event.data].answered.append(now)
                self.submit(event.data)

    def start(self) -> None:
        """Ask for all of them."""
        for number in range(len(self._owners)):
            self.submit(number)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, in ticks of 10 ms; proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lateness(limited: Limited) -> list[float]:
    """Return by how much (ns) each request was answered later than a period after the last."""
    period = 1e9 / limited.rate
    times = limited.answered
    return [after - before - period for before, after in pairwise(times)]


def crowd(plan: dict[str, Any]) -> dict[str, Any]:
    """Read as *plan* says; return how many requests were answered, how late, and at which cost.

    ``limited`` are the arguments of `Limited`, ``idle`` files that are open and not read, ``pids``
    the daemons, ``settling`` and ``seconds`` how long it runs before the measured time, and in it.
    """
    limited = [Limited(**entry) for entry in plan["limited"]]
    wanted = len(plan["idle"]) + sum(len(entry.files) for entry in limited) + 64
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(wanted, soft)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    idle = [os.open(path, os.O_RDONLY) for path in plan["idle"]]
    queue = Queue(limited)
    queue.start()
    queue.run(time.monotonic() + plan["settling"])
    for entry in limited:
        entry.answered.clear()
    cpu = [cpu_seconds(pid) for pid in plan["pids"]]
    began = time.monotonic()
    queue.run(began + plan["seconds"])
    lasted = time.monotonic() - began
    used = sum(map(cpu_seconds, plan["pids"])) - sum(cpu)
    late = sorted(gap for entry in limited for gap in lateness(entry))
    return {
        "open": len(idle) + sum(len(entry.files) for entry in limited),
        "requests": sum(len(entry.answered) for entry in limited),
        "seconds": lasted,
        "cpu_seconds": used,
        "late_p50": late[len(late) // 2] if late else None,
        "late_p99": late[len(late) * 99 // 100] if late else None,
    }


if __name__ == "__main__":
    # The kernel waits for what is under way when the process ends, so that is let through first.
    print(json.dumps(crowd(json.loads(Path(sys.argv[1]).read_text()))), flush=True)
