"""QEMU's cache modes, for the image behind."""

import os
from enum import Enum


class CacheMode(Enum):
    """How the host's page cache and flushes are used; QEMU's ``cache=`` (qemu(1)).

    ============  ==============  ====================  ==================
    mode          page cache      a write is answered   fsync
    ============  ==============  ====================  ==================
    writeback     used            when it is cached     flushes
    none          passed by       when it is written    flushes
    writethrough  used            when it is durable    flushes
    directsync    passed by       when it is durable    flushes
    unsafe        used            when it is cached     is ignored
    ============  ==============  ====================  ==================
    """

    WRITEBACK = "writeback"
    NONE = "none"
    WRITETHROUGH = "writethrough"
    DIRECTSYNC = "directsync"
    UNSAFE = "unsafe"

    @property
    def direct(self) -> bool:
        """Whether the page cache is passed by: O_DIRECT (`BackingFile` sets it)."""
        return self in (CacheMode.NONE, CacheMode.DIRECTSYNC)

    @property
    def durable_writes(self) -> bool:
        """Whether a write is on the disk when it returns: O_DSYNC."""
        return self in (CacheMode.WRITETHROUGH, CacheMode.DIRECTSYNC)

    @property
    def ignores_fsync(self) -> bool:
        """Whether fsync does nothing: data are lost when the host goes down."""
        return self is CacheMode.UNSAFE

    @property
    def open_flags(self) -> int:
        """What to add to open(2)'s flags.

        O_DIRECT is not among them: if the filesystem refuses it, open(2) has made the file before
        it fails with EINVAL. `BackingFile` sets O_DIRECT afterwards with fcntl(2), which cannot set
        O_DSYNC.
        """
        return os.O_DSYNC if self.durable_writes else 0
