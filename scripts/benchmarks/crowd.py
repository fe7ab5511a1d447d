"""A client that keeps requests of thousands of files under way: one line of JSON on stdout.

One fio job for each file would be as many processes. This one reads by Linux AIO, from one thread.
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

if __name__ == "__main__":  # It is run by its path, so Python looks in its own folder.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.kernel_aio import Context, Iocb
from benchmarks.processes import cpu_seconds

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


class Queue:
    """Reads under way, each of which is asked for again as soon as it is answered."""

    def __init__(self, limited: Sequence[Limited]) -> None:
        # O_DIRECT wants aligned memory; nobody looks at the data, so all have the same.
        self._buffer = mmap.mmap(-1, BLOCK)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        owners = [owner for owner in limited for _ in owner.files for _ in range(owner.depth)]
        self._owners = owners
        self._requests = (Iocb * len(owners))()
        self._context = Context(max(1, len(owners)), _AT_ONCE)
        number = 0
        for owner in limited:
            for path in owner.files:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
                for _ in range(owner.depth):
                    request = self._requests[number]
                    request.data, request.fd = number, fd
                    request.address, request.size = address, BLOCK
                    number += 1

    def run(self, until: float) -> None:
        """Take answers, and ask again, until the instant *until* (s, time.monotonic)."""
        while (left := until - time.monotonic()) > 0:
            events = self._context.wait(left)
            now = time.monotonic_ns()
            for event in events:
                if event.result < 0:
                    raise OSError(-event.result, os.strerror(-event.result))
                self._owners[event.data].answered.append(now)
                self._context.submit(self._requests[event.data])

    def start(self) -> None:
        """Ask for all of them."""
        for request in self._requests:
            self._context.submit(request)


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
