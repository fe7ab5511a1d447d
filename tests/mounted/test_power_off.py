"""The power of a mount goes off and on again: every request fails, and nothing hangs."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import throttlefs
from tests.mounted.power_worker import HIDDEN, code
from tests.support import MountFactory, needs_feature, run_throttlefs, wait_for


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "src"
    path.mkdir()
    return path


def test_every_request_fails_while_the_power_is_off_and_old_handles_for_ever(source):
    (source / "file").write_bytes(b"contents")
    with throttlefs.mounted(source, volatile=True) as disk:
        path = disk.path / "file"
        fd, directory = os.open(path, os.O_RDWR), os.open(disk.path, os.O_RDONLY)
        disk.power_cut(seed=1)
        calls: list[Callable[[], object]] = [
            lambda: os.pread(fd, 8, 0),
            lambda: os.pwrite(fd, b"x", 0),
            lambda: os.fsync(fd),
            lambda: os.ftruncate(fd, 1),
            lambda: os.lseek(fd, 0, os.SEEK_DATA),
            lambda: os.posix_fallocate(fd, 0, 10),
        ]
        names: list[Callable[[], object]] = [
            lambda: path.read_bytes(),
            lambda: (disk.path / "new").touch(),
            lambda: os.listdir(disk.path),
            lambda: os.statvfs(disk.path),
            lambda: os.listxattr(disk.path),
        ]
        assert [code(call) for call in [*calls, *names]] == ["EIO"] * 11
        assert code(os.listdir, directory) == "EIO"
        assert disk.qmp("x-throttlefs-query")["power"]["state"] == "off"
        with pytest.raises(throttlefs.ThrottlefsError, match="off already"):
            disk.power_cut()
        with pytest.raises(throttlefs.ThrottlefsError, match="throttlefs power-on"):
            disk.sync()
        disk.power_on()
        with pytest.raises(throttlefs.ThrottlefsError, match="is on"):
            disk.power_on()
        assert path.read_bytes() == b"contents"
        assert [code(call) for call in calls] == ["EIO"] * 6
        assert code(os.listdir, directory) == "EIO"
        assert code(os.close, fd) in ("EIO", "done")  # the kernel knows that the inode is dead
        os.close(directory)
        path.write_bytes(b"new contents")
        assert (source / "file").read_bytes() == b"new contents"


def test_a_mapping_from_before_is_dead_and_a_new_one_is_not(source, make_mount: MountFactory):
    (source / "file").write_bytes(bytes(8192))
    mounted = make_mount("volatile")
    needs_feature(mounted, "shared-mmap")
    program = subprocess.Popen(
        [sys.executable, "-c", MAPPING, str(mounted.path / "file")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    assert program.stdout.readline() == "mapped\n"
    assert run_throttlefs("power-cut", mounted.path).returncode == 0
    assert (source / "file").read_bytes() == bytes(8192)
    assert run_throttlefs("power-on", mounted.path).returncode == 0
    with open(mounted.path / "file", "r+b") as file, mmap.mmap(file.fileno(), 8192) as mapping:
        mapping[0:3] = b"new"
        mapping.flush()
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.wait(30) == -signal.SIGBUS
    assert (source / "file").read_bytes()[:4] == b"new\0"


MAPPING = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    mapping = mmap.mmap(file.fileno(), 8192)
    mapping[0:3] = b"old"
    print("mapped", flush=True)
    input()
    mapping[0:3] = b"bad"
"""


def waiting(disk: throttlefs.Disk) -> int:
    (image,) = disk.qmp("x-throttlefs-query")["images"]
    return sum(image["waiting"].values())


def test_what_waits_gets_eio_at_once_and_is_not_written(source):
    (source / "file").write_bytes(b"old")
    with throttlefs.mounted(source, volatile=True, iops_wr=0.01) as disk:
        path = disk.path / "file"
        results: list[str] = []

        def write() -> None:
            with open(path, "r+b", buffering=0) as file:
                results.append(code(file.write, b"new"))

        first = threading.Thread(target=write)
        first.start()
        first.join(30)
        threads = [threading.Thread(target=write) for _ in range(5)]
        for thread in threads:
            thread.start()
        with disk.fault("file", op="read", hang=True) as fault:
            reading = threading.Thread(target=lambda: results.append(code(path.read_bytes)))
            reading.start()
            wait_for(lambda: fault.waiting == 1)
            wait_for(lambda: waiting(disk) >= 5)
            disk.power_cut(seed=1)
            for thread in [*threads, reading]:
                thread.join(20)
                assert not thread.is_alive()
        assert sorted(results) == ["EIO"] * 6 + ["done"]
        assert (source / "file").read_bytes() in (b"old", b"new")


def test_a_killed_program_and_an_unmount_end_while_the_power_is_off(
    source, make_mount: MountFactory
):
    mounted = make_mount("volatile")
    program = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(mounted.path / "file")], stdout=subprocess.PIPE
    )
    assert program.stdout is not None
    program.stdout.readline()
    assert run_throttlefs("power-cut", mounted.path).returncode == 0
    program.kill()
    assert program.wait(20) == -signal.SIGKILL
    mounted.umount()
    assert not (source / HIDDEN).exists()


BUSY = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
print("open", flush=True)
while True:
    try:
        os.pwrite(fd, b"x" * 4096, 0)
    except OSError:
        pass
"""
