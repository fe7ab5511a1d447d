"""From ``os.stat_result`` to what pyfuse3 sends the kernel."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pyfuse3

_BLOCK = 512  # what st_blocks counts (stat(2))


class Attributes:
    """Makes `pyfuse3.EntryAttributes`, with this mount's timeouts in seconds.

    *device_size* tells the size in bytes if the root of the mount is a block device: it is
    shown as a regular file, which any program takes for an image.
    """

    def __init__(
        self,
        attr_timeout: float,
        entry_timeout: float,
        device_size: Callable[[], int] | None = None,
    ) -> None:
        self._attr_timeout = attr_timeout
        self._entry_timeout = entry_timeout
        self._device_size = device_size

    def entry(self, number: int, st: os.stat_result) -> pyfuse3.EntryAttributes:
        """The attributes *st* under the mount's inode *number*."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = number
        entry.attr_timeout = self._attr_timeout
        entry.entry_timeout = self._entry_timeout
        entry.st_mode = st.st_mode
        entry.st_nlink = st.st_nlink
        entry.st_uid = st.st_uid
        entry.st_gid = st.st_gid
        entry.st_rdev = st.st_rdev
        entry.st_size = st.st_size
        entry.st_blocks = st.st_blocks
        entry.st_blksize = st.st_blksize
        entry.st_atime_ns = st.st_atime_ns
        entry.st_mtime_ns = st.st_mtime_ns
        entry.st_ctime_ns = st.st_ctime_ns
        if self._device_size is not None:
            self._show_as_file(entry, st)
        return entry

    def _show_as_file(self, entry: pyfuse3.EntryAttributes, st: os.stat_result) -> None:
        assert self._device_size is not None
        size = self._device_size()
        entry.st_mode = stat.S_IFREG | stat.S_IMODE(st.st_mode)
        entry.st_rdev = 0
        entry.st_size = size
        entry.st_blocks = size // _BLOCK  # no holes, so that nobody takes it for sparse
