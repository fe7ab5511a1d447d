"""BackingFile's fast paths: what they answer, what they leave to the engine, what they learn."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest
import trio
import trio.testing

from tests.unit.backing.conftest import drop_from_cache, open_file, running
from throttlefs.backing import BackingFile, file
from throttlefs.backing.file import (
    INLINE_READ_MAX,
    INLINE_WRITE_MAX,
    MISSES_TO_PAUSE,
    OFFLOAD_WRITE_MIN,
    PAUSE_READS,
    PROBE_EVERY,
)
from throttlefs.settings.cachemode import CacheMode

SIZE = 1 << 20
DATA = random.Random(1).randbytes(SIZE)


@pytest.fixture
def image(directory: Path) -> Path:
    path = directory / "image"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def image_on_disk(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(DATA)
    return path


def with_file(
    path: Path, test: Callable[[BackingFile], object], cache: CacheMode = CacheMode.WRITEBACK
) -> None:
    async def main() -> None:
        async with running("threads") as engine:
            backing = open_file(path, engine, cache)
            test(backing)
            backing.close()

    trio.run(main)


def knows_nowait(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.preadv(fd, (bytearray(1),), 0, os.RWF_NOWAIT)
    except OSError as error:
        return error.errno != errno.EOPNOTSUPP
    finally:
        os.close(fd)
    return True


@pytest.mark.parametrize("size", [0, 1, 4096, 5000, 100_000, INLINE_READ_MAX])
def test_reads_what_is_cached_at_once(image: Path, size: int) -> None:
    def test(backing: BackingFile) -> None:
        data = backing.read_now(3, size)
        if data is None:  # a filesystem without RWF_NOWAIT that can make us wait
            assert not knows_nowait(image)
            return
        assert bytes(data) == DATA[3 : 3 + size]
        at_end = backing.read_now(SIZE - 5, max(size, 6))
        assert at_end is not None
        assert bytes(at_end) == DATA[-5:]
        behind = backing.read_now(SIZE + 5, size)
        assert behind is not None
        assert bytes(behind) == b""

    with_file(image, test)


def test_reads_into_the_room_that_is_given(image: Path) -> None:
    def test(backing: BackingFile) -> None:
        room = memoryview(bytearray(4096))
        data = backing.read_now(3, 4096, room)
        if data is None:
            assert not knows_nowait(image)
            return
        assert data is room
        assert bytes(data) == DATA[3 : 3 + 4096]
        at_end = backing.read_now(SIZE - 5, 4096, room)
        assert at_end is not None
        assert bytes(at_end) == DATA[-5:]

    with_file(image, test)


def test_large_requests_are_for_the_engine(image: Path) -> None:
    def test(backing: BackingFile) -> None:
        assert backing.read_now(0, INLINE_READ_MAX + 1) is None
        assert backing.write_now(0, bytes(INLINE_WRITE_MAX + 1)) is None

    with_file(image, test)
    assert image.read_bytes() == DATA


def test_a_file_in_memory_is_read_at_once(image: Path) -> None:
    """tmpfs knows no RWF_NOWAIT, but never makes anybody wait either."""
    if not str(image).startswith("/dev/shm"):
        pytest.skip("not on tmpfs")

    def test(backing: BackingFile) -> None:
        assert bytes(backing.read_now(5, 4096) or b"") == DATA[5:4101]

    with_file(image, test)


def test_a_filesystem_without_nowait_is_asked_once(
    image_on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def refuse(*args: object) -> int:
        calls.append(args)
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def test(backing: BackingFile) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", refuse)
            for _ in range(5):
                assert backing.read_now(0, 4096) is None
        assert len(calls) == 1

    with_file(image_on_disk, test)


def test_what_is_not_cached_is_left_to_read(image_on_disk: Path) -> None:
    """Cold reads: never data that is not there, never a wait, and right in the end."""
    if not knows_nowait(image_on_disk):
        pytest.skip("no RWF_NOWAIT here")
    drop_from_cache(image_on_disk)

    async def main() -> None:
        async with running("threads") as engine:
            backing = open_file(image_on_disk, engine)
            missed = 0
            for offset in range(0, SIZE, 4096):
                data = backing.read_now(offset, 4096)
                if data is None:
                    missed += 1
                    data = await backing.read(offset, 4096)
                assert bytes(data) == DATA[offset : offset + 4096]
            assert missed
            backing.close()

    trio.run(main)


def test_a_read_of_which_a_part_is_cached(
    image_on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RWF_NOWAIT answers with the cached beginning; taken for the end of the file it would be
    a hole in somebody's disk."""
    preadv = os.preadv

    def only_the_first_page(fd: int, buffers: tuple[bytearray], offset: int, flags: int) -> int:
        return preadv(fd, (memoryview(buffers[0])[:4096],), offset, flags)

    async def main() -> None:
        async with running("threads") as engine:
            backing = open_file(image_on_disk, engine)
            await backing.read(0, SIZE)
            with monkeypatch.context() as patch:
                patch.setattr(os, "preadv", only_the_first_page)
                assert backing.read_now(0, 10_000) is None
                assert backing.read_now(SIZE - 5000, 10_000) is None
                at_end = backing.read_now(SIZE - 4096, 10_000)  # here short is all there is
                assert at_end is not None
                assert bytes(at_end) == DATA[-4096:]
            assert bytes(await backing.read(0, 10_000)) == DATA[:10_000]
            backing.close()

    trio.run(main)


def test_it_stops_asking_when_nothing_is_cached(
    image_on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    cached = False
    preadv = os.preadv

    def counted(fd: int, buffers: tuple[bytearray], offset: int, flags: int) -> int:
        nonlocal asked
        asked += 1
        if not cached:
            raise BlockingIOError(errno.EAGAIN, "not cached")
        return preadv(fd, buffers, offset)

    def test(backing: BackingFile) -> None:
        nonlocal asked, cached
        monkeypatch.setattr(os, "preadv", counted)
        for _ in range(MISSES_TO_PAUSE + 10 * (PAUSE_READS + 1)):
            assert backing.read_now(0, 4096) is None
        assert asked == MISSES_TO_PAUSE + 10
        cached = True  # warm again: it takes PAUSE_READS at most to notice
        answers = [backing.read_now(0, 4096) for _ in range(PAUSE_READS + 50)]
        assert sum(answer is not None for answer in answers) >= 50
        asked, cached = 0, False  # and a single miss does not stop it again
        assert backing.read_now(0, 4096) is None
        cached = True
        assert backing.read_now(0, 4096) is not None

    with_file(image_on_disk, test)


def test_writes_to_the_cache_at_once(image: Path) -> None:
    expected = bytearray(DATA)

    def test(backing: BackingFile) -> None:
        for offset, data in ((0, b"x" * 4096), (8192, b"y" * 100_000), (SIZE - 2, b"end and on")):
            assert backing.write_now(offset, data) == len(data)
            expected[offset : offset + len(data)] = data

    with_file(image, test)
    assert image.read_bytes() == expected


def test_parts_of_pages_that_are_not_cached_are_for_the_engine(image_on_disk: Path) -> None:
    """The kernel would read the page first, and the event loop would wait for the disk."""
    if not knows_nowait(image_on_disk):
        pytest.skip("no RWF_NOWAIT here")

    def test(backing: BackingFile) -> None:
        os.posix_fadvise(backing.fd, 0, 0, os.POSIX_FADV_RANDOM)  # no readahead
        for offset, size in ((100, 50), (4096, 5000), (9000, 3288)):
            drop_from_cache(image_on_disk)
            assert backing.write_now(offset, bytes(size)) is None
        drop_from_cache(image_on_disk)
        assert backing.write_now(4096, DATA[4096:12288]) == 8192  # whole pages need no reading
        assert backing.write_now(5000, DATA[5000:5010]) == 10  # now it is cached
        assert backing.write_now(SIZE, b"behind the end there is nothing to read") == 39

    with_file(image_on_disk, test)
    assert image_on_disk.read_bytes()[:SIZE] == DATA


def test_a_stall_sends_writes_to_the_engine_for_a_while(
    image_on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = monotonic() + 1e6
    pwrite = os.pwrite

    def slow(fd: int, data: bytes, offset: int) -> int:
        nonlocal now
        now += 0.2
        return pwrite(fd, data, offset)

    def test(backing: BackingFile) -> None:
        nonlocal now
        monkeypatch.setattr(file, "monotonic", lambda: now)
        assert backing.write_now(0, b"quick") == 5
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", slow)
            assert backing.write_now(0, b"slow!") == 5
        assert backing.write_now(0, b"quick") is None
        now += 1.9  # ten times as long as the stall, for it may take a tenth of the time
        assert backing.write_now(0, b"quick") is None
        now += 0.2
        assert backing.write_now(0, b"quick") == 5

    with_file(image_on_disk, test)


def test_large_writes_that_come_side_by_side_go_to_another_core(
    image_on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = bytes(OFFLOAD_WRITE_MIN)
    now = monotonic() + 2e6
    monkeypatch.setattr(file, "monotonic", lambda: now)  # so that no write counts as a stall

    async def main() -> None:
        async with running("threads") as engine, trio.open_nursery() as nursery:
            backing = open_file(image_on_disk, engine)
            # One at a time they are quickest here, but one now and then shows whether they are.
            done_here = [backing.write_now(0, large) is not None for _ in range(3 * PROBE_EVERY)]
            assert done_here == ([True] * (PROBE_EVERY - 1) + [False]) * 3

            under_way, may_end = trio.Event(), trio.Event()

            async def write(*_: object, offload: bool, identity: int) -> int:
                assert offload
                under_way.set()
                await may_end.wait()
                return len(large)

            monkeypatch.setattr(engine, "write", write)
            nursery.start_soon(backing.write, 0, large)
            await under_way.wait()
            assert backing.write_now(0, large) is None
            assert backing.write_now(0, large[:-1]) == len(large) - 1
            may_end.set()
            await trio.testing.wait_all_tasks_blocked()
            assert backing.write_now(0, large) == len(large)
            backing.close()

    trio.run(main)


@pytest.mark.parametrize("cache", list(CacheMode))
def test_what_must_reach_the_disk_is_not_written_on_the_loop(
    image_on_disk: Path, cache: CacheMode
) -> None:
    def test(backing: BackingFile) -> None:
        at_once = backing.write_now(0, b"data") is not None
        assert at_once == (cache in (CacheMode.WRITEBACK, CacheMode.UNSAFE))

    with_file(image_on_disk, test, cache)


@pytest.mark.parametrize("cache", list(CacheMode))
def test_fsync_is_ignored_only_where_asked_for(
    image_on_disk: Path, cache: CacheMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    async def main() -> None:
        async with running("threads") as engine:
            backing = open_file(image_on_disk, engine, cache)
            for name in ("fsync", "fdatasync"):
                monkeypatch.setattr(os, name, lambda fd, name=name: calls.append((name, fd)))
            await backing.fsync(False)
            await backing.fsync(True)
            expected = [("fsync", backing.fd), ("fdatasync", backing.fd)]
            assert calls == ([] if cache is CacheMode.UNSAFE else expected)
            backing.close()

    trio.run(main)


def test_errors_of_the_fast_paths_have_their_errno(tmp_path: Path) -> None:
    async def main() -> None:
        async with running("threads") as engine:
            path = tmp_path / "image"
            path.write_bytes(DATA)
            for flags, call in (
                (os.O_RDONLY, lambda backing: backing.write_now(0, bytes(4096))),
                (os.O_RDONLY, lambda backing: backing.write_now(1, bytes(10))),
                (os.O_WRONLY, lambda backing: backing.read_now(0, 10)),
            ):
                backing = BackingFile(os.open(path, flags), engine)
                with pytest.raises(OSError) as caught:
                    call(backing)
                assert caught.value.errno == errno.EBADF
                backing.close()
            write_only = BackingFile(os.open(path, os.O_WRONLY), engine)
            assert write_only.write_now(1, b"parts of pages too") == 18
            write_only.close()
            full = BackingFile(os.open("/dev/full", os.O_RDWR), engine)
            with pytest.raises(OSError) as caught:
                full.write_now(0, bytes(4096))
            assert caught.value.errno == errno.ENOSPC
            full.close()

    trio.run(main)


def test_durable_modes_insist_on_their_open_flags(image_on_disk: Path) -> None:
    async def main() -> None:
        async with running("threads") as engine:
            fd = os.open(image_on_disk, os.O_RDWR)
            for cache in (CacheMode.WRITETHROUGH, CacheMode.DIRECTSYNC):
                with pytest.raises(ValueError, match="O_DSYNC"):
                    BackingFile(fd, engine, cache)
            os.close(fd)

    trio.run(main)
