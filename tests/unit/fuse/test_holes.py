"""Where data and holes are, and which part the kernel has to write back before that is known."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from throttlefs.fuse import wire
from throttlefs.fuse.holes import Hole, KernelPages, Place, seek

KIB = 1024


@pytest.fixture
def sparse(tmp_path: Path) -> Iterator[int]:
    """A file of 1 MiB with data from 256 KiB to 320 KiB."""
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, 1024 * KIB)
    os.pwrite(fd, b"x" * (64 * KIB), 256 * KIB)
    if os.lseek(fd, 0, os.SEEK_DATA) == 0:
        pytest.skip("the filesystem does not tell of holes")
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("offset", "whence", "found", "hole"),
    [
        (0, os.SEEK_DATA, 256, (0, 256)),
        (100, os.SEEK_DATA, 256, (100, 156)),
        (256, os.SEEK_DATA, 256, None),
        (300, os.SEEK_DATA, 300, None),
        (320, os.SEEK_DATA, None, (320, 704)),
        (1024, os.SEEK_DATA, None, None),
        (5000, os.SEEK_DATA, None, None),
        (-1, os.SEEK_DATA, None, None),
        (0, os.SEEK_HOLE, 0, (0, 256)),
        (300, os.SEEK_HOLE, 320, (320, 704)),
        (1000, os.SEEK_HOLE, 1000, (1000, 24)),
    ],
)
def test_a_search_names_the_hole(
    sparse: int, offset: int, whence: int, found: int | None, hole: tuple[int, int] | None
) -> None:
    expected = None if hole is None else Hole(hole[0] * KIB, hole[1] * KIB)
    place = seek(sparse, offset * KIB, whence)
    assert place == Place(None if found is None else found * KIB, expected)


def test_the_end_of_a_file_is_no_hole(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * 5000, 0)
    assert seek(fd, 0, os.SEEK_HOLE) == Place(5000, None)
    with pytest.raises(OSError) as caught:
        seek(fd, 5000, os.SEEK_HOLE)
    assert caught.value.errno == errno.ENXIO
    os.close(fd)


def test_nothing_found_is_enxio() -> None:
    assert Place(7, None).offset() == 7
    with pytest.raises(OSError) as caught:
        Place(None, None).offset()
    assert caught.value.errno == errno.ENXIO


async def at_once(function: Any, *args: Any, owner: int | None = None) -> Any:
    return function(*args)


def test_the_kernel_is_told_which_part_to_write_back() -> None:
    ours, theirs = os.pipe()
    pages = KernelPages(at_once)
    pages.fd = theirs
    trio.run(pages.write_back, 77, Hole(4096, 1 << 63))
    # linux/fuse.h: fuse_out_header, fuse_notify_inval_inode_out
    length, kind, unique, number, offset, size = struct.unpack("=IiQQqq", os.read(ours, 100))
    assert (length, kind, unique) == (40, wire.NOTIFY_INVAL_INODE, 0)
    assert (number, offset, size) == (77, 4096, (1 << 63) - 1 - 4096)
    os.close(ours)
    os.close(theirs)
    trio.run(pages.write_back, 77, Hole(0, 1))  # the mount has ended: no error
