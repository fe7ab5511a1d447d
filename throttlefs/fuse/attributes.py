"""From ``os.stat_result`` to what pyfuse3 sends the kernel."""

from __future__ import annotations

import os

import pyfuse3


class Attributes:
    """Makes `pyfuse3.EntryAttributes`, with this mount's timeouts in seconds."""

    def __init__(self, attr_timeout: float, entry_timeout: float) -> None:
        self._attr_timeout = attr_timeout
        self._entry_timeout = entry_timeout

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
        return entry
