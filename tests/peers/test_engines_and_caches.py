"""Every engine and cache mode on a real mount, with data that fio verifies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import MountFactory, clear_away

CACHES = ["writeback", "none", "writethrough", "directsync", "unsafe"]


def fio_verify(path: Path, *more: str) -> None:
    subprocess.run(
        [
            "fio",
            "--name=verify",
            f"--filename={path}",
            "--rw=randrw",
            "--bsrange=512-160k",
            "--blockalign=512",
            "--size=8M",
            "--iodepth=16",
            "--ioengine=libaio",
            "--direct=1",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_backlog=64",
            *more,
        ],
        check=True,
        capture_output=True,
        cwd=path.parents[1],
        timeout=100,
    )


@pytest.mark.parametrize("engine", ["uring", "threads"])
@pytest.mark.parametrize("cache", CACHES)
def test_data_is_right(make_mount: MountFactory, engine: str, cache: str) -> None:
    mounted = make_mount(f"engine={engine},cache={cache},bps=500M")
    assert {"uring": "io_uring", "threads": "threads"}[engine] in mounted.log
    fio_verify(mounted.path / "f")
    # ... and unaligned, buffered by nobody, from a program that knows nothing of blocks.
    with open(mounted.path / "odd", "w+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"a" * 10_001, 3)
        os.pwrite(file.fileno(), b"b" * 777, 5_000)
        file.flush()
        os.fsync(file.fileno())
        expected = bytes(3) + b"a" * 4_997 + b"b" * 777 + b"a" * 4_227
        assert os.pread(file.fileno(), 20_000, 0) == expected
    assert (mounted.source / "odd").read_bytes() == expected
    assert "internal error" not in mounted.log


def test_a_filesystem_in_memory(make_mount: MountFactory, tmp_path: Path) -> None:
    """tmpfs knows neither RWF_NOWAIT nor, on older kernels, O_DIRECT."""
    source = tmp_path / "src"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64M", "tmpfs", source], check=True)
    try:
        for number, cache in enumerate(("writeback", "none")):
            mounted = make_mount(f"cache={cache}", target=tmp_path / f"mnt{number}")
            fio_verify(mounted.path / f"f{number}")
            mounted.umount()
    finally:
        subprocess.run(["umount", source], check=True)


def test_where_io_uring_is_forbidden_threads_take_over(make_mount: MountFactory) -> None:
    sysctl = Path("/proc/sys/kernel/io_uring_disabled")
    if not sysctl.exists():
        pytest.skip("this kernel cannot forbid io_uring by sysctl (it came with Linux 6.6)")
    before = sysctl.read_text()
    sysctl.write_text("2")
    try:
        mounted = make_mount()
        assert "through threads, which cost more: io_uring is forbidden" in mounted.log
        fio_verify(mounted.path / "f")
    finally:
        sysctl.write_text(before)


def test_the_plain_loop_of_pyfuse3_serves_as_well(tmp_path: Path) -> None:
    """What happens should a later pyfuse3 no longer let its loop be replaced."""
    source, target, log = tmp_path / "src", tmp_path / "mnt", tmp_path / "log"
    source.mkdir()
    target.mkdir()
    script = (
        "import throttlefs.daemon.mount as mount; mount.seam_is_there = lambda: False;"
        "from throttlefs.cli.main import main; main()"
    )
    command = ["mount", source, target, "-o", "bps=20M", "--log-file", log]
    try:
        subprocess.run([sys.executable, "-c", script, *command], check=True, timeout=30)
        assert "using its own session loop" in log.read_text()
        fio_verify(target / "f", "--time_based", "--runtime=2")
        subprocess.run([sys.executable, "-m", "throttlefs", "umount", target], check=True)
    finally:
        clear_away(target)
    assert "internal error" not in log.read_text()
