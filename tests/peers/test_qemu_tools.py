"""qemu-img, qemu-nbd and qemu-io on images in a mount: they work, and are held to its limits."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pace import takes
from tests.support import Mounted, MountFactory, wait_for

KIB, MIB = 1 << 10, 1 << 20


def run(*command: object, status: int = 0) -> str:
    result = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == status, result.stdout
    return result.stdout


def raw_image(path: Path, mebibytes: int = 4) -> Path:
    """Random data with a hole behind it."""
    with open(path, "wb") as file:
        file.write(random.Random(path.name).randbytes(mebibytes * MIB))
        file.truncate(2 * mebibytes * MIB)
    return path


def test_the_life_of_an_image(make_mount: MountFactory, tmp_path: Path) -> None:
    """create, convert, resize, snapshot, overlay, commit, compare, check: all through the mount."""
    mounted = make_mount("bps=500M")
    raw = raw_image(tmp_path / "raw")
    image, overlay = mounted.path / "image.qcow2", mounted.path / "overlay.qcow2"
    run("qemu-img", "convert", "-O", "qcow2", raw, image)
    assert "identical" in run("qemu-img", "compare", raw, image)
    run("qemu-img", "snapshot", "-c", "before", image)
    run("qemu-io", "-c", "write -P 7 1M 1M", image)
    run("qemu-img", "compare", raw, image, status=1)
    run("qemu-img", "snapshot", "-a", "before", image)
    assert "identical" in run("qemu-img", "compare", raw, image)
    run("qemu-img", "snapshot", "-d", "before", image)
    run("qemu-img", "resize", image, "+8M")
    assert "16 MiB" in run("qemu-img", "info", image)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "image.qcow2", "-F", "qcow2", overlay)
    run("qemu-io", "-c", "write -P 9 2M 64k", overlay)
    run("qemu-img", "commit", "-q", overlay)
    run("qemu-io", "-c", "read -P 9 2M 64k", image)
    for path in (image, overlay):
        assert "No errors were found" in run("qemu-img", "check", path)
    mounted.umount()
    assert "No errors were found" in run("qemu-img", "check", mounted.source / "image.qcow2")


def test_raw_images_and_preallocation(make_mount: MountFactory) -> None:
    """Sparse, allocated by fallocate(2) alone, and filled with zeroes."""
    mounted = make_mount()
    run("qemu-img", "create", "-q", "-f", "raw", mounted.path / "sparse", "1G")
    # QEMU writes a first block to find out the alignment.
    assert (mounted.source / "sparse").stat().st_blocks * 512 <= 64 * KIB
    run("qemu-img", "resize", "-q", "--shrink", "-f", "raw", mounted.path / "sparse", "1M")
    assert (mounted.source / "sparse").stat().st_size == MIB
    allocated = mounted.path / "allocated"
    run("qemu-img", "create", "-q", "-f", "raw", "-o", "preallocation=falloc", allocated, "4M")
    assert (mounted.source / "allocated").stat().st_blocks * 512 >= 4 * MIB
    full = mounted.path / "full"
    run("qemu-img", "create", "-q", "-f", "raw", "-o", "preallocation=full", full, "4M")
    assert (mounted.source / "full").stat().st_blocks * 512 >= 4 * MIB


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def drive(path: Path, image_format: str, **options: str) -> str:
    """The image as QEMU's tools and guests open it with *options* of ``-drive``."""
    values = {"driver": image_format, "file.filename": str(path), **options}
    return ",".join(f"{name}={value}" for name, value in values.items())


@pytest.mark.parametrize(
    ("image_format", "cache"), [("raw", "none"), ("raw", "writeback"), ("qcow2", "writeback")]
)
def test_discards_and_zeroes_of_qemu_free_space(
    make_mount: MountFactory, image_format: str, cache: str
) -> None:
    mounted = make_mount(f"cache={cache}")
    image = mounted.path / "disk"
    run("qemu-img", "create", "-q", "-f", image_format, image, "16M")
    source = mounted.source / "disk"
    discards = drive(image, image_format, discard="unmap")
    zeroes = drive(image, image_format, discard="unmap", **{"detect-zeroes": "unmap"})
    run("qemu-io", "--image-opts", discards, "-c", "write -P 5 0 12M", "-c", "flush")
    full = blocks(source)
    assert full >= 12 * MIB
    run("qemu-io", "--image-opts", discards, "-c", "discard 0 4M", "-c", "flush")
    assert blocks(source) <= full - 4 * MIB + 256 * KIB
    run("qemu-io", "--image-opts", discards, "-c", "write -z -u 4M 4M", "-c", "flush")
    assert blocks(source) <= full - 8 * MIB + 256 * KIB
    run("qemu-io", "--image-opts", zeroes, "-c", "write -P 0 8M 2M", "-c", "flush")
    assert blocks(source) <= full - 10 * MIB + 256 * KIB
    for part in ("read -P 0 0 10M", "read -P 5 10M 2M", "read -P 0 12M 4M"):
        run("qemu-io", "--image-opts", discards, "-c", part)


def test_copies_stay_sparse(mounted: Mounted, tmp_path: Path) -> None:
    raw = raw_image(mounted.source / "disk")
    full = mounted.path / "full"
    full.write_bytes(raw.read_bytes())
    assert blocks(mounted.source / "full") >= 8 * MIB
    run("cp", "--sparse=auto", mounted.path / "disk", mounted.path / "found")
    run("cp", "--sparse=always", full, mounted.path / "made")
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", "-S", "4k", full, mounted.path / "image")
    for name in ("found", "made", "image"):
        assert blocks(mounted.source / name) <= 4 * MIB + 64 * KIB
        assert (mounted.source / name).read_bytes() == raw.read_bytes()


def test_convert_is_held_to_the_limit(make_mount: MountFactory, tmp_path: Path) -> None:
    mounted = make_mount("bps_wr=4M")
    raw = raw_image(tmp_path / "raw")
    began = time.monotonic()
    run("qemu-img", "convert", "-O", "raw", raw, mounted.path / "copy")
    assert time.monotonic() - began > 0.4, "4 MiB less the last request, of 2 MiB at most"
    assert "identical" in run("qemu-img", "compare", raw, mounted.source / "copy")


@pytest.mark.parametrize("aio", ["threads", "native", "io_uring"])
def test_bench_is_held_to_the_limit(make_mount: MountFactory, aio: str) -> None:
    mounted = make_mount("iops=200")
    raw_image(mounted.source / "disk")
    bench = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-i", aio]
    bench += ["-c", 160, "-d", 8, "-s", 4096, mounted.path / "disk"]
    takes(0.8, lambda: run(*bench), rel=0.5)


def test_a_locked_image_is_reported_by_qemu_itself(make_mount: MountFactory) -> None:
    """Locks work among the programs that use the mount."""
    mounted = make_mount()
    raw_image(mounted.source / "disk")
    image = mounted.path / "disk"
    machine = [
        *("qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-machine", "accel=tcg"),
        *("-drive", f"file={image},format=raw,if=virtio"),
    ]
    with subprocess.Popen(machine) as guest:
        try:
            wait_for(lambda: _is_locked(mounted), 30)
            said = run("qemu-io", "-f", "raw", "-c", "write 0 4k", image, status=1)
            assert 'Failed to get "write" lock' in said
        finally:
            guest.kill()
    run("qemu-io", "-f", "raw", "-c", "write 0 4k", image)


def _is_locked(mounted: Mounted) -> bool:
    """Whether the machine has its disk: of QEMU's lock bytes 100 is reading, 101 is writing."""
    device = f" {mounted.entry.major:02x}:{mounted.entry.minor:02x}:"
    lines = Path("/proc/locks").read_text().splitlines()
    return any(device in line and line.endswith(" 100 101") for line in lines)


def test_qemu_nbd_serves_what_it_reads_under_the_limit(make_mount: MountFactory) -> None:
    mounted = make_mount("bps_rd=4M")
    raw = raw_image(mounted.source / "disk")
    with nbd_server(mounted) as address:
        began = time.monotonic()
        run("qemu-img", "convert", "-O", "raw", address, mounted.source.parent / "copy")
        # The hole behind the data is told of, and not read.
        assert time.monotonic() - began > 0.6, "4 MiB at 4 MiB/s, less the last request"
    assert raw.read_bytes() == (mounted.source.parent / "copy").read_bytes()


@contextmanager
def nbd_server(mounted: Mounted) -> Iterator[str]:
    """qemu-nbd on the image "disk" of the mount; gives the address for other tools."""
    socket = mounted.source.parent / "nbd.sock"
    with subprocess.Popen(
        ["qemu-nbd", "-f", "raw", "-k", socket, "-t", "--cache=none", mounted.path / "disk"]
    ) as process:
        try:
            wait_for(socket.exists)
            yield f"nbd+unix:///?socket={socket}"
        finally:
            process.terminate()
