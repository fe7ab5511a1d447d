"""Who closes which descriptor, and whether that may have to wait."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

from tests.unit.backing.conftest import open_file, running
from throttlefs.backing import BackingFile, file
from throttlefs.host import filesystems
from throttlefs.settings.cachemode import CacheMode


@pytest.fixture
def image_on_disk(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(10_000))
    return path


@pytest.mark.parametrize("links", [0, 1])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
@pytest.mark.parametrize("name", ["ext4", "tmpfs", "nfs4"])
def test_what_closing_may_wait_for(
    image_on_disk: Path, name: str, flags: int, links: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystems, "filesystem_type", lambda fd: name)

    async def main() -> None:
        async with running("threads") as engine:
            backing = BackingFile(os.open(image_on_disk, flags), engine)
            if not links:
                image_on_disk.unlink()
            writes = flags != os.O_RDONLY
            may_wait = name == "nfs4" or (name == "ext4" and writes) or not links
            assert backing.close_may_block() == may_wait
            backing.close()

    trio.run(main)


def test_a_close_that_fails_closes_everything(
    image_on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS and FUSE say at close that a write failed; the descriptor is closed nevertheless."""
    before = len(os.listdir("/proc/self/fd"))
    close = os.close

    def fail(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def main() -> None:
        async with running("threads") as engine:
            backing = open_file(image_on_disk, engine, CacheMode.NONE)
            await backing.write(3, b"unaligned")
            with monkeypatch.context() as patch:
                patch.setattr(os, "close", fail)
                with pytest.raises(OSError) as caught:
                    backing.close()
            assert caught.value.errno == errno.EIO

    trio.run(main)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_caller_keeps_what_could_not_be_taken_over(
    image_on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails on the way, the descriptor is open and nothing else is."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def main() -> None:
        async with running("threads") as engine:
            fd = os.open(image_on_disk, os.O_RDWR)
            before = len(os.listdir("/proc/self/fd"))
            for module, name in (
                (file, "status_of"),
                (file, "filesystem_of"),
                (file, "direct_alignment"),
                (file.fcntl, "fcntl"),
            ):
                with monkeypatch.context() as patch:
                    patch.setattr(module, name, fail)
                    with pytest.raises(OSError) as caught:
                        BackingFile(fd, engine, CacheMode.NONE)
                assert caught.value.errno == errno.EIO
                assert len(os.listdir("/proc/self/fd")) == before
                os.fstat(fd)
            BackingFile(fd, engine, CacheMode.NONE).close()

    trio.run(main)


def test_close_closes(directory: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        async with running("threads") as engine:
            for cache in CacheMode:
                backing = open_file(directory / "image", engine, cache)
                await backing.write(3, b"unaligned")
                backing.close()

    trio.run(main)
    assert len(os.listdir("/proc/self/fd")) == before
