"""A process that uses a file as it is told: by read, write, O_DIRECT and a shared mapping."""

from __future__ import annotations

import mmap
import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_CALL_SECONDS = 120
"""How long one operation may take on a machine that is very busy."""


class FileWorker:
    """The process: ``worker("pread", offset, size)`` has it done there, and returns the result.

    An error of it is raised here. The methods of `_Served` say what it can do.
    """

    def __init__(self, path: Path, mapped: int) -> None:
        """*mapped*: how many bytes of the file it keeps mapped; 0: none."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, path, mapped), daemon=True)
        self._process.start()
        theirs.close()
        self.result()  # it has opened the file

    def __call__(self, name: str, *arguments: object) -> Any:
        self.begin(name, *arguments)
        return self.result()

    def begin(self, name: str, *arguments: object) -> None:
        """Have something done, and do not wait for it."""
        self._pipe.send((name, arguments))

    def has_answered(self) -> bool:
        return self._pipe.poll()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.join(_CALL_SECONDS)

    def result(self) -> Any:
        assert self._pipe.poll(_CALL_SECONDS), "the process that uses the file hangs"
        result = self._pipe.recv()
        if isinstance(result, BaseException):
            raise result
        return result


class _Served:
    """What the process does."""

    def __init__(self, path: Path, mapped: int) -> None:
        self.fd = os.open(path, os.O_RDWR)
        self.appending = os.open(path, os.O_RDWR | os.O_APPEND)
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.aligned = mmap.mmap(-1, 1 << 20)
        self.mapping = mmap.mmap(self.fd, mapped) if mapped else None

    def load(self, offset: int, size: int) -> bytes:
        """Read through the mapping."""
        assert self.mapping is not None
        return self.mapping[offset : offset + size]

    def store(self, offset: int, data: bytes) -> None:
        """Write through the mapping."""
        assert self.mapping is not None
        self.mapping[offset : offset + len(data)] = data

    def load_once(self, offset: int, size: int) -> bytes:
        """Read through a mapping that is made for it, as fsx does."""
        begin = offset & -mmap.PAGESIZE
        with mmap.mmap(self.fd, offset + size - begin, offset=begin) as mapping:
            return mapping[offset - begin : offset - begin + size]

    def store_once(self, offset: int, data: bytes) -> None:
        begin = offset & -mmap.PAGESIZE
        with mmap.mmap(self.fd, offset + len(data) - begin, offset=begin) as mapping:
            mapping[offset - begin : offset - begin + len(data)] = data

    def msync(self) -> None:
        assert self.mapping is not None
        self.mapping.flush()

    def pread(self, offset: int, size: int) -> bytes:
        return os.pread(self.fd, size, offset)

    def pwrite(self, offset: int, data: bytes) -> int:
        return os.pwrite(self.fd, data, offset)

    def append(self, data: bytes) -> int:
        return os.write(self.appending, data)

    def read_directly(self, offset: int, size: int) -> bytes:
        """Read with O_DIRECT; all is to be a multiple of 4 KiB."""
        with memoryview(self.aligned) as view:
            got = os.preadv(self.direct, [view[:size]], offset)
        return self.aligned[:got]

    def write_directly(self, offset: int, data: bytes) -> int:
        self.aligned[: len(data)] = data
        with memoryview(self.aligned) as view:
            return os.pwritev(self.direct, [view[: len(data)]], offset)

    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)

    def copy(self, source: int, target: int, size: int) -> int:
        return os.copy_file_range(self.fd, self.fd, size, source, target)

    def seek(self, offset: int, whence: int) -> int:
        return os.lseek(self.fd, offset, whence)

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        from throttlefs.host import syscalls

        syscalls.fallocate(self.fd, mode, offset, length)


def _serve(pipe: Connection, path: Path, mapped: int) -> None:
    served = _Served(path, mapped)
    pipe.send(None)
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(getattr(served, name)(*arguments))
        except OSError as exc:
            pipe.send(exc)
