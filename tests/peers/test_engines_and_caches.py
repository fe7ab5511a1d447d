"""Every engine and cache mode on a real mount, with data that fio verifies."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import MountFactory, needs_root

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


@needs_root("mount a filesystem")
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


@needs_root("forbid io_uring")
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


def test_the_server_of_pyfuse3_serves_as_well(make_mount: MountFactory) -> None:
    mounted = make_mount("bps=20M,server=pyfuse3")
    fio_verify(mounted.path / "f", "--time_based", "--runtime=2")
    mounted.umount()
    assert "internal error" not in mounted.log
