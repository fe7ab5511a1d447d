"""O_DIRECT: whether it is used at all, and right data whatever the alignment."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from pathlib import Path

import pytest
import trio

from tests.unit.backing.conftest import drop_from_cache, open_file, running
from throttlefs.backing import BackingFile, buffers, file
from throttlefs.backing.alignment import Alignment, direct_alignment
from throttlefs.backing.gate import gate_of
from throttlefs.settings.cachemode import CacheMode

SIZE = 200_000
DATA = random.Random(1).randbytes(SIZE)


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


@pytest.fixture(params=[None, Alignment(4096, 4096), Alignment(4096, 4)], ids=str)
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Alignment | None:
    """The disk as it is, and as one with sectors of 4 KiB."""
    demanded: Alignment | None = request.param
    if demanded is not None:
        real = direct_alignment

        def larger(fd: int) -> Alignment | None:
            told = real(fd)
            return told and Alignment(4096, max(demanded.memory, told.memory))

        monkeypatch.setattr(file, "direct_alignment", larger)
    return demanded


def has_direct(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


def cached_pages(path: Path) -> bool:
    """Whether anything of the file is in the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # asking for a page reads no others
    try:
        for offset in range(0, SIZE, 4096):
            try:
                os.preadv(fd, (bytearray(1),), offset, os.RWF_NOWAIT)
            except BlockingIOError:
                continue
            return True
        return False
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 4096), (512, 512), (1, 1), (4095, 2), (100, 100_000), (SIZE - 10, 4096), (SIZE, 10)],
)
def test_reads_of_any_alignment(
    kind: str, disk: Alignment | None, image: Path, offset: int, size: int
) -> None:
    async def main() -> None:
        async with running(kind) as engine:
            backing = open_file(image, engine, CacheMode.NONE)
            assert has_direct(backing.fd)
            assert backing.read_now(offset, size) is None
            assert bytes(await backing.read(offset, size)) == DATA[offset : offset + size]
            backing.close()

    trio.run(main)


@pytest.mark.parametrize("cache", [CacheMode.NONE, CacheMode.DIRECTSYNC])
@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, 4096),
        (8192, 65536),
        (512, 512),
        (1, 1),
        (4095, 2),
        (100, 100_000),
        (SIZE - 10, 4096),  # over the end
        (SIZE, 1),  # right behind the end
        (SIZE + 123_456, 789),  # leaves a hole
        (SIZE // 4096 * 4096, 8192),  # aligned, over the end
    ],
)
def test_writes_of_any_alignment(
    kind: str, disk: Alignment | None, image: Path, cache: CacheMode, offset: int, size: int
) -> None:
    data = random.Random(2).randbytes(size)
    expected = bytearray(DATA)
    expected.extend(bytes(max(0, offset + size - SIZE)))
    expected[offset : offset + size] = data

    async def main() -> None:
        async with running(kind) as engine:
            backing = open_file(image, engine, cache)
            assert backing.write_now(offset, data) is None
            assert await backing.write(offset, data) == size
            assert os.fstat(backing.fd).st_size == len(expected)
            assert bytes(await backing.read(0, len(expected) + 9)) == expected
            await backing.fsync(True)
            backing.close()

    trio.run(main)
    assert image.read_bytes() == expected


@pytest.mark.parametrize("form", [bytearray, memoryview])
def test_writes_of_any_kind_of_buffer(image: Path, form: type) -> None:
    data = random.Random(3).randbytes(8192)

    async def main() -> None:
        async with running("threads") as engine:
            backing = open_file(image, engine, CacheMode.NONE)
            await backing.write(4096, form(data))
            await backing.write(100, form(data[:50]))
            backing.close()

    trio.run(main)
    assert image.read_bytes()[4096:12288] == data
    assert image.read_bytes()[100:150] == data[:50]


def test_the_page_cache_is_passed_by(image: Path) -> None:
    drop_from_cache(image)
    try:
        if cached_pages(image):
            pytest.skip("the page cache of this filesystem cannot be emptied")
    except OSError:
        pytest.skip("no RWF_NOWAIT here")
    drop_from_cache(image)

    async def main() -> None:
        async with running("threads") as engine:
            backing = open_file(image, engine, CacheMode.NONE)
            await backing.read(4096, 65536)
            await backing.read(1, 1)
            await backing.write(4096, DATA[4096:65536])
            backing.close()

    trio.run(main)
    assert not cached_pages(image)


def test_neighbours_in_one_block_do_not_lose_each_others_bytes(
    kind: str, disk: Alignment | None, image: Path
) -> None:
    """Many tasks, two handles, regions that share blocks: every byte is its last writer's."""
    width, tasks, expected = 777, 40, bytearray(DATA)

    async def main() -> None:
        async with running(kind, entries=16) as engine:
            files = [open_file(image, engine, CacheMode.NONE) for _ in range(2)]

            async def unaligned(number: int) -> None:
                rng, start = random.Random(number), number * width
                for turn in range(8):
                    first = rng.randrange(width)
                    data = rng.randbytes(rng.randrange(1, width - first + 1))
                    where = start + first
                    expected[where : where + len(data)] = data
                    assert await files[(number + turn) % 2].write(where, data) == len(data)
                    here = bytes(expected[start : start + width])
                    assert bytes(await files[turn % 2].read(start, width)) == here

            async def aligned(number: int) -> None:
                rng, start = random.Random(number), 65536 + number * 8192
                for turn in range(8):
                    data = rng.randbytes(8192)
                    expected[start : start + 8192] = data
                    assert await files[(number + turn) % 2].write(start, data) == 8192
                    assert bytes(await files[turn % 2].read(start, 8192)) == data

            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for number in range(tasks):
                        nursery.start_soon(unaligned, number)
                    for number in range(10):
                        nursery.start_soon(aligned, number)
            await files[0].fsync(False)  # would say EIO had cache and disk been out of step
            for backing in files:
                backing.close()

    trio.run(main)
    assert image.read_bytes() == expected


def test_unaligned_writes_leave_nothing_dirty_behind(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dirty page in the way of a later O_DIRECT write makes the kernel report EIO."""

    async def main() -> None:
        async with running("threads") as engine:
            backing = open_file(image, engine, CacheMode.NONE)
            status = os.fstat(backing.fd)
            gate, done, write_back = gate_of(status.st_dev, status.st_ino), [], engine.write_back

            async def watched(fd: int, offset: int, size: int) -> None:
                assert gate._someone_alone
                await write_back(fd, offset, size)
                done.append((offset, size))

            monkeypatch.setattr(engine, "write_back", watched)
            await backing.write(100, b"data")
            await backing.write(4096, bytes(4096))
            await backing.write(8191, bytes(70_000))
            assert done == [(100, 4), (8191, 70_000)]
            backing.close()

    trio.run(main)


def test_a_file_that_grows_byte_by_byte(kind: str, disk: Alignment | None, image: Path) -> None:
    os.truncate(image, 0)
    expected = bytearray()

    async def main() -> None:
        async with running(kind) as engine:
            backing = open_file(image, engine, CacheMode.NONE)
            rng = random.Random(4)
            while len(expected) < 9000:
                data = rng.randbytes(rng.choice([1, 7, 511, 512, 4096 - len(expected) % 4096]))
                assert await backing.write(len(expected), data) == len(data)
                expected.extend(data)
                assert os.fstat(backing.fd).st_size == len(expected)
            assert bytes(await backing.read(0, 99_999)) == expected
            backing.close()

    trio.run(main)
    assert image.read_bytes() == expected


def test_cancelled_writers_leave_the_gate_in_order(kind: str, image: Path) -> None:
    async def main() -> None:
        async with running(kind) as engine:
            backing, cancelled = open_file(image, engine, CacheMode.NONE), 0
            for round_ in range(20):
                with trio.move_on_after(0.0005 * (round_ % 5)) as scope:
                    async with trio.open_nursery() as nursery:
                        for number in range(20):
                            size = 512 if number % 2 else 100
                            nursery.start_soon(backing.write, number * 1024, bytes(size))
                cancelled += scope.cancelled_caught
            assert cancelled
            with trio.fail_after(10):
                assert await backing.write(0, b"still works") == 11
            status = os.fstat(backing.fd)
            gate = gate_of(status.st_dev, status.st_ino)
            assert gate._inside == 0
            assert not gate._waiting
            backing.close()

    trio.run(main)
    assert image.read_bytes()[:11] == b"still works"


def test_errors_leave_the_gate_in_order(kind: str, image: Path) -> None:
    async def main() -> None:
        async with running(kind) as engine:
            backing = BackingFile(os.open(image, os.O_RDONLY), engine, CacheMode.NONE)
            for size in (512, 100, 512, 100):
                with trio.fail_after(10), pytest.raises(OSError) as caught:
                    await backing.write(0, bytes(size))
                assert caught.value.errno == errno.EBADF
            backing.close()

    trio.run(main)


def test_an_unlinked_file_takes_unaligned_writes(image: Path) -> None:
    async def main() -> None:
        async with running("threads") as engine:
            backing = open_file(image, engine, CacheMode.NONE)
            image.unlink()
            assert await backing.write(5, b"data") == 4
            assert bytes(await backing.read(5, 4)) == b"data"
            backing.close()

    trio.run(main)


def test_slots_are_used_again_and_not_shared(image: Path) -> None:
    """Small requests borrow their memory; two at a time must not have the same."""

    async def main() -> None:
        async with running("threads") as engine:
            backing = open_file(image, engine, CacheMode.NONE)
            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    for number in range(2 * buffers._SLOTS_KEPT):
                        nursery.start_soon(check, backing, number % 48 * 4096)
                assert len(buffers._free_slots) == buffers._SLOTS_KEPT
                assert len({slot.address for slot in buffers._free_slots}) == buffers._SLOTS_KEPT
            backing.close()

    async def check(backing: BackingFile, place: int) -> None:
        assert bytes(await backing.read(place, 4096)) == DATA[place : place + 4096]
        await backing.write(place, DATA[place : place + 4096])

    trio.run(main)
    assert image.read_bytes() == DATA
