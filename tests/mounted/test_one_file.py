"""One file mounted on a file: an image, or a block device shown as one."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.pace import takes_less_than
from tests.support import IS_ROOT, Mounted, MountFactory, run_throttlefs
from throttlefs.host.mountinfo import mounted_at

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def disk(tmp_path: Path, rng: Random) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(rng.randbytes(4 * MIB))
    return path


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    path = tmp_path / "slow.img"
    path.touch()
    return path


def test_the_file_is_the_mount(make_mount: MountFactory, disk: Path, slow: Path) -> None:
    mounted = make_mount("bps_wr=4M", source=disk, target=slow)
    assert slow.read_bytes() == disk.read_bytes()
    assert slow.stat().st_size == 4 * MIB
    began = time.monotonic()
    with open(slow, "r+b", buffering=0) as file:
        for _ in range(5):
            file.write(bytes(256 * KIB))
    assert time.monotonic() - began > 0.22, "4 of the 5 pay 62 ms each"
    assert disk.read_bytes()[: MIB + 256 * KIB] == bytes(MIB + 256 * KIB)
    os.truncate(slow, 8 * MIB)
    assert disk.stat().st_size == 8 * MIB
    os.chmod(slow, 0o640)
    assert disk.stat().st_mode & 0o777 == 0o640
    mounted.umount()
    assert slow.read_bytes() == b""


def test_limits_by_path_match_its_name(
    make_mount: MountFactory, tmp_path: Path, disk: Path, slow: Path
) -> None:
    config = tmp_path / "limits.toml"
    config.write_text('[[image]]\npath = "disk.*"\nbps = "1M"\n')
    make_mount("", "--config", str(config), source=disk, target=slow)
    began = time.monotonic()
    with open(slow, "rb", buffering=0) as file:
        for _ in range(3):
            file.read(128 * KIB)
    assert time.monotonic() - began > 0.2, "2 of the 3 pay 0.125 s each"


def test_live_changes_mean_the_one_image(
    make_mount: MountFactory, tmp_path: Path, disk: Path, slow: Path
) -> None:
    """Its mount point, its name for the control socket, its attributes: all are the image."""
    config = tmp_path / "limits.toml"
    config.write_text('[[image]]\npath = "disk.img"\nbps = "1M"\n')
    make_mount("", "--config", str(config), source=disk, target=slow)
    with open(slow, "rb", buffering=0) as file:
        for change in ("bps=2M", "bps=3M"):
            result = run_throttlefs("set", slow, change)
            assert (result.returncode, result.stderr) == (0, "")
            assert f"disk.img: bps {int(change[4]) - 1}M -> {change[4]}M" in result.stdout
        os.setxattr(slow, "user.throttlefs.bps", b"100M")
        assert os.getxattr(slow, "user.throttlefs.bps") == b"100M"
        takes_less_than(0.5, lambda: os.pread(file.fileno(), 2 * MIB, 0))
    shown = run_throttlefs("show", slow).stdout
    assert re.search(r"disk\.img +bps=100M", shown), shown


def test_it_can_be_mounted_over_itself(make_mount: MountFactory, disk: Path) -> None:
    before = disk.read_bytes()
    mounted = make_mount("nonempty", source=disk, target=disk)
    assert disk.read_bytes() == before
    with open(disk, "r+b") as file:
        file.write(b"through the mount")
    mounted.umount()
    assert disk.read_bytes() == b"through the mount" + before[17:]


def test_a_second_mount_elsewhere(
    make_mount: MountFactory, tmp_path: Path, disk: Path, slow: Path
) -> None:
    other = tmp_path / "other.img"
    other.touch()
    make_mount(source=disk, target=slow)
    make_mount(source=disk, target=other)
    with open(slow, "r+b") as file:
        file.write(b"seen at once")
    assert other.read_bytes()[:12] == b"seen at once"


@pytest.fixture
def device(disk: Path) -> Iterator[Path]:
    if not IS_ROOT:
        pytest.skip("only root can make a loop device")
    made = subprocess.run(["losetup", "-f", "--show", disk], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    path = Path(made.stdout.strip())
    yield path
    subprocess.run(["losetup", "-d", path], check=True)


def test_a_block_device_is_shown_as_a_file(
    make_mount: MountFactory, disk: Path, slow: Path, device: Path
) -> None:
    mounted: Mounted = make_mount("bps=200M", source=device, target=slow)
    st = slow.stat()
    assert slow.is_file()
    assert (st.st_size, st.st_blocks, st.st_rdev) == (4 * MIB, 4 * MIB // 512, 0)
    assert slow.read_bytes() == disk.read_bytes()
    with open(slow, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"x" * 5000, 4 * MIB - 8192)
        assert os.pread(file.fileno(), 9000, 4 * MIB - 8192)[:5000] == b"x" * 5000
        assert file.seek(0, os.SEEK_END) == 4 * MIB
        with pytest.raises(OSError, match="No space left"):
            file.write(b"beyond the end")
        file.truncate(4 * MIB)
        with pytest.raises(OSError, match="Invalid argument"):
            file.truncate(5 * MIB)
        os.fsync(file.fileno())
    mounted.umount()
    assert device.is_block_device()
    with open(device, "rb") as file:
        file.seek(4 * MIB - 8192)
        assert file.read(5000) == b"x" * 5000


@pytest.mark.parametrize("cache", ["none", "directsync", "writethrough"])
def test_a_block_device_in_every_cache_mode(
    make_mount: MountFactory, slow: Path, device: Path, cache: str
) -> None:
    make_mount(f"cache={cache}", source=device, target=slow)
    with open(slow, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"not aligned at all", 1_000_001)
        assert os.pread(file.fileno(), 18, 1_000_001) == b"not aligned at all"
        assert os.pread(file.fileno(), 8192, 4 * MIB - 100) == os.pread(
            file.fileno(), 100, 4 * MIB - 100
        )


def test_what_cannot_be_mounted(tmp_path: Path, disk: Path, slow: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    full = tmp_path / "full"
    full.write_text("x")
    cases = [
        ([disk, tmp_path], ["SRC", "one image", "DST", "not a regular file", "touch"]),
        ([tmp_path, slow], ["SRC", "a directory", "DST", "not a directory", "mkdir"]),
        ([fifo, slow], ["SRC", "neither"]),
        ([disk, fifo], ["DST", "not a regular file"]),
        ([disk, tmp_path / "no"], ["DST", "does not exist", "touch"]),
        ([disk, full], ["DST", "not empty", "nonempty"]),
        ([disk, disk], ["itself", "nonempty"]),
    ]
    for paths, words in cases:
        result = run_throttlefs("mount", *paths)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1, result.stderr
        for word in words:
            assert word in result.stderr
        assert mounted_at(os.fsencode(paths[1])) is None


@pytest.mark.parametrize("by", ["rename", "unlink"])
def test_a_source_that_is_replaced_is_not_written_to_in_silence(
    make_mount: MountFactory, tmp_path: Path, by: str
) -> None:
    """As ``qemu-img convert ... new.img && mv new.img disk.img`` does."""
    source, target = tmp_path / "disk.img", tmp_path / "slow.img"
    source.write_bytes(b"old")
    target.touch()
    mounted = make_mount(source=source, target=target)
    assert target.read_bytes() == b"old"
    if by == "rename":
        (tmp_path / "new.img").write_bytes(b"new")
        os.rename(tmp_path / "new.img", source)
    else:
        os.unlink(source)
    for flags in (os.O_RDONLY, os.O_RDWR):
        with pytest.raises(OSError, match="Stale"):
            os.open(target, flags)
    assert mounted.log.count("was replaced or removed") == 1
    assert str(source) in mounted.log
    if by == "rename":
        assert source.read_bytes() == b"new"
    mounted.umount()
