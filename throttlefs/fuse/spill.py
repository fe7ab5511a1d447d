"""Keeps the data of waiting writes in an unnamed file, if they have no room in memory.

The kernel hands requests over in one queue. If the daemon stopped taking them while the waiting
writes of one image fill its memory, all other requests would wait behind. So it goes on taking
them, and writes data beyond an image's share to the file.
"""

from __future__ import annotations

import _thread
import logging
import os
import tempfile
import threading

from throttlefs.backing import Data

from .in_thread import RunInThread

log = logging.getLogger("throttlefs")

_SLOT = 1 << 20
"""Bytes from one write's place to the next; requests of the kernel are usually not larger."""

_DIRECTORIES = ("/var/tmp", tempfile.gettempdir())
"""/var/tmp comes first, because /tmp may be in memory."""


class Spill:
    """An unnamed file with a place for each write; made when it is first needed."""

    def __init__(self, in_thread: RunInThread) -> None:
        self._in_thread = in_thread
        self._fd = -1
        self._opening = threading.Lock()
        self._free: list[int] = []  # places that are not in use, below `_end`
        self._end = 0
        self.held = 0
        """Bytes of data that wait in the file."""

    async def put(self, data: Data) -> int:
        """Write *data* to the file; returns its place. Raises `OSError`, mostly ENOSPC."""
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
        """Read the *size* bytes at *place*, and free the place. Raises `OSError`."""
        data: bytes = await self._in_thread(self._read, place, size)
        self.drop(place, size)
        return data

    def drop(self, place: int, size: int) -> None:
        """Free the *size* bytes at *place*."""
        self.held -= size
        self._give_back(place, size)

    def close(self) -> None:
        """Close the file, when no write waits any more."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _give_back(self, place: int, size: int) -> None:
        self._free.extend(range(place, place + max(size, 1), _SLOT))
        if len(self._free) * _SLOT == self._end:
            self._free.clear()
            self._end = 0
            if self._fd >= 0:
                # Nobody uses the file. Closing it frees its space, which may take long. A write
                # that is withdrawn cannot wait for that.
                fd, self._fd = self._fd, -1
                try:
                    _thread.start_new_thread(os.close, (fd,))
                except RuntimeError:  # there are too many threads
                    os.close(fd)

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
    """An unnamed file that only this user can read. Raises `OSError`."""
    for directory in _DIRECTORIES:
        try:
            return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            log.debug("no unnamed file in %s: %s", directory, exc.strerror)
    with tempfile.TemporaryFile(buffering=0) as file:  # a filesystem without O_TMPFILE
        return os.dup(file.fileno())
