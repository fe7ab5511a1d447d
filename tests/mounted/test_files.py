"""The contents of files through a real mount: right data, whatever way it is written."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.failing_fs import failing_filesystem
from tests.support import Mounted, MountFactory, needs_root, wait_for

MIB = 1 << 20


def test_random_operations_match_a_model(mounted: Mounted) -> None:
    """Reads, writes, truncates, appends and reopens of random sizes, against a bytearray."""
    rng = random.Random(20111)
    path, model = mounted.path / "f", bytearray()
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    for step in range(1500):
        size = rng.choice((1, 511, 4096, 4097, 70_000, 131_072, 300_000))
        offset = rng.randrange(0, 2 * MIB)
        action = rng.random()
        if action < 0.4:
            data = rng.randbytes(size)
            assert os.pwrite(fd, data, offset) == size
            model.extend(bytes(max(0, offset + size - len(model))))
            model[offset : offset + size] = data
        elif action < 0.8:
            assert os.pread(fd, size, offset) == bytes(model[offset : offset + size]), step
        elif action < 0.88:
            os.ftruncate(fd, offset)
            model = model[:offset] + bytearray(max(0, offset - len(model)))
        elif action < 0.95:
            with open(path, "ab", buffering=0) as file:
                data = rng.randbytes(size)
                assert file.write(data) == size
            model += data
        else:
            os.close(fd)
            fd = os.open(path, os.O_RDWR)
        assert os.fstat(fd).st_size == len(model)
    os.close(fd)
    assert (mounted.source / "f").read_bytes() == bytes(model)


def test_append_goes_to_the_real_end(mounted: Mounted) -> None:
    (mounted.path / "f").write_bytes(b"one")
    with open(mounted.path / "f", "ab", buffering=0) as file:
        with open(mounted.source / "f", "ab") as below:
            below.write(b"two")
        file.write(b"three")
    assert (mounted.source / "f").read_bytes() == b"onetwothree"


def test_two_appenders_lose_nothing(mounted: Mounted) -> None:
    script = "i=0; while [ $i -lt 200 ]; do printf '%s\\n' \"$0 $i\" >> f; i=$((i+1)); done"
    writers = [subprocess.Popen(["sh", "-c", script, name], cwd=mounted.path) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    lines = (mounted.source / "f").read_text().splitlines()
    assert sorted(lines) == sorted(f"{name} {i}" for name in "ab" for i in range(200))


def test_truncate_on_open_and_create_exclusively(mounted: Mounted) -> None:
    path = mounted.path / "f"
    path.write_bytes(b"x" * 10)
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert (mounted.source / "f").stat().st_size == 0
    with pytest.raises(FileExistsError):
        os.open(path, os.O_CREAT | os.O_EXCL)


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC, os.O_DIRECT])
def test_open_flags_of_databases(mounted: Mounted, rng: random.Random, flag: int) -> None:
    fd = os.open(mounted.path / "f", os.O_RDWR | os.O_CREAT | flag)
    buffer = mmap.mmap(-1, 8192)
    buffer[:] = rng.randbytes(8192)
    assert os.pwritev(fd, [buffer], 4096) == 8192
    back = mmap.mmap(-1, 8192)
    assert os.preadv(fd, [back], 4096) == 8192
    assert back[:] == buffer[:]
    if flag != os.O_DIRECT:
        backing = backing_flags(mounted, "f")
        assert backing & flag == flag, "the backing file must be as synchronous"
    os.close(fd)


def backing_flags(mounted: Mounted, name: str) -> int:
    for fd in os.listdir(f"/proc/{mounted.pid}/fd"):
        try:
            if os.readlink(f"/proc/{mounted.pid}/fd/{fd}") != str(mounted.source / name):
                continue
            info = Path(f"/proc/{mounted.pid}/fdinfo/{fd}").read_text()
        except OSError:
            continue
        flags = int(info.split("flags:")[1].split()[0], 8)
        if not flags & os.O_PATH:
            return flags
    raise AssertionError("the daemon has no such file open")


def test_sparse_files_over_4_gib(mounted: Mounted) -> None:
    path = mounted.path / "big"
    offset = (5 << 30) + 12345
    with open(path, "w+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"far out", offset)
        assert os.pread(file.fileno(), 7, offset) == b"far out"
        assert os.pread(file.fileno(), 4096, 1 << 32) == bytes(4096)
        st = os.fstat(file.fileno())
        assert st.st_size == offset + 7
        assert st.st_blocks < 1000, "holes must stay holes"
    assert os.stat(mounted.source / "big").st_size == offset + 7


def test_an_unlinked_file_lives_until_it_is_closed(mounted: Mounted) -> None:
    with open(mounted.path / "f", "w+b", buffering=0) as file:
        file.write(b"a" * 100_000)
        os.unlink(mounted.path / "f")
        file.write(b"b")
        assert os.pread(file.fileno(), 10, 99_995) == b"aaaaab"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert os.listdir(mounted.source) == []


def test_reading_at_and_past_the_end(mounted: Mounted) -> None:
    (mounted.source / "f").write_bytes(b"12345")
    fd = os.open(mounted.path / "f", os.O_RDONLY)
    assert (os.pread(fd, 100, 3), os.pread(fd, 100, 5), os.pread(fd, 100, 99)) == (b"45", b"", b"")
    os.close(fd)


def test_locks_hold_between_programs_of_the_mount(mounted: Mounted) -> None:
    (mounted.path / "f").touch()
    with open(mounted.path / "f", "r+b") as one, open(mounted.path / "f", "r+b") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)


@needs_root("mount a small filesystem")
def test_a_full_disk_says_enospc_and_the_mount_lives_on(
    make_mount: MountFactory, tmp_path: Path
) -> None:
    source = tmp_path / "src"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", source], check=True)
    try:
        mounted = make_mount()
        with open(mounted.path / "f", "wb", buffering=0) as file:
            with pytest.raises(OSError) as info:
                fill(file)
            assert info.value.errno == errno.ENOSPC
            file.truncate(0)
            file.seek(0)
            assert file.write(b"again") == 5
        assert (mounted.source / "f").read_bytes() == b"again"
        mounted.umount()
    finally:
        subprocess.run(["umount", source], check=True)


def fill(file: BinaryIO) -> None:
    for _ in range(64):
        file.write(bytes(65536))


@needs_root("mount a filesystem read-only")
def test_a_read_only_src_says_erofs(make_mount: MountFactory, tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source], check=True)
    try:
        (source / "f").write_bytes(b"x")
        subprocess.run(["mount", "-o", "remount,ro", source], check=True)
        mounted = make_mount()
        for action in (
            lambda: open(mounted.path / "f", "r+b"),
            lambda: open(mounted.path / "new", "xb"),
            lambda: os.unlink(mounted.path / "f"),
        ):
            with pytest.raises(OSError) as info:
                action()
            assert info.value.errno == errno.EROFS
        assert (mounted.path / "f").read_bytes() == b"x"
        mounted.umount()
    finally:
        subprocess.run(["umount", source], check=True)


def test_efbig_reaches_the_program(make_mount: MountFactory, tmp_path: Path) -> None:
    mounted = make_mount()
    limit = 1 * MIB
    resource.prlimit(mounted.pid, resource.RLIMIT_FSIZE, (limit, limit))
    with open(mounted.path / "f", "wb", buffering=0) as file:
        with pytest.raises(OSError) as info:
            os.pwrite(file.fileno(), b"x", limit + 10)
        assert info.value.errno == errno.EFBIG
        assert os.pwrite(file.fileno(), b"x", 10) == 1


@pytest.fixture
def failing_source(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A SRC with a file ``f`` that fails with the errno that the second path holds."""
    with failing_filesystem(tmp_path, 1 << 20) as paths:
        yield paths


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EDQUOT, errno.ENOSPC, errno.EROFS, errno.EFBIG, errno.ETIMEDOUT]
)
@pytest.mark.parametrize("size", [4096, 300_000])
def test_errors_of_the_backing_file_reach_the_program(
    make_mount: MountFactory, failing_source: tuple[Path, Path], number: int, size: int
) -> None:
    """With its own errno, and the mount is well again once the cause is gone."""
    source, switch = failing_source
    mounted = make_mount(source=source)
    with open(mounted.path / "f", "r+b", buffering=0) as file:
        fd = file.fileno()
        assert os.pwrite(fd, b"before", 0) == 6
        switch.write_text(str(number))
        for action in (
            lambda: os.pread(fd, size, 0),
            lambda: os.pwrite(fd, bytes(size), 0),
            lambda: os.fsync(fd),
        ):
            with pytest.raises(OSError) as info:
                action()
            assert info.value.errno == number
        switch.write_text("")
        assert os.pread(fd, 6, 0) == b"before"
        assert os.pwrite(fd, b"after", 0) == 5
        os.fsync(fd)
    mounted.umount()


def test_many_files_open_at_once(mounted: Mounted) -> None:
    count = 3000
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    files = [open(mounted.path / f"f{i}", "w+b", buffering=0) for i in range(count)]
    for i, file in enumerate(files):
        file.write(b"%d" % i)
    for i, file in enumerate(files):
        assert os.pread(file.fileno(), 10, 0) == b"%d" % i
        file.close()
    wait_for(lambda: len(os.listdir(f"/proc/{mounted.pid}/fd")) < count + 100)


def test_dd_and_fio_verify_data(mounted: Mounted, tmp_path: Path, rng: random.Random) -> None:
    data = tmp_path / "data"
    data.write_bytes(rng.randbytes(20 * MIB))
    subprocess.run(
        ["dd", f"if={data}", f"of={mounted.path}/copy", "bs=1M", "oflag=direct"],
        check=True,
        capture_output=True,
    )
    subprocess.run(["cmp", data, mounted.path / "copy"], check=True)
    subprocess.run(["cmp", data, mounted.source / "copy"], check=True)
    subprocess.run(
        [
            "fio",
            "--name=verify",
            f"--filename={mounted.path}/fio",
            "--rw=randrw",
            "--bsrange=512-256k",
            "--blockalign=512",
            "--size=16M",
            "--io_size=48M",
            "--iodepth=16",
            "--ioengine=libaio",
            "--direct=1",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_backlog=64",
        ],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
