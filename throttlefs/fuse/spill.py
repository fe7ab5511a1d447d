"""Data of waiting writes that found no room in memory: they wait in an unnamed file.

The kernel hands requests over in one queue. If the daemon stopped taking them while the waiting
writes of one image fill its memory, everybody's requests would wait behind. So it goes on taking
them, and writes down what is more than an image's share.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading

from throttlefs.backing import Data

from .inode_operations import RunInThread

log = logging.getLogger("throttlefs")

_SLOT = 1 << 20
"""Bytes from one write's place to the next: no request of the kernel's is usually larger."""

_DIRECTORIES = ("/var/tmp", tempfile.gettempdir())
"""/var/tmp comes first: /tmp may lie in memory."""


class Spill:
    """An unnamed file with a place for each write; made when it is first needed."""

    def __init__(self, in_thread: RunInThread) -> None:
        self._in_thread = in_thread
        self._fd = -1
        self._opening = threading.Lock()
        self._unused_fd = -1  # of a file whose places are all free: closed in a thread
        self._free: list[int] = []  # places that are not in use, below `_end`
        self._end = 0
        self.held = 0
        """Bytes of data that wait in the file."""

    async def put(self, data: Data) -> int:
        """Write *data* down; returns its place. Raises `OSError`, ENOSPC above all."""
        slots = -(-len(data) // _SLOT)
        if slots <= 1 and self._free:
            place = self._free.pop()
        else:
            place, self._end = self._end, self._end + max(slots, 1) * _SLOT
        try:
            await self._in_thread(self._write, data, place)
        except BaseException:
            self._give_back(place, len(data))
            raise
        self.held += len(data)
        return place

    async def take(self, place: int, size: int) -> bytes:
        """Read back the *size* bytes at *place*, which is free then. Raises `OSError`."""
        data: bytes = await self._in_thread(self._read, place, size)
        self.drop(place, size)
        if self._unused_fd >= 0:
            fd, self._unused_fd = self._unused_fd, -1
            await self._in_thread(os.close, fd)
        return data

    def drop(self, place: int, size: int) -> None:
        """Nobody needs the *size* bytes at *place* any more."""
        self.held -= size
        self._give_back(place, size)

    def close(self) -> None:
        """Give up the file; to be called when no write waits any more."""
        for fd in (self._fd, self._unused_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._unused_fd = -1

    def _give_back(self, place: int, size: int) -> None:
        self._free.extend(range(place, place + max(size, 1), _SLOT))
        if len(self._free) * _SLOT == self._end:
            # Nobody uses the file: closing it gives its space back, but may take long.
            self._free.clear()
            self._end = 0
            if self._unused_fd < 0:
                self._unused_fd, self._fd = self._fd, -1

    # In a thread.

    def _write(self, data: Data, place: int) -> None:
        with self._opening:
            if self._fd < 0:
                self._fd = _open_unnamed()
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += os.pwrite(self._fd, view[done:], place + done)

    def _read(self, place: int, size: int) -> bytes:
        data = os.pread(self._fd, size, place)
        while len(data) < size:
            more = os.pread(self._fd, size - len(data), place + len(data))
            if not more:
                raise OSError("data of a waiting write were lost")
            data += more
        return data


def _open_unnamed() -> int:
    """An unnamed file for this user alone. Raises `OSError`."""
    for directory in _DIRECTORIES:
        try:
            return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            log.debug("no unnamed file in %s: %s", directory, exc.strerror)
    with tempfile.TemporaryFile(buffering=0) as file:  # a filesystem without O_TMPFILE
        return os.dup(file.fileno())
