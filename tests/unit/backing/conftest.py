"""Engines of every kind, and files on filesystems that differ in what they can do."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

import pytest
import trio

from throttlefs.backing import BackingFile, Engine, inline, ring
from throttlefs.backing.threads import ThreadEngine
from throttlefs.backing.uring import UringEngine
from throttlefs.settings.cachemode import CacheMode

# Each way in which a kernel hands over completions, as an older one would.
RING_KINDS = {
    "uring": ring._SETUP_FLAGS,
    "uring-cooperative": ring._SETUP_FLAGS[1:],
    "uring-plain": ring._SETUP_FLAGS[2:],
}


def new_engine(kind: str, entries: int = 256) -> Engine:
    if kind == "threads":
        return ThreadEngine()
    with mock.patch.object(ring, "_SETUP_FLAGS", RING_KINDS[kind]):
        try:
            return UringEngine(entries)
        except ring.RingUnavailableError as error:
            pytest.skip(str(error))


@asynccontextmanager
async def running(kind: str, entries: int = 256) -> AsyncIterator[Engine]:
    """An engine of that kind at work."""
    engine = new_engine(kind, entries)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            yield engine
            nursery.cancel_scope.cancel()
    finally:
        engine.close()


def open_file(path: Path, engine: Engine, cache: CacheMode = CacheMode.WRITEBACK) -> BackingFile:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | cache.open_flags, 0o600)
    return BackingFile(fd, engine, cache)


def drop_from_cache(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    for _ in range(3):  # pages that another CPU is just adding are passed over
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test before this one made of the filesystems is forgotten, with its clock."""
    monkeypatch.setattr(inline, "_known", {})
    monkeypatch.setattr(inline, "_block_devices", {})


@pytest.fixture(params=[*RING_KINDS, "threads"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["disk", "tmpfs"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk, and one on tmpfs, which has no RWF_NOWAIT."""
    if request.param == "disk":
        yield tmp_path
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no tmpfs at /dev/shm")
    made = Path(tempfile.mkdtemp(prefix="throttlefs-test-", dir="/dev/shm"))
    yield made
    shutil.rmtree(made)
