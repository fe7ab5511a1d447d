"""Appends through mounts, whoever else appends to the file or cuts it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import MountFactory

CACHES = pytest.mark.parametrize(
    "options",
    [
        "cache=writeback",
        "cache=none",
        "cache=none,engine=threads",
        "cache=writethrough",
        "cache=directsync",
        "cache=unsafe",
    ],
)


@CACHES
def test_a_program_in_src_appends_in_turn(make_mount: MountFactory, options: str) -> None:
    mounted = make_mount(options)
    (mounted.source / "log").touch()
    names = mounted.path / "log", mounted.source / "log"
    with open(names[0], "ab", buffering=0) as above, open(names[1], "ab", buffering=0) as below:
        for i in range(20):
            above.write(b"above %d\n" % i)
            below.write(b"below %d\n" % i)
    expected = [b"%s %d" % (name, i) for i in range(20) for name in (b"above", b"below")]
    assert names[1].read_bytes().splitlines() == expected


@CACHES
def test_two_mounts_of_one_src(make_mount: MountFactory, tmp_path: Path, options: str) -> None:
    mounts = [make_mount(options, target=tmp_path / f"mnt{i}") for i in range(2)]
    script = "i=0; while [ $i -lt 100 ]; do printf '%s\\n' \"$0 $i\" >> f; i=$((i+1)); done"
    writers = [
        subprocess.Popen(["sh", "-c", script, str(i)], cwd=mounted.path)
        for i, mounted in enumerate(mounts)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    lines = (mounts[0].source / "f").read_text().splitlines()
    assert sorted(lines) == sorted(f"{name} {i}" for name in range(2) for i in range(100))


@CACHES
def test_a_log_that_is_rotated_by_copytruncate(make_mount: MountFactory, options: str) -> None:
    """What is appended after the cut begins at the beginning, and leaves no hole."""
    mounted = make_mount(options)
    (mounted.source / "log").touch()
    with open(mounted.path / "log", "ab", buffering=0) as log:
        log.write(b"x" * 10_000)
        os.truncate(mounted.source / "log", 0)
        log.write(b"new\n")
    assert (mounted.source / "log").read_bytes() == b"new\n"
