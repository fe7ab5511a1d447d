"""What is measured: files of our own that are never left behind, and what must not be destroyed."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from throttlefs.errors import ThrottlefsError
from throttlefs.host.filesystems import filesystem_type, is_in_memory
from throttlefs.measure import target
from throttlefs.measure.fio import Step, steps
from throttlefs.measure.target import Target, opened

SIZE = 4 << 20


def quiet(_: str) -> None:
    pass


@pytest.fixture
def place(tmp_path: Path) -> Path:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        if is_in_memory(filesystem_type(fd)):
            pytest.skip("the temporary directory is in memory")
    finally:
        os.close(fd)
    return tmp_path


@pytest.fixture
def image(place: Path, rng: random.Random) -> Path:
    path = place / "image"
    path.write_bytes(rng.randbytes(SIZE))
    return path


def refused(path: object, destroy: bool = False) -> str:
    with pytest.raises(ThrottlefsError) as caught, opened(str(path), SIZE, destroy, quiet):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_of_our_own_has_no_name_and_is_full_of_data(place: Path) -> None:
    said: list[str] = []
    with opened(str(place), SIZE + 5, False, said.append) as found:
        assert list(place.iterdir()) == []
        assert (found.size, found.writable, found.own) == (SIZE + 5, True, True)
        assert os.stat(found.path).st_nlink == 0
        with open(found.path, "rb") as again:
            content = again.read()
        pieces = {content[at : at + (1 << 20)] for at in range(0, SIZE, 1 << 20)}
        assert len(content) == SIZE + 5
        assert len(pieces) == 4, "no two pieces are the same"
    assert list(place.iterdir()) == []
    assert said[-1].endswith("of 4194309")


def test_where_no_file_can_be_made_without_a_name(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def as_on_fat(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no such files here")
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(target.os, "open", as_on_fat)
    with opened(str(place), SIZE, False, quiet) as found:
        assert list(place.iterdir()) == []
        assert os.stat(found.path).st_size == SIZE


def test_a_directory_without_room_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(target.os, "pwrite", full)
    assert "cannot write 4 MiB: No space left on device; --size says" in refused(place)
    assert list(place.iterdir()) == []


def test_an_existing_file_is_only_read(image: Path) -> None:
    before = image.read_bytes()
    with opened(str(image), 3 << 20, False, quiet) as found:
        assert (found.size, found.writable, found.own) == (3 << 20, False, False)
        with pytest.raises(OSError):
            os.pwrite(found.fd, b"x", 0)
    assert image.read_bytes() == before
    assert not any(step.rw.endswith("write") for step in steps(32, writable=False))


def test_what_nobody_uses_may_be_destroyed(image: Path) -> None:
    with opened(str(image), SIZE, True, quiet) as found:
        assert found.writable


def test_a_file_that_somebody_has_open_is_not_destroyed(image: Path) -> None:
    with image.open("rb"):
        assert refused(image, destroy=True).endswith("image is in use, so nothing is destroyed")


@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="no mkfs.ext4")
def test_a_file_that_holds_a_filesystem_is_not_destroyed(image: Path) -> None:
    subprocess.run(["mkfs.ext4", "-qF", image], check=True)
    assert "image holds ext4, so nothing is destroyed; wipefs" in refused(image, destroy=True)


def test_a_file_that_holds_partitions_is_not_destroyed(image: Path) -> None:
    table = bytearray(512)
    table[446:462] = bytes.fromhex("00 010100 83 feffff 3f000000 00100000".replace(" ", ""))
    table[510:512] = b"\x55\xaa"
    image.write_bytes(bytes(table) + bytes(SIZE - 512))
    assert "image holds dos, so nothing is destroyed" in refused(image, destroy=True)


def test_without_blkid_nothing_is_destroyed(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target.shutil, "which", lambda *_, **__: None)
    assert "install util-linux" in refused(image, destroy=True)


def test_other_mistakes(place: Path, image: Path) -> None:
    os.mkfifo(place / "pipe")
    (place / "small").write_bytes(b"x" * 1000)
    assert "is neither a directory nor a file" in refused(place / "pipe")
    assert "small has 1000 B, too little to measure" in refused(place / "small")
    assert refused(place / "none").endswith("none: No such file or directory")
    assert "in which nothing is destroyed: leave out --destroy" in refused(place, destroy=True)


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no /dev/shm")
def test_memory_is_no_disk() -> None:
    assert refused("/dev/shm").startswith("/dev/shm is in memory (tmpfs), not on a disk")


def test_the_jobs_write_only_where_they_may() -> None:
    own = Target(7, SIZE, writable=True, own=True)
    jobs = [step.job(own, 0.5) for step in steps(32, writable=True)]
    assert len(jobs) == 7
    for text in jobs:
        assert f"filename=/proc/{os.getpid()}/fd/7\n" in text
        assert f"size={SIZE}\n" in text
        assert "direct=1\n" in text
        assert "allow_file_create=0\n" in text
    assert "fsync=1\n" in jobs[-1]
    assert len(steps(1, writable=True)) == 5, "there is no deeper one"
    assert "ioengine=psync\n" in Step("x", "randread", "4k", 1).job(own, 1)
