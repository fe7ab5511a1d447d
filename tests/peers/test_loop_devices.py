"""Loop devices on throttled images: filesystems on them live through load and check clean."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pace import takes
from tests.support import MountFactory

MIB = 1 << 20
SECONDS = 1.5

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/loop-control"),
    reason="loop devices are for root",
)

CHECKS = {"ext4": ["e2fsck", "-fn"], "xfs": ["xfs_repair", "-n"]}
ENVIRONMENT = {**os.environ, "PATH": f"/usr/sbin:/sbin:{os.environ['PATH']}"}


def run(*command: object) -> str:
    result = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=False,
        env=ENVIRONMENT,
    )
    assert result.returncode == 0, f"{command}: {result.stdout}"
    return result.stdout


@contextmanager
def loop_device(image: Path, direct: bool) -> Iterator[Path]:
    device = Path(run("losetup", "-f", "--show", f"--direct-io={_on(direct)}", image).strip())
    try:
        state = Path("/sys/block") / device.name / "loop" / "dio"
        assert state.read_text().strip() == str(int(direct))
        yield device
    finally:
        run("losetup", "-d", device)


def _on(flag: bool) -> str:
    return "on" if flag else "off"


@contextmanager
def mounted_filesystem(device: Path, point: Path, fstype: str) -> Iterator[None]:
    point.mkdir()
    run("mount", "-t", fstype, device, point)
    try:
        yield
    finally:
        run("umount", point)


class Churn:
    """Several threads that make, change, rename and remove files, and know what is in them."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory = directory / f"churn{seed}"
        self._directory.mkdir()
        self._random = random.Random(seed)
        self.digests: dict[Path, str] = {}
        self.steps = 0

    def run(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._step()
            self.steps += 1

    def _step(self) -> None:
        action = self._random.choice(("write", "write", "write", "truncate", "rename", "unlink"))
        known = list(self.digests)
        path = self._directory / f"file{self._random.randrange(40)}"
        if action == "write" or not known:
            data = self._random.randbytes(self._random.randrange(1, 200_000))
            with open(path, "wb") as file:
                file.write(data)
                if self._random.random() < 0.2:
                    os.fsync(file.fileno())
            self.digests[path] = _digest(data)
            return
        old = self._random.choice(known)
        if action == "rename":
            os.rename(old, path)
            self.digests[path] = self.digests.pop(old)
        elif action == "truncate":
            os.truncate(old, self._random.randrange(100_000))
            self.digests[old] = _digest(old.read_bytes())
        else:
            os.unlink(old)
            del self.digests[old]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("fstype", "direct"), [("ext4", False), ("ext4", True), ("xfs", False), ("xfs", True)]
)
def test_a_filesystem_under_load_checks_clean(
    make_mount: MountFactory, tmp_path: Path, fstype: str, direct: bool
) -> None:
    if fstype not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel has no {fstype}")
    mounted = make_mount("bps=100M,iops=5000")
    image = mounted.path / "disk.img"
    with open(mounted.source / "disk.img", "wb") as file:
        file.truncate(320 * MIB)  # the least that XFS takes is 300
    churns = []
    with loop_device(image, direct) as device:
        run(f"mkfs.{fstype}", "-q", device)
        with mounted_filesystem(device, tmp_path / "fs", fstype):
            churns = [Churn(tmp_path / "fs", seed) for seed in range(3)]
            threads = [threading.Thread(target=churn.run, args=(SECONDS,)) for churn in churns]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    mounted.umount()
    assert sum(churn.steps for churn in churns) > 30
    run(*CHECKS[fstype], mounted.source / "disk.img")
    again = tmp_path / "fs"
    again.rmdir()
    with (
        loop_device(mounted.source / "disk.img", False) as device,
        mounted_filesystem(device, again, fstype),
    ):
        for churn in churns:
            for path, digest in churn.digests.items():
                assert _digest(path.read_bytes()) == digest, path


@pytest.mark.parametrize("direct", [False, True])
def test_a_loop_device_is_held_to_the_limit(make_mount: MountFactory, direct: bool) -> None:
    mounted = make_mount("bps=4M")
    with open(mounted.source / "disk.img", "wb") as file:
        file.truncate(16 * MIB)
    with loop_device(mounted.path / "disk.img", direct) as device:
        write = ["dd", "if=/dev/zero", f"of={device}", "bs=256k", "count=16", "oflag=direct"]
        takes(1.0, lambda: run(*write))


def test_fstrim_frees_space_in_src(make_mount: MountFactory, tmp_path: Path) -> None:
    """It costs a request for each piece, and no bytes."""
    mounted = make_mount("bps=50M")
    source = mounted.source / "disk.img"
    with open(source, "wb") as file:
        file.truncate(64 * MIB)
    with loop_device(mounted.path / "disk.img", True) as device:
        run("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0", device)
        with mounted_filesystem(device, tmp_path / "fs", "ext4"):
            (tmp_path / "fs" / "file").write_bytes(b"x" * (24 * MIB))
            os.sync()
            before = source.stat().st_blocks * 512
            os.unlink(tmp_path / "fs" / "file")
            os.sync()
            run("fstrim", tmp_path / "fs")
            assert source.stat().st_blocks * 512 <= before - 23 * MIB
    run("e2fsck", "-fn", source)
