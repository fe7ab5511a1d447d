"""Filesystems that refuse O_DIRECT: the page cache serves, and the log says so once."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import random
from pathlib import Path

import pytest
import trio

from tests.unit.backing.conftest import open_file, running
from throttlefs.backing import BackingFile, Engine, alignment, file
from throttlefs.backing.alignment import direct_alignment
from throttlefs.settings.cachemode import CacheMode

DATA = random.Random(1).randbytes(200_000)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(DATA)
    fd = os.open(path, os.O_RDONLY)
    try:
        if direct_alignment(fd) is None:
            raise OSError(errno.EINVAL, "statx says so")
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"the filesystem of the temporary directory refuses O_DIRECT: {error}")
    finally:
        os.close(fd)
    return path


def has_direct(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


async def works_through_the_cache(engine: Engine, path: Path, cache: CacheMode) -> None:
    backing = open_file(path, engine, cache)
    assert not has_direct(backing.fd)
    assert bytes(backing.read_now(3, 5000) or b"") == DATA[3:5003]
    assert await backing.write(7, b"some data") == 9
    assert bytes(await backing.read(7, 9)) == b"some data"
    backing.close()
    backing = open_file(path, engine, cache)
    await backing.write(7, DATA[7:16])
    backing.close()


@pytest.mark.parametrize("cache", [CacheMode.NONE, CacheMode.DIRECTSYNC])
@pytest.mark.parametrize("how", ["statx says so", "fcntl refuses"])
def test_a_filesystem_that_refuses(
    image: Path,
    cache: CacheMode,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(file, "_without_direct", set())
    if how == "statx says so":
        monkeypatch.setattr(alignment, "direct_io_alignment", lambda fd: (0, 0))
    else:
        real = fcntl.fcntl

        def refuse(fd: int, command: int, argument: int = 0) -> int:
            if command == fcntl.F_SETFL and argument & os.O_DIRECT:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return real(fd, command, argument)

        monkeypatch.setattr(fcntl, "fcntl", refuse)

    async def main() -> None:
        async with running("threads") as engine:
            await works_through_the_cache(engine, image, cache)

    caplog.set_level(logging.WARNING)
    trio.run(main)
    assert [record.getMessage() for record in caplog.records if "O_DIRECT" in record.msg] == [
        f"the filesystem (device {os.major(image.stat().st_dev)}:"
        f"{os.minor(image.stat().st_dev)}) refuses O_DIRECT: its files go through the page cache"
    ]


def test_other_errors_are_not_taken_for_a_refusal(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.fcntl

    def fail(fd: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return real(fd, command, argument)

    async def main() -> None:
        async with running("threads") as engine:
            fd = os.open(image, os.O_RDWR)
            with monkeypatch.context() as patch:
                patch.setattr(fcntl, "fcntl", fail)
                with pytest.raises(PermissionError):
                    BackingFile(fd, engine, CacheMode.NONE)
            os.close(fd)

    trio.run(main)
