"""Linux AIO (io_submit(2)): many requests of one file under way at once."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchmarks.kernel_aio import Context, Iocb

_PREAD, _PWRITE = 0, 1


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
        self._context = Context(depth, 64)
        self._under_way: dict[int, tuple[Iocb, memoryview]] = {}

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
        iocb = Iocb(
            data=number, opcode=opcode, fd=fd, address=place, size=len(memory), offset=offset
        )
        self._under_way[number] = iocb, memory
        try:
            self._context.submit(iocb)
        except OSError:
            del self._under_way[number]
            raise

    def wait(self) -> list[Done]:
        """At least one request that is over."""
        return [
            Done(event.data, event.result, self._under_way.pop(event.data)[1])
            for event in self._context.wait()
        ]
