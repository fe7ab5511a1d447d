"""Flags of single writes: what fcntl(2) has changed since, and what pwritev2(2) asks for."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from tests.support import MountFactory

CACHES = pytest.mark.parametrize(
    "options", ["cache=writeback", "cache=none", "cache=directsync,engine=threads", "auto_cache"]
)


def set_append(fd: int, on: bool) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_APPEND if on else flags & ~os.O_APPEND)


@CACHES
@pytest.mark.parametrize("opened", [os.O_APPEND, 0])
def test_o_append_is_what_it_is_at_each_write(
    make_mount: MountFactory, options: str, opened: int
) -> None:
    mounted = make_mount(options)
    path = mounted.path / "f"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDWR | opened)
    try:
        set_append(fd, False)
        assert os.pwrite(fd, b"X", 0) == 1
        assert (mounted.source / "f").read_bytes() == b"X123456789"
        set_append(fd, True)
        assert os.write(fd, b"end") == 3
        (mounted.source / "f").open("ab").write(b" of SRC")
        if options != "auto_cache":  # there the kernel goes by the size that it remembers
            assert os.write(fd, b", of the mount") == 14
            assert (mounted.source / "f").read_bytes() == b"X123456789end of SRC, of the mount"
        set_append(fd, False)
        assert os.pwrite(fd, b"Y", 1) == 1
        assert (mounted.source / "f").read_bytes().startswith(b"XY23456789end")
    finally:
        os.close(fd)


def traced_flags(pid: int, tmp_path: Path, work: str, path: Path) -> str:
    """What strace says of the daemon's calls while *work* is done with ``fd``."""
    log = tmp_path / "trace"
    tracer = subprocess.Popen(
        [
            "strace",
            "-f",
            "-p",
            str(pid),
            "-e",
            "trace=pwritev2,pwrite64,fsync,fdatasync",
            "-o",
            log,
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        script = f"import os, sys; fd = os.open({str(path)!r}, os.O_RDWR); {work}"
        subprocess.run(["python3", "-c", script], check=True, timeout=60)
    finally:
        tracer.terminate()
        tracer.communicate()
    return log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="strace of another process needs root")
@pytest.mark.parametrize(
    ("work", "expected"),
    [
        ("os.pwritev(fd, [b'x'], 0, os.RWF_DSYNC)", "RWF_DSYNC"),
        ("os.pwritev(fd, [b'x'], 0, os.RWF_SYNC)", "RWF_SYNC"),
        ("os.pwrite(fd, b'x', 0)", ""),
    ],
)
def test_a_write_that_is_to_be_durable_reaches_src_so(
    make_mount: MountFactory, tmp_path: Path, work: str, expected: str
) -> None:
    mounted = make_mount("engine=threads")
    (mounted.path / "f").write_bytes(b"0123456789")
    trace = traced_flags(mounted.pid, tmp_path, work, mounted.path / "f")
    assert "pwrite" in trace
    if expected:
        assert expected in trace
    else:
        assert "RWF" not in trace
        assert "sync" not in trace
