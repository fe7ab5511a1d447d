"""Random reads, writes, truncates and syncs against a bytearray, on every engine and mode."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.backing.conftest import drop_from_cache, open_file, running
from throttlefs.backing import BackingFile, file
from throttlefs.backing.alignment import Alignment, direct_alignment
from throttlefs.settings.cachemode import CacheMode

# Places near the edges of sectors, pages and large folios, and anywhere.
edges = st.sampled_from([0, 512, 4096, 8192, 65536, 131072])
nearby = st.sampled_from([-1, 0, 0, 0, 1, 100, 511])
places = st.builds(lambda edge, by: max(0, edge + by), edges, nearby) | st.integers(0, 200_000)
sizes = st.builds(lambda edge, by: max(1, edge + by), edges, nearby) | st.integers(1, 10_000)

operations = st.lists(
    st.tuples(
        st.sampled_from(["read", "read", "write", "write", "write", "durable", "append"]),
        places,
        sizes,
    )
    | st.tuples(
        st.sampled_from(["truncate", "fsync", "datasync", "drop", "reopen"]), places, sizes
    ),
    min_size=3,
    max_size=25,
)


class Replay:
    """Carries operations out on a file and on a bytearray, and compares."""

    def __init__(self, path: Path, cache: CacheMode) -> None:
        self.path = path
        self.cache = cache
        self.model = bytearray()
        self.rng = random.Random(9)

    async def run(self, kind: str, plan: list[tuple[str, int, int]]) -> None:
        async with running(kind, entries=8) as engine:
            backing = open_file(self.path, engine, self.cache)
            for name, place, size in plan:
                if name == "reopen":
                    backing.close()
                    backing = open_file(self.path, engine, self.cache)
                elif name == "drop":
                    drop_from_cache(self.path)
                else:
                    await getattr(self, f"_{name}")(backing, place, size)
                assert os.fstat(backing.fd).st_size == len(self.model)
            assert bytes(await backing.read(0, len(self.model) + 1)) == self.model
            backing.close()
        assert self.path.read_bytes() == self.model

    async def _read(self, backing: BackingFile, place: int, size: int) -> None:
        data = backing.read_now(place, size)
        if data is None:
            data = await backing.read(place, size)
        assert bytes(data) == self.model[place : place + size]

    async def _write(
        self, backing: BackingFile, place: int, size: int, flags: int | None = None
    ) -> None:
        data = self.rng.randbytes(size)
        written = backing.write_now(place, data, flags)
        if written is None:
            written = await backing.write(place, data, flags)
        assert written == size
        if flags == os.RWF_APPEND:
            place = len(self.model)
        self.model.extend(bytes(max(0, place + size - len(self.model))))
        self.model[place : place + size] = data

    async def _durable(self, backing: BackingFile, place: int, size: int) -> None:
        await self._write(backing, place, size, os.RWF_DSYNC)

    async def _append(self, backing: BackingFile, place: int, size: int) -> None:
        await self._write(backing, place, size, os.RWF_APPEND)

    async def _truncate(self, backing: BackingFile, place: int, size: int) -> None:
        os.ftruncate(backing.fd, place)
        del self.model[place:]
        self.model.extend(bytes(place - len(self.model)))

    async def _fsync(self, backing: BackingFile, place: int, size: int) -> None:
        await backing.fsync(False)

    async def _datasync(self, backing: BackingFile, place: int, size: int) -> None:
        await backing.fsync(True)


@pytest.mark.parametrize("cache", list(CacheMode), ids=lambda cache: cache.value)
@pytest.mark.parametrize("where", ["disk", "tmpfs"])
def test_files_behave_like_bytearrays(
    kind: str, cache: CacheMode, where: str, tmp_path: Path
) -> None:
    directory = tmp_path
    if where == "tmpfs":
        if not os.access("/dev/shm", os.W_OK):
            pytest.skip("no tmpfs at /dev/shm")
        directory = Path(tempfile.mkdtemp(prefix="throttlefs-test-", dir="/dev/shm"))

    @settings(max_examples=12, deadline=None)
    @given(operations)
    def check(plan: list[tuple[str, int, int]]) -> None:
        path = directory / "image"
        path.unlink(missing_ok=True)
        trio.run(Replay(path, cache).run, kind, plan)

    try:
        check()
    finally:
        if where == "tmpfs":
            shutil.rmtree(directory)


@pytest.mark.parametrize("cache", [CacheMode.NONE, CacheMode.DIRECTSYNC], ids=lambda c: c.value)
def test_the_same_on_a_disk_with_large_sectors(
    kind: str, cache: CacheMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def larger(fd: int) -> Alignment | None:
        return direct_alignment(fd) and Alignment(4096, 4096)

    monkeypatch.setattr(file, "direct_alignment", larger)

    @settings(max_examples=12, deadline=None)
    @given(operations)
    def check(plan: list[tuple[str, int, int]]) -> None:
        path = tmp_path / "image"
        path.unlink(missing_ok=True)
        trio.run(Replay(path, cache).run, kind, plan)

    check()
