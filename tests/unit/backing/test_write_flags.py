"""Writes that say for themselves that they append, or are to be durable."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.unit.backing.conftest import drop_from_cache, open_file, running
from throttlefs.backing import BackingFile, Engine, file, write_flags
from throttlefs.backing.alignment import Alignment, direct_alignment
from throttlefs.backing.buffers import address_of
from throttlefs.backing.ring import Ring
from throttlefs.settings.cachemode import CacheMode

APPEND, DSYNC, SYNC = os.RWF_APPEND, os.RWF_DSYNC, os.RWF_SYNC

_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_APPEND_FL = 0x80086601, 0x40086602, 0x20
"""linux/fs.h; the numbers hold where a long has 64 bits."""

CACHES = pytest.mark.parametrize("cache", list(CacheMode), ids=lambda cache: cache.value)


@pytest.mark.parametrize(
    ("open_flags", "flags"),
    [
        (os.O_RDWR, 0),
        (os.O_WRONLY | os.O_DIRECT | os.O_TRUNC, 0),
        (os.O_WRONLY | os.O_APPEND, APPEND),
        (os.O_RDWR | os.O_DSYNC, DSYNC),
        (os.O_RDWR | os.O_SYNC, SYNC),
        (os.O_RDWR | os.O_SYNC | os.O_APPEND, SYNC | APPEND),
    ],
)
def test_flags_of_open_and_of_a_write(open_flags: int, flags: int) -> None:
    assert write_flags(open_flags) == flags


async def write(backing: BackingFile, offset: int, data: bytes, flags: int | None = None) -> int:
    """A write as a mount does it."""
    written = backing.write_now(offset, data, flags)
    return await backing.write(offset, data, flags) if written is None else written


# -- appending -----------------------------------------------------------------------------


@pytest.fixture(params=[None, Alignment(4096, 4096)], ids=["the disk's", "4096"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk as it is, and as one with sectors of 4 KiB."""
    if request.param is not None:
        larger = lambda fd: direct_alignment(fd) and request.param  # noqa: E731
        monkeypatch.setattr(file, "direct_alignment", larger)


@CACHES
@pytest.mark.usefixtures("disk")
def test_appends_land_at_the_end(kind: str, cache: CacheMode, directory: Path) -> None:
    """Whatever the offset, the end and the length are, and whoever else appends in between."""
    path, expected, rng = directory / "image", bytearray(), random.Random(1)

    async def main() -> None:
        async with running(kind) as engine:
            files = [open_file(path, engine, cache) for _ in range(2)]
            outside = os.open(path, os.O_WRONLY | os.O_APPEND)
            for turn in range(30):
                data = rng.randbytes(rng.choice([1, 100, 512, 4096, 4096 * 3, 100_000]))
                if turn % 3 == 2:
                    os.write(outside, data)
                else:
                    offset = rng.choice([0, 4096, len(expected), 1 << 40])
                    assert await write(files[turn % 3], offset, data, APPEND) == len(data)
                expected.extend(data)
                assert os.fstat(outside).st_size == len(expected)
            overwritten = rng.randbytes(4096)
            await write(files[0], 4096, overwritten, 0)
            expected[4096:8192] = overwritten
            assert bytes(await files[1].read(0, len(expected) + 1)) == expected
            os.close(outside)
            for backing in files:
                backing.close()

    trio.run(main)
    assert path.read_bytes() == expected


@CACHES
def test_many_append_at_once(kind: str, cache: CacheMode, tmp_path: Path) -> None:
    """Two files of the mount and a program in SRC: no line is lost, none is cut, no hole."""
    path, lines = tmp_path / "log", 60

    async def main() -> None:
        async with running(kind) as engine:
            files = [open_file(path, engine, cache) for _ in range(2)]

            async def client(number: int) -> None:
                for line in range(lines // 20):
                    data = b"%d-%d%s\n" % (number, line, b"." * (number * 37 % 4100))
                    assert await write(files[number % 2], 0, data, APPEND) == len(data)

            def program() -> None:
                with open(path, "ab", buffering=0) as file:
                    for line in range(lines):
                        file.write(b"x-%d\n" % line)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, program)
                for number in range(20):
                    nursery.start_soon(client, number)
            for backing in files:
                backing.close()

    trio.run(main)
    found = path.read_bytes().split(b"\n")
    assert found.pop() == b""
    expected = [b"x-%d" % line for line in range(lines)]
    expected += [
        b"%d-%d%s" % (number, line, b"." * (number * 37 % 4100))
        for number in range(20)
        for line in range(lines // 20)
    ]
    assert sorted(found) == sorted(expected)


@CACHES
def test_a_file_opened_for_appending(kind: str, cache: CacheMode, directory: Path) -> None:
    """It appends if a write does not say otherwise; fcntl(2) may have taken O_APPEND back."""
    path = directory / "image"
    path.write_bytes(b"0123456789")

    async def main() -> None:
        async with running(kind) as engine:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | cache.open_flags)
            backing = BackingFile(fd, engine, cache)
            assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
            assert await write(backing, 3, b"X", 0) == 1
            assert await write(backing, 3, b"Y") == 1
            assert await write(backing, 0, b"Z", APPEND) == 1
            assert path.read_bytes() == b"012X456789YZ"
            backing.close()

    trio.run(main)


@pytest.fixture
def append_only(tmp_path: Path) -> Iterator[Path]:
    """A file with the attribute ``a`` of chattr(1)."""
    path = tmp_path / "log"
    path.write_bytes(b"0123456789")

    def toggle() -> None:
        with open(path, "rb") as file:
            (flags,) = struct.unpack("L", fcntl.ioctl(file, _FS_IOC_GETFLAGS, bytes(8)))
            fcntl.ioctl(file, _FS_IOC_SETFLAGS, struct.pack("L", flags ^ _FS_APPEND_FL))

    try:
        toggle()
    except OSError as error:
        pytest.skip(f"no attributes of files here: {error}")
    yield path
    toggle()


@CACHES
def test_a_file_that_can_only_be_appended_to(
    kind: str, cache: CacheMode, append_only: Path
) -> None:
    """Nobody may take O_APPEND from its descriptor, nor open it without."""

    async def main() -> None:
        async with running(kind) as engine:
            fd = os.open(append_only, os.O_WRONLY | os.O_APPEND | cache.open_flags)
            backing = BackingFile(fd, engine, cache)
            for data, flags in ((b"A", None), (b"B", 0), (b"C", APPEND), (b"D" * 4096, DSYNC)):
                assert await write(backing, 0, data, flags) == len(data)
            assert append_only.read_bytes() == b"0123456789ABC" + b"D" * 4096
            backing.close()

    trio.run(main)


def test_appends_to_the_page_cache_are_inline(tmp_path: Path) -> None:
    """As long as the last page is cached; else the kernel would read it first."""
    path = tmp_path / "image"
    path.write_bytes(bytes(10_000))

    def append_uncached(backing: BackingFile) -> int | None:
        # A page that another CPU is just adding stays in the cache, so it is tried more than once.
        drop_from_cache(path)
        return backing.write_now(0, b"not cached", APPEND)

    async def main() -> None:
        async with running("threads") as engine:
            backing = open_file(path, engine)
            os.posix_fadvise(backing.fd, 0, 0, os.POSIX_FADV_RANDOM)
            assert await backing.read(0, 10_000)
            assert backing.write_now(0, b"cached", APPEND) == 6
            with open(path, "ab") as program:
                program.write(b"in between")
            assert backing.write_now(0, b"too", APPEND) == 3
            assert path.read_bytes()[10_000:] == b"cachedin betweentoo"
            if not path.is_relative_to("/dev/shm"):
                assert None in [append_uncached(backing) for _ in range(10)]
            backing.close()

    trio.run(main)


# -- durable writes ------------------------------------------------------------------------


@CACHES
@pytest.mark.parametrize("flags", [DSYNC, SYNC, DSYNC | APPEND], ids=["dsync", "sync", "append"])
def test_durable_writes_are_not_inline(tmp_path: Path, cache: CacheMode, flags: int) -> None:
    async def main() -> None:
        async with running("threads") as engine:
            backing = open_file(tmp_path / "image", engine, cache)
            at_once = backing.write_now(0, bytes(4096), flags) is not None
            assert at_once == (cache is CacheMode.UNSAFE)
            backing.close()

    trio.run(main)


def given_flags(kind: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The flags with which the kernel is asked to write, as they are given."""
    given: list[int] = []
    if kind == "threads":
        pwrite, pwritev = os.pwrite, os.pwritev

        def spied(fd: int, data: object, offset: int, flags: int = 0) -> int:
            given.append(flags)
            return pwritev(fd, data, offset, flags)  # type: ignore[arg-type]

        def plain(fd: int, data: bytes, offset: int) -> int:
            given.append(0)
            return pwrite(fd, data, offset)

        monkeypatch.setattr(os, "pwritev", spied)
        monkeypatch.setattr(os, "pwrite", plain)
    else:
        push = Ring.push

        def pushed(self: Ring, number: int, opcode: int, *args: int) -> None:
            if opcode == 23:  # IORING_OP_WRITE
                given.append(args[4])
            push(self, number, opcode, *args)

        monkeypatch.setattr(Ring, "push", pushed)
    return given


KEPT = {
    CacheMode.WRITEBACK: DSYNC | SYNC,
    CacheMode.NONE: DSYNC | SYNC,
    CacheMode.WRITETHROUGH: SYNC,  # its descriptor has O_DSYNC
    CacheMode.DIRECTSYNC: SYNC,
    CacheMode.UNSAFE: 0,
}


@CACHES
@pytest.mark.parametrize("size", [4096, 65536 * 2, 777])
def test_the_kernel_is_told(
    kind: str, cache: CacheMode, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aligned or not, small or large; and the rest of the file is written as ever."""
    path, rng = tmp_path / "image", random.Random(2)

    async def main() -> None:
        async with running(kind) as engine:
            backing = open_file(path, engine, cache)
            await backing.write(0, rng.randbytes(300_000))
            for flags in (DSYNC, SYNC, DSYNC | APPEND):
                with monkeypatch.context() as patch:
                    given = given_flags(kind, patch)
                    data = rng.randbytes(size)
                    assert await write(backing, 8192, data, flags) == size
                wanted = flags & KEPT[cache]
                assert given or not wanted
                assert {now & (DSYNC | SYNC) for now in given} <= {wanted}
                end = os.fstat(backing.fd).st_size
                offset = end - size if flags & APPEND else 8192
                assert bytes(await backing.read(offset, size)) == data
            backing.close()

    trio.run(main)


# -- filesystems that know no flags ----------------------------------------------------------


def refuse_flags(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("write", "write_from"):
        real = getattr(engine, name)

        async def refuse(
            *args: object,
            flags: int = 0,
            real: Callable[..., object] = real,
            **kwargs: object,
        ) -> object:
            if flags:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return await real(*args, **kwargs)  # type: ignore[misc]

        monkeypatch.setattr(engine, name, refuse)


@CACHES
@pytest.mark.parametrize("size", [4096, 777])
@pytest.mark.parametrize("flags", [DSYNC, SYNC, APPEND, SYNC | APPEND])
def test_without_flags(
    kind: str,
    cache: CacheMode,
    size: int,
    flags: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The write is followed by fdatasync(2) or fsync(2), and the end of the file is found."""
    path, data, synced = tmp_path / "image", random.Random(3).randbytes(size), []
    path.write_bytes(bytes(20_000))
    before = len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        async with running(kind) as engine:
            refuse_flags(engine, monkeypatch)
            fsync, fdatasync, engine_fsync = os.fsync, os.fdatasync, engine.fsync
            monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(SYNC), fsync(fd)))
            monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(DSYNC), fdatasync(fd)))

            async def spied(fd: int, datasync: bool) -> None:
                synced.append(DSYNC if datasync else SYNC)
                with monkeypatch.context() as patch:
                    patch.setattr(os, "fsync", fsync)
                    patch.setattr(os, "fdatasync", fdatasync)
                    await engine_fsync(fd, datasync)

            monkeypatch.setattr(engine, "fsync", spied)
            backing = open_file(path, engine, cache)
            assert await backing.write(8192, data, flags) == size
            backing.close()

    trio.run(main)
    offset = 20_000 if flags & APPEND else 8192
    assert path.read_bytes()[offset : offset + size] == data
    assert path.stat().st_size == max(20_000, offset + size)
    wanted = flags & KEPT[cache]
    assert synced == ([wanted] if wanted else [])
    assert len(os.listdir("/proc/self/fd")) == before


def test_other_errors_are_the_writes_own(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(10_000))

    async def main() -> None:
        async with running(kind) as engine:
            for cache in (CacheMode.WRITEBACK, CacheMode.NONE):
                backing = BackingFile(os.open(path, os.O_RDONLY), engine, cache)
                for flags in (APPEND, DSYNC, SYNC | APPEND):
                    for size in (4096, 777):
                        with pytest.raises(OSError) as caught:
                            await write(backing, 0, bytes(size), flags)
                        assert caught.value.errno == errno.EBADF
                backing.close()
            full = BackingFile(os.open("/dev/full", os.O_RDWR), engine)
            with pytest.raises(OSError) as caught:
                await full.write(0, bytes(4096), APPEND)
            assert caught.value.errno == errno.ENOSPC
            full.close()

    trio.run(main)


def test_engines_write_from_memory_with_flags(kind: str, directory: Path) -> None:
    path = directory / "image"
    path.write_bytes(b"begin")

    async def main() -> None:
        async with running(kind) as engine:
            fd, data = os.open(path, os.O_RDWR), random.Random(4).randbytes(9999)
            written = await engine.write_from(fd, 0, address_of(data), len(data), flags=APPEND)
            assert written == len(data)
            assert await engine.write(fd, 0, b"end", flags=APPEND | DSYNC) == 3
            assert path.read_bytes() == b"begin" + data + b"end"
            os.close(fd)

    trio.run(main)
