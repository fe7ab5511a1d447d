"""Discards, allocations, holes and copies through a mount; writes side by side."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support import Mounted, MountFactory, needs_feature, run_throttlefs

MIB = 1 << 20
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, COLLAPSE = 1, 2, 16, 8


def fallocate(path: Path, *options: str) -> int:
    return subprocess.run(
        ["fallocate", *options, path], check=False, stderr=subprocess.PIPE, timeout=60
    ).returncode


def blocks(path: Path) -> int:
    return os.stat(path).st_blocks * 512


@pytest.mark.parametrize("options", ["", "cache=none", "engine=threads", "bps=100M"])
def test_a_discard_frees_space_in_src(make_mount: MountFactory, options: str) -> None:
    mounted = make_mount(options)
    image = mounted.source / "disk"
    image.write_bytes(b"x" * (8 * MIB))
    os.sync()
    before = blocks(image)
    shown = mounted.path / "disk"
    assert fallocate(shown, "--punch-hole", "--offset=1M", "--length=4M") == 0
    assert blocks(image) <= before - 3 * MIB
    data = image.read_bytes()
    assert data == b"x" * MIB + bytes(4 * MIB) + b"x" * (3 * MIB)
    assert fallocate(shown, "--zero-range", "--offset=0", "--length=1M") == 0
    assert image.read_bytes()[: 5 * MIB] == bytes(5 * MIB)
    assert fallocate(shown, "--keep-size", "--offset=16M", "--length=1M") == 0
    assert image.stat().st_size == 8 * MIB
    assert fallocate(shown, "--offset=8M", "--length=2M") == 0
    assert image.stat().st_size == shown.stat().st_size == 10 * MIB
    assert fallocate(shown, "--collapse-range", "--offset=0", "--length=1M") != 0
    assert image.stat().st_size == 10 * MIB


def test_a_discard_is_one_write_request_and_no_bytes(make_mount: MountFactory) -> None:
    mounted = make_mount("bps=100K,iops_wr=10")
    image = mounted.source / "disk"
    with open(image, "wb") as file:
        file.truncate(1 << 30)
    began = time.monotonic()
    fd = os.open(mounted.path / "disk", os.O_RDWR)
    for number in range(11):
        os.posix_fallocate(fd, number * MIB, MIB)
    os.close(fd)
    took = time.monotonic() - began
    assert 0.9 < took < 30  # ten intervals of 0.1 s; by bytes it would be 110 s


def test_a_discard_may_cost_its_bytes(make_mount: MountFactory) -> None:
    """As in QEMU, with discard=bytes: what is discarded or zeroed, and not what is allocated."""
    mounted = make_mount("bps=4M,discard=bytes")
    shown = mounted.path / "disk"
    (mounted.source / "disk").write_bytes(b"x" * (8 * MIB))
    began = time.monotonic()
    assert fallocate(shown, "--offset=8M", "--length=100M") == 0
    os.truncate(shown, 8 * MIB)
    # What is behind the end is free.
    assert fallocate(shown, "--punch-hole", "--offset=0", "--length=1T") == 0
    assert fallocate(shown, "--zero-range", "--offset=0", "--length=4M") == 0
    assert fallocate(shown, "--punch-hole", "--offset=0", "--length=1") == 0
    took = time.monotonic() - began
    assert 2.9 < took < 60  # 12 MiB are paid for
    lines = run_throttlefs("stats", "--json", mounted.path).stdout.splitlines()
    assert json.loads(lines[0])["write"]["requests"] == 4


def test_a_filesystem_that_cannot_says_so(make_mount: MountFactory) -> None:
    mounted = make_mount()
    (mounted.source / "f").write_bytes(b"x")
    fd = os.open(mounted.path / "f", os.O_RDONLY)
    try:
        with pytest.raises(OSError) as caught:
            os.posix_fallocate(fd, 0, 10)
        assert caught.value.errno == errno.EBADF
    finally:
        os.close(fd)


def holes(path: Path) -> list[tuple[int, int]]:
    """Where data begin and end."""
    found = []
    with open(path, "rb") as file:
        fd, at = file.fileno(), 0
        while True:
            try:
                begin = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as exc:
                assert exc.errno == errno.ENXIO  # noqa: PT017
                return found
            at = os.lseek(fd, begin, os.SEEK_HOLE)
            found.append((begin, at))


def sparse(path: Path, seed: int) -> None:
    pick = random.Random(seed)
    with open(path, "wb") as file:
        for _ in range(pick.randrange(1, 12)):
            file.seek(pick.randrange(64) * 65_536)
            file.write(pick.randbytes(pick.choice([1, 4096, 65_536])))
        file.truncate(5 * MIB)


def test_holes_are_where_they_are_in_src(mounted: Mounted) -> None:
    for seed in range(20):
        sparse(mounted.source / f"{seed}", seed)
        assert holes(mounted.path / f"{seed}") == holes(mounted.source / f"{seed}")


def test_qemu_sees_the_same_map(mounted: Mounted) -> None:
    for seed in range(10):
        sparse(mounted.source / f"{seed}", 100 + seed)
        maps = [
            json.loads(
                subprocess.run(
                    ["qemu-img", "map", "-f", "raw", "--output=json", directory / f"{seed}"],
                    check=True,
                    capture_output=True,
                ).stdout
            )
            for directory in (mounted.path, mounted.source)
        ]
        assert maps[0] == maps[1]


@pytest.mark.parametrize("options", ["", "cache=none", "bps=200M"])
def test_copies_arrive(make_mount: MountFactory, options: str) -> None:
    mounted = make_mount(options)
    data = random.Random(7).randbytes(3 * MIB + 17)
    (mounted.source / "from").write_bytes(data)
    with open(mounted.path / "from", "rb") as one, open(mounted.path / "to", "wb") as two:
        at = 0
        while at < len(data):
            copied = os.copy_file_range(one.fileno(), two.fileno(), len(data) - at, at, at)
            assert copied > 0
            at += copied
    assert (mounted.source / "to").read_bytes() == data


def test_a_copy_is_paid_for_by_both(make_mount: MountFactory) -> None:
    """In pieces of 1 MiB, for the kernel holds the target's lock until each is answered."""
    mounted = make_mount("bps_rd=4M")
    (mounted.source / "from").write_bytes(bytes(9 * MIB))
    began = time.monotonic()
    with open(mounted.path / "from", "rb") as one, open(mounted.path / "to", "wb") as two:
        for _ in range(9):
            assert os.copy_file_range(one.fileno(), two.fileno(), 100 * MIB) == MIB
        assert os.copy_file_range(one.fileno(), two.fileno(), 100 * MIB) == 0
    took = time.monotonic() - began
    assert 1.9 < took < 60
    lines = run_throttlefs("stats", "--json", mounted.path).stdout.splitlines()
    counts = {image["device"]: image for image in map(json.loads, lines)}
    assert counts["from"]["read"]["bytes"] == counts["to"]["write"]["bytes"] == 9 * MIB
    assert counts["from"]["write"]["bytes"] == counts["to"]["read"]["bytes"] == 0
    assert (mounted.source / "to").stat().st_size == 9 * MIB


def test_writes_of_one_file_go_side_by_side(make_mount: MountFactory) -> None:
    """While one write waits for its limit, another one of the same file waits as well."""
    mounted = make_mount("iops_wr=0.01")
    needs_feature(mounted, "parallel-writes")
    (mounted.source / "f").write_bytes(bytes(64 * 4096))
    fd = os.open(mounted.path / "f", os.O_WRONLY)
    threads = [
        threading.Thread(target=os.pwrite, args=(fd, bytes([number]) * 4096, number * 4096))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    most = 0
    while most < 5 and time.monotonic() < deadline:
        shown = json.loads(run_throttlefs("show", "--json", mounted.path).stdout)
        most = max(most, *(sum(image["waiting"].values()) for image in shown["images"]), 0)
    assert most >= 5
    assert run_throttlefs("set", mounted.path / "f", "off").returncode == 0
    for thread in threads:
        thread.join(60)
    os.close(fd)
    expected = b"".join(bytes([number]) * 4096 for number in range(8))
    assert (mounted.source / "f").read_bytes()[: len(expected)] == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a filesystem of its own")
def test_an_allocation_leaves_roots_reserve_alone(make_mount: MountFactory, tmp_path: Path) -> None:
    """A user's fallocate(2) gets ENOSPC where it does natively."""
    image, source = tmp_path / "ext4.img", tmp_path / "src"
    source.mkdir()
    with open(image, "wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "30", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, source], check=True)
    try:
        mounted = make_mount("allow_other", source=source)
        os.chmod(source, 0o777)
        sizes = []
        for directory in (source, mounted.path):
            script = (
                "import os, sys\n"
                "os.setgid(65534); os.setuid(65534)\n"
                "fd = os.open('f', os.O_RDWR | os.O_CREAT)\n"
                "n = 0\n"
                "try:\n"
                "    while True: os.posix_fallocate(fd, n << 20, 1 << 20); n += 1\n"
                "except OSError as exc: print(n, exc.errno)\n"
            )
            result = subprocess.run(
                [sys.executable, "-c", script], cwd=directory, capture_output=True, text=True,
                check=True,
            )  # fmt: skip
            sizes.append(result.stdout)
            os.unlink(source / "f")
        assert sizes[0].split()[1] == sizes[1].split()[1] == str(errno.ENOSPC)
        assert abs(int(sizes[0].split()[0]) - int(sizes[1].split()[0])) <= 1
        mounted.umount()
    finally:
        subprocess.run(["umount", "-l", source], check=False)


@pytest.mark.skipif(
    tuple(map(int, os.uname().release.split(".")[:2])) < (6, 1),
    reason="the kernel has no O_TMPFILE for FUSE (before Linux 6.1)",
)
@pytest.mark.parametrize("options", ["", "cache=none"])
def test_a_file_without_a_name(make_mount: MountFactory, options: str) -> None:
    mounted = make_mount(options)
    fd = os.open(mounted.path, os.O_TMPFILE | os.O_RDWR, 0o640)
    assert os.write(fd, b"unnamed") == 7
    assert os.fstat(fd).st_nlink == 0
    assert os.listdir(mounted.source) == []
    top = os.open(mounted.path, os.O_PATH)
    # By linkat(2), which follows the magic link; Python takes link(2) without the directories.
    os.link(f"/proc/self/fd/{fd}", "named", src_dir_fd=top, dst_dir_fd=top)
    os.close(top)
    assert (mounted.source / "named").read_bytes() == b"unnamed"
    assert (mounted.source / "named").stat().st_mode & 0o777 == 0o640
    os.close(fd)
    fd = os.open(mounted.path, os.O_TMPFILE | os.O_RDWR | os.O_EXCL)
    os.write(fd, b"never seen")
    os.close(fd)
    assert os.listdir(mounted.path) == ["named"]
    mounted.umount()
