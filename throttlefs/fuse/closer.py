"""Closes files of SRC, which may take long.

The last close of an unlinked file frees its blocks. When a file was truncated to nothing and
written again, ext4 writes it back at close, whoever wrote it (its mount option auto_da_alloc): 0.3
s for 1 GiB. So files are closed in a thread. Files that come while the thread is at work are closed
together in its next turn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from throttlefs.backing import BackingFile

from .in_thread import RunInThread

log = logging.getLogger("throttlefs")


class Closer:
    """Closes files in threads, those of local filesystems together."""

    def __init__(self, in_thread: RunInThread) -> None:
        self._in_thread = in_thread
        self._queue: list[Callable[[], None]] = []
        self._is_at_work = False

    async def close(self, file: BackingFile, is_local: bool, uid: int) -> None:
        """Close *file*; returns at once if another call closes it together with its own.

        A file that is not on a local filesystem gets a thread of its own, which may hang.
        """
        if not is_local:
            await self._in_thread(_close_all, [file.close], owner=uid)
            return
        self._queue.append(file.close)
        if self._is_at_work:
            return
        self._is_at_work = True
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                await self._in_thread(_close_all, batch)
        finally:
            self._is_at_work = False


def _close_all(closes: list[Callable[[], None]]) -> None:
    """An error at the last close (``FUSE_RELEASE``) reaches no program, so it goes to the log."""
    for close in closes:
        try:
            close()
        except OSError as exc:
            log.warning("closing a file of SRC: %s", exc.strerror)
