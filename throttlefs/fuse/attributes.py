"""From ``os.stat_result`` to what the kernel is told of a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Protocol

import pyfuse3

from . import wire

_BLOCK = 512  # what st_blocks counts (stat(2))
_SET_ID = stat.S_ISUID | stat.S_ISGID
_NANO = 1_000_000_000
_MASK_64 = (1 << 64) - 1
_MASK_32 = (1 << 32) - 1

_NO_INODE = (1 << 63) - 1
"""A number that no inode has. The kernel forgets an entry with this number at once."""


class Entry(Protocol):
    """The attributes of one file, ready for a reply."""


class Attributes(Protocol):
    """Makes the entries of a mount."""

    def entry(self, number: int, st: os.stat_result) -> Entry:
        """The attributes *st* under the mount's inode *number*."""

    def directory(self, number: int) -> Entry:
        """A directory for which a listing needs only number and type: ``.`` or ``..``."""

    def unknown(self) -> Entry:
        """A listed name whose file cannot be examined.

        The kernel lists it without an inode, so a program that looks at the file gets the error.
        """


class Presentation:
    """How a mount presents its files, beyond their own attributes.

    *attr_timeout* and *entry_timeout* say for how many seconds the kernel may keep attributes and
    names. *device_size* returns the size in bytes if the root of the mount is a block device. The
    device is shown as a regular file, which any program takes for an image.
    """

    def __init__(
        self,
        attr_timeout: float,
        entry_timeout: float,
        device_size: Callable[[], int] | None = None,
    ) -> None:
        self.attr_timeout = attr_timeout
        self.entry_timeout = entry_timeout
        self.device_size = device_size


class WireEntry:
    """A packed ``fuse_entry_out``, with the number and mode that a listing repeats."""

    __slots__ = ("mode", "number", "packed")

    def __init__(self, number: int, mode: int, packed: bytes) -> None:
        self.number = number
        self.mode = mode
        self.packed = packed


class WireAttributes:
    """Packs entries as the kernel takes them; see `Attributes`."""

    def __init__(self, presentation: Presentation) -> None:
        self._device_size = presentation.device_size
        self._entry_valid = _seconds_and_ns(presentation.entry_timeout)
        self._attr_valid = _seconds_and_ns(presentation.attr_timeout)
        self.generation = 0
        """What the kernel knew by a number in an earlier one is dead: all access to it gets EIO."""

    def entry(self, number: int, st: os.stat_result) -> WireEntry:
        """See `Attributes.entry`."""
        mode, size, blocks, rdev = st.st_mode, st.st_size, st.st_blocks, st.st_rdev
        if self._device_size is not None:
            size = self._device_size()
            mode = stat.S_IFREG | stat.S_IMODE(mode)
            rdev = 0
            blocks = size // _BLOCK  # all blocks, so that nobody takes it for sparse
        entry_s, entry_ns = self._entry_valid
        # A write takes setuid and setgid away in SRC; a program must not run with what was.
        attr_s, attr_ns = (0, 0) if _may_lose_set_id(mode) else self._attr_valid
        atime, mtime, ctime = st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns
        packed = wire.ENTRY_OUT.pack(
            number,
            self.generation,
            entry_s,
            attr_s,
            entry_ns,
            attr_ns,
            number,
            size,
            blocks,
            atime // _NANO,
            mtime // _NANO,
            ctime // _NANO,
            atime % _NANO,
            mtime % _NANO,
            ctime % _NANO,
            mode,
            st.st_nlink & _MASK_32,
            st.st_uid,
            st.st_gid,
            rdev & _MASK_32,  # the kernel's own encoding, in as many bits as it takes
            st.st_blksize,
            0,
        )
        return WireEntry(number, mode, packed)

    def directory(self, number: int) -> WireEntry:
        """See `Attributes.directory`; the kernel uses nothing else of these two."""
        return WireEntry(number, stat.S_IFDIR, _NOTHING)

    def unknown(self) -> WireEntry:
        """See `Attributes.unknown`; a nodeid of 0 means that there are no attributes."""
        return WireEntry(_NO_INODE, 0, _NOTHING)


def _may_lose_set_id(mode: int) -> bool:
    """Whether it is a file that runs with another user's or group's rights, until it is written to.

    A directory keeps its setgid bit.
    """
    return bool(mode & _SET_ID) and stat.S_ISREG(mode)


_NOTHING = bytes(wire.ENTRY_OUT.size)


def _seconds_and_ns(seconds: float) -> tuple[int, int]:
    whole, fraction = divmod(round(seconds * _NANO), _NANO)
    return min(whole, _MASK_64), fraction


class Pyfuse3Attributes:
    """Makes pyfuse3's own entries; see `Attributes`."""

    def __init__(self, presentation: Presentation) -> None:
        self._presentation = presentation

    def entry(self, number: int, st: os.stat_result) -> pyfuse3.EntryAttributes:
        """See `Attributes.entry`."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(number)
        entry.attr_timeout = 0 if _may_lose_set_id(st.st_mode) else self._presentation.attr_timeout
        entry.entry_timeout = self._presentation.entry_timeout
        entry.st_mode = pyfuse3.ModeT(st.st_mode)
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
        if self._presentation.device_size is not None:
            size = self._presentation.device_size()
            entry.st_mode = pyfuse3.ModeT(stat.S_IFREG | stat.S_IMODE(st.st_mode))
            entry.st_rdev = 0
            entry.st_size = size
            entry.st_blocks = size // _BLOCK
        return entry

    def directory(self, number: int) -> pyfuse3.EntryAttributes:
        """See `Attributes.directory`."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(number)
        entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR)
        return entry

    def unknown(self) -> pyfuse3.EntryAttributes:
        """See `Attributes.unknown`."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(_NO_INODE)
        entry.st_mode = pyfuse3.ModeT(0)
        return entry


def attributes_of(server: str, presentation: Presentation) -> Attributes:
    """What makes entries for the option ``server``."""
    return (Pyfuse3Attributes if server == "pyfuse3" else WireAttributes)(presentation)
