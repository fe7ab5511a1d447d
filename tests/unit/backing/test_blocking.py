"""Whole transfers by plain system calls, and the engines' short writes."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from throttlefs.backing import blocking
from throttlefs.backing.buffers import address_of, new_bytes

# In a process of its own: a limit on the size of files is for life, and so is being told by
# EFBIG and not by the signal SIGXFSZ (Python ignores it).
LIMITED = """
import errno, logging, os, resource, sys
import trio
from throttlefs.backing import BackingFile, CacheMode, create_engine
from throttlefs.backing.buffers import address_of
LIMIT = 10_000
path, kind, cache = sys.argv[1], sys.argv[2], CacheMode(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
data = bytes(range(256)) * 32

async def main():
    engine = create_engine(kind, logging.getLogger())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        fd = os.open(path, os.O_RDWR | cache.open_flags)
        image = BackingFile(fd, engine, cache)

        async def from_memory(offset, data):
            return await engine.write_from(fd, offset, address_of(data), len(data))

        async def now(offset, data):
            written = image.write_now(offset, data)
            return await image.write(offset, data) if written is None else written

        for write in (image.write, now) if cache.direct else (image.write, from_memory, now):
            os.ftruncate(fd, 0)
            written = await write(5000, data)
            assert written == LIMIT - 5000, written
            assert bytes(await image.read(5000, 9999)) == data[:written]
            for offset in (LIMIT, LIMIT + 5000):
                try:
                    await write(offset, data[written:])
                except OSError as error:
                    assert error.errno == errno.EFBIG, error
                else:
                    sys.exit("wrote past the limit")
        image.close()
        nursery.cancel_scope.cancel()
    engine.close()

trio.run(main)
"""


@pytest.mark.parametrize("cache", ["writeback", "none"])
@pytest.mark.parametrize("kind", ["uring", "threads"])
def test_a_write_ends_at_the_limit_and_the_next_one_fails(
    tmp_path: Path, kind: str, cache: str
) -> None:
    path = tmp_path / "image"
    path.touch()
    done = subprocess.run(
        # -B: the limit would cut the bytecode short that an import writes.
        [sys.executable, "-B", "-c", LIMITED, path, kind, cache],
        capture_output=True,
        text=True,
        check=False,
    )
    if "io_uring cannot be used" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(range(256)) * 40)
    return path


def test_short_system_calls_are_continued(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, fd = bytearray(image.read_bytes()), os.open(image, os.O_RDWR)
    pread, pwrite, pread_c, pwrite_c = os.pread, os.pwrite, blocking._pread, blocking._pwrite
    monkeypatch.setattr(os, "pread", lambda f, size, o: pread(f, min(size, 1000), o))
    monkeypatch.setattr(os, "pwrite", lambda f, data, o: pwrite(f, data[:1000], o))
    monkeypatch.setattr(blocking, "_pread", lambda f, a, s, o: pread_c(f, a, min(s, 1000), o))
    monkeypatch.setattr(blocking, "_pwrite", lambda f, a, s, o: pwrite_c(f, a, min(s, 1000), o))
    assert blocking.read(fd, 5, 5555) == expected[5:5560]
    assert blocking.read(fd, 10_000, 5555) == expected[10_000:]
    assert blocking.read(fd, 10_240, 5555) == b""
    into = new_bytes(5555)
    assert blocking.read_into(fd, 5, address_of(into), 5555) == 5555
    assert into == expected[5:5560]
    assert blocking.read_into(fd, 10_000, address_of(into), 5555) == 240
    data = random.Random(2).randbytes(3333)
    assert blocking.write(fd, 77, data) == 3333
    assert blocking.write_from(fd, 9999, address_of(data), 3333) == 3333
    expected[77 : 77 + 3333] = data
    expected[9999:] = data
    assert image.read_bytes() == expected
    os.close(fd)


def test_interrupted_system_calls_are_repeated(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those through ctypes are not repeated by Python (PEP 475 is for its own)."""
    import ctypes

    fd, calls = os.open(image, os.O_RDWR), {"_pread": 0, "_pwrite": 0, "_sync_file_range": 0}
    for name in calls:
        real = getattr(blocking, name)

        def interrupted(*args: int, name: str = name, real: object = real) -> int:
            calls[name] += 1
            if calls[name] == 1:
                ctypes.set_errno(errno.EINTR)
                return -1
            return real(*args)  # type: ignore[operator]

        monkeypatch.setattr(blocking, name, interrupted)
    data = b"some data"
    assert blocking.write_from(fd, 0, address_of(data), len(data)) == len(data)
    into = new_bytes(len(data))
    assert blocking.read_into(fd, 0, address_of(into), len(data)) == len(data)
    assert into == data
    blocking.write_back(fd, 0, 100)
    assert calls == {"_pread": 2, "_pwrite": 2, "_sync_file_range": 2}
    os.close(fd)


@pytest.mark.parametrize("flags", [0, os.RWF_DSYNC])
def test_write_error_in_the_middle(
    image: Path, flags: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd, pwrite = os.open(image, os.O_RDWR), os.pwrite

    def full_after_1000(fd: int, data: bytes, offset: int) -> int:
        if offset >= 1000:
            raise OSError(errno.ENOSPC, "full")
        return pwrite(fd, data[: 1000 - offset], offset)

    def with_flags(fd: int, buffers: tuple[bytes], offset: int, given: int) -> int:
        assert given == flags
        return full_after_1000(fd, buffers[0], offset)

    monkeypatch.setattr(os, "pwrite", full_after_1000)
    monkeypatch.setattr(os, "pwritev", with_flags)
    data = bytes(5000)
    assert blocking.write(fd, 10, data, flags) == 990
    if flags:
        assert blocking.write_from(fd, 10, address_of(data), 5000, flags) == 990
    with pytest.raises(OSError) as caught:
        blocking.write(fd, 1000, data, flags)
    assert caught.value.errno == errno.ENOSPC
    os.close(fd)
