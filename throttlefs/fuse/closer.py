"""Closes files of SRC, which may take long.

The last close of an unlinked file frees its blocks. When a file was truncated to nothing and
written again, ext4 writes it back at close, whoever wrote it (its mount option auto_da_alloc): 0.3
s for 1 GiB. So such files are closed in a thread. Those that come while the thread is at work are
closed together in its next turn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from .handle import Handle
from .in_thread import RunInThread
from .quick_names import Change, QuickNames

log = logging.getLogger("throttlefs")


class Closer:
    """Closes files and descriptors in threads, those of local filesystems together."""

    def __init__(self, in_thread: RunInThread) -> None:
        self._in_thread = in_thread
        self._queue: list[Callable[[], None]] = []
        self._is_at_work = False

    async def close(self, close: Callable[[], None], is_local: bool, uid: int | None) -> None:
        """Call *close* in a thread; returns at once if another call does that beside its own.

        A file that is not on a local filesystem gets a thread of its own, which may hang.
        """
        if not is_local:
            await self._in_thread(_close_all, [close], owner=uid)
            return
        self._queue.append(close)
        if self._is_at_work:
            return
        self._is_at_work = True
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                await self._in_thread(_close_all, batch)
        finally:
            self._is_at_work = False


def closes_quickly(handle: Handle, quick: QuickNames) -> bool:
    """Whether the loop may close *handle*, which is on a local filesystem."""
    inode, file = handle.inode, handle.file
    if not inode.writers:
        return not file.close_may_block()
    # Nothing was written or cut off through this mount, so hardly anything is to be done.
    is_clean = not inode.was_resized and handle.statistics.write.is_unused
    is_clean = is_clean and not file.close_may_block(written=False)
    return is_clean and quick.are_quick(inode.key[0], Change.FREE)


def _close_all(closes: list[Callable[[], None]]) -> None:
    """An error at the last close (``FUSE_RELEASE``) reaches no program, so it goes to the log."""
    for close in closes:
        try:
            close()
        except OSError as exc:
            log.warning("closing a file of SRC: %s", exc.strerror)
