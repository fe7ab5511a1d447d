"""What statx(2) says of open files, and what is said where it is missing."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from throttlefs.backing import status
from throttlefs.backing.status import direct_io_alignment, status_of


@pytest.fixture(params=["statx", "without", "forbidden", "unknown"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel's statx(2), none in the C library, and one that seccomp refuses."""
    refusals = {"forbidden": errno.EPERM, "unknown": errno.ENOSYS}

    def refuse(*_: object) -> int:
        ctypes.set_errno(refusals[request.param])
        return -1

    if request.param == "without":
        monkeypatch.setattr(status, "_statx", None)
    elif request.param in refusals:
        monkeypatch.setattr(status, "_statx", refuse)
    return str(request.param)


def test_it_says_what_fstat_says(way: str, directory: Path) -> None:
    (directory / "file").write_bytes(b"data")
    for path in (directory, directory / "file", Path("/dev/null")):
        fd = os.open(path, os.O_RDONLY)
        st = os.fstat(fd)
        assert status_of(fd) == (st.st_mode, st.st_dev, st.st_ino, st.st_rdev, st.st_size)
        os.close(fd)


def test_alignment_without_statx(way: str, tmp_path: Path) -> None:
    if way != "statx":
        fd = os.open(tmp_path, os.O_RDONLY)
        assert direct_io_alignment(fd) is None
        os.close(fd)


def test_errors_have_their_errno() -> None:
    for ask in (status_of, direct_io_alignment):
        with pytest.raises(OSError) as caught:
            ask(-1)
        assert caught.value.errno == errno.EBADF


def test_struct_statx_has_the_kernels_layout() -> None:
    assert ctypes.sizeof(status._Statx) == 256
    assert status._Statx.size.offset == 40
    assert status._Statx.dev_major.offset == 136
    assert status._Statx.dio_mem_align.offset == 152
