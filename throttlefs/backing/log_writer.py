"""Writes the undo log in a thread, from memory that the loop fills.

Writing to a file may wait for the disk. What a log has in memory only is lost with the daemon, but
nobody needs it then: SRC has everything.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from .buffers import Data

IMAGE_MOST: Final = (1 << 20) + (64 << 10)
"""Bytes of the largest image: a request of the kernel, and a sector at each end."""

_BOUNDARY: Final = (1 << 20) - 1
"""Images are not joined across multiples of 1 MiB, so that one side can be dropped alone."""

_BATCH: Final = 2 << 20
"""Bytes that are written together."""

_BATCHES: Final = 16
"""So many batches may wait; then writes wait for the log."""

_RETRY_S: Final = 0.2
"""s after which a batch that could not be written is tried again."""


def write_all(fd: int, data: Data, place: int) -> None:
    """Write *data* at *place*. Raises `OSError`."""
    done = os.pwrite(fd, data, place)
    while done < len(data):  # the next call gets the error
        done += os.pwrite(fd, memoryview(data)[done:], place + done)


class _Batch:
    """Images that are written together, one behind the other in memory."""

    def __init__(self) -> None:
        self.memory = memoryview(bytearray(_BATCH))
        self.fd = -1
        self.used = 0
        self.runs: list[list[int]] = []
        """Place in the log, offset in memory, and length of images that are neighbours in both."""

    def write(self) -> None:
        """Write all images. Raises `OSError`."""
        for place, offset, length in self.runs:
            write_all(self.fd, self.memory[offset : offset + length], place)

    def clear(self) -> None:
        """Make it empty."""
        self.used = 0
        self.runs.clear()


class LogWriter:
    """Writes batches in their order.

    *failed* is called with the error when a batch cannot be written, *written* when one could. Both
    are called in the thread.
    """

    def __init__(self, failed: Callable[[OSError], None], written: Callable[[], None]) -> None:
        self._failed = failed
        self._written = written
        self._batch = _Batch()
        self._free: list[_Batch] = []
        self._made = 1
        self._waiting: deque[_Batch] = deque()  # the first one is being written
        self._changed = threading.Condition()
        self._handed = self._done = 0  # batches
        self._error: OSError | None = None
        self._ended = False
        self._thread: threading.Thread | None = None

    def room(self, fd: int, size: int) -> memoryview | None:
        """See `UndoLog.room`; *fd* is the file."""
        error = self._error
        if error is not None:
            raise OSError(error.errno, os.strerror(error.errno or errno.EIO))
        batch = self._batch
        if batch.used + size > _BATCH:
            if not self.hand_over():
                return None
            batch = self._batch
        batch.fd = fd
        return batch.memory[batch.used : batch.used + size]

    def put(self, size: int, place: int) -> None:
        """See `UndoLog.put`."""
        batch = self._batch
        runs = batch.runs
        if runs and runs[-1][0] + runs[-1][2] == place and place & _BOUNDARY:
            runs[-1][2] += size
        else:
            runs.append([place, batch.used, size])
        batch.used += size

    def hand_over(self) -> bool:
        """Let the thread write what was put; False if too much waits already.

        For the thread of the loop.
        """
        if not self._batch.runs:
            self._batch.used = 0  # it may have been dropped
            return True
        with self._changed:
            if self._free:
                fresh = self._free.pop()
            elif self._made < _BATCHES:
                self._made += 1
                fresh = _Batch()
            else:
                return False
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="undo log", daemon=True)
                self._thread.start()
            self._waiting.append(self._batch)
            self._handed += 1
            self._batch = fresh
            self._changed.notify_all()
        return True

    def wait_for_room(self) -> None:
        """Wait until a batch is free, or until there is an error. Any thread may call it."""
        with self._changed:
            while self._waiting and not self._free and self._error is None:
                self._changed.wait()

    def drain(self) -> None:
        """Wait until what was handed over is written. Any thread may call it. Raises `OSError`."""
        with self._changed:
            until = self._handed
            while self._done < until:
                if self._error is not None:
                    raise OSError(self._error.errno, os.strerror(self._error.errno or errno.EIO))
                self._changed.wait()

    @property
    def has_failed(self) -> bool:
        """Whether the latest batch could not be written."""
        return self._error is not None

    def drop(self, is_useless: Callable[[int], bool]) -> None:
        """Drop what is not written yet and lies at places that are useless by now."""
        with self._changed:
            for batch in (*self._waiting, self._batch):
                batch.runs = [run for run in batch.runs if not is_useless(run[0])]

    def forget(self) -> None:
        """Drop everything that is not written yet, and wait for what is being written."""
        with self._changed:
            while len(self._waiting) > 1:
                dropped = self._waiting.pop()
                dropped.clear()
                self._free.append(dropped)
                self._done += 1
            self._error = None
            self._batch.clear()
            if self._waiting:
                self._waiting[0].runs = self._waiting[0].runs[:0]
            while self._waiting:
                self._changed.wait()

    def close(self) -> None:
        """End the thread; what is not written yet is dropped."""
        self.forget()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._ended:
                    self._changed.wait()
                if self._ended:
                    return
                batch = self._waiting[0]
            try:
                batch.write()
            except OSError as error:
                self._failed(error)
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                time.sleep(_RETRY_S)
                continue
            with self._changed:
                self._waiting.popleft()
                self._done += 1
                batch.clear()
                self._free.append(batch)
                self._error = None
                self._changed.notify_all()
            self._written()
