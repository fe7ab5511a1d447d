"""Fault rules for each operation: its request fails with the errno of the rule."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import rules_of
from tests.support import MountFactory
from throttlefs.host import syscalls
from throttlefs.settings.fault_words import OP_HELP

PUNCH = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


def with_fd(path: Path, flags: int, act: Callable[[int], object]) -> None:
    fd = os.open(path, flags)
    try:
        act(fd)
    finally:
        os.close(fd)


def fsync_of(path: Path, flags: int = os.O_RDWR) -> None:
    with_fd(path, flags, os.fsync)


ACTIONS: list[tuple[str, Callable[[Path], object]]] = [
    ("read", lambda d: (d / "file").read_bytes()),
    ("write", lambda d: with_fd(d / "file", os.O_WRONLY, lambda fd: os.pwrite(fd, b"x", 0))),
    ("flush", lambda d: fsync_of(d / "file")),
    ("flush", lambda d: with_fd(d / "file", os.O_RDWR, os.fdatasync)),
    ("flush", lambda d: fsync_of(d, os.O_RDONLY)),
    (
        "flush",
        lambda d: with_fd(d / "file", os.O_RDWR | os.O_DSYNC, lambda fd: os.pwrite(fd, b"x", 0)),
    ),
    (
        "discard",
        lambda d: with_fd(d / "file", os.O_RDWR, lambda fd: syscalls.fallocate(fd, PUNCH, 0, 4096)),
    ),
    (
        "allocate",
        lambda d: with_fd(d / "file", os.O_RDWR, lambda fd: os.posix_fallocate(fd, 0, 8192)),
    ),
    ("open", lambda d: os.close(os.open(d / "file", os.O_RDONLY))),
    ("create", lambda d: os.close(os.open(d / "new", os.O_CREAT | os.O_EXCL | os.O_RDWR))),
    ("create", lambda d: os.mkfifo(d / "fifo")),
    ("create", lambda d: os.close(os.open(d, os.O_TMPFILE | os.O_RDWR))),
    ("rename", lambda d: os.rename(d / "file", d / "file2")),
    ("rename", lambda d: os.rename(d / "file2", d / "file")),
    ("link", lambda d: os.link(d / "file", d / "link")),
    ("unlink", lambda d: os.unlink(d / "link")),
    ("truncate", lambda d: os.truncate(d / "file", 100)),
    ("truncate", lambda d: os.close(os.open(d / "file", os.O_RDWR | os.O_TRUNC))),
    ("mkdir", lambda d: os.mkdir(d / "dir")),
    ("rmdir", lambda d: os.rmdir(d / "dir")),
    ("symlink", lambda d: os.symlink("target", d / "sym")),
    ("readlink", lambda d: os.readlink(d / "sym")),
    ("setattr", lambda d: os.chmod(d / "file", 0o600)),
    ("setattr", lambda d: os.utime(d / "file")),
    ("getattr", lambda d: os.stat(d / "file")),
    ("setxattr", lambda d: os.setxattr(d / "file", "user.x", b"1")),
    ("getxattr", lambda d: os.getxattr(d / "file", "user.x")),
    ("getxattr", lambda d: os.listxattr(d / "file")),
    ("setxattr", lambda d: os.removexattr(d / "file", "user.x")),
    ("lookup", lambda d: os.stat(d / "file")),
    ("opendir", lambda d: os.listdir(d)),
    ("list", lambda d: os.listdir(d)),
]

ONLY_OWN = ("discard", "allocate")
"""What pyfuse3's server has no handler for."""


def test_every_operation_is_tried() -> None:
    assert {op for op, _ in ACTIONS} == set(OP_HELP)


@pytest.mark.parametrize("server", ["own", "pyfuse3"])
def test_each_operation_fails_as_its_rule_says(make_mount: MountFactory, server: str) -> None:
    mounted = make_mount(f"attr_timeout=0,entry_timeout=0,server={server}")
    (mounted.source / "d").mkdir()
    (mounted.source / "d" / "file").write_bytes(b"data" * 1000)
    directory = mounted.path / "d"
    with rules_of(mounted.path) as rules:
        for op, act in ACTIONS:
            if server == "pyfuse3" and (op in ONLY_OWN or "TMPFILE" in repr(act.__code__.co_names)):
                continue
            with rules.rule(f"op={op} error=EDQUOT path=d path=d/**") as number:
                with pytest.raises(OSError) as caught:
                    act(directory)
                assert caught.value.errno == errno.EDQUOT, op
                assert rules.one(number)["fired"] >= 1, op
            act(directory)


def test_a_rename_matches_by_either_path_and_a_link_too(make_mount: MountFactory) -> None:
    mounted = make_mount()
    (mounted.source / "a").touch()
    with rules_of(mounted.path) as rules:
        rules.add("op=rename,link error=EIO path=b")
        for call in (os.rename, os.link):
            with pytest.raises(OSError):
                call(mounted.path / "a", mounted.path / "b")
        os.rename(mounted.path / "a", mounted.path / "c")


def test_a_rule_follows_paths_not_files(make_mount: MountFactory) -> None:
    mounted = make_mount()
    (mounted.source / "x.part").write_bytes(b"data")
    with rules_of(mounted.path) as rules, open(mounted.path / "x.part", "rb") as file:
        rules.add("op=read error=EIO path=*.db")
        assert os.pread(file.fileno(), 4, 0) == b"data"
        os.rename(mounted.path / "x.part", mounted.path / "x.db")
        with pytest.raises(OSError):
            os.pread(file.fileno(), 4, 0)
        os.rename(mounted.path / "x.db", mounted.path / "x.part")
        assert os.pread(file.fileno(), 4, 0) == b"data"


def test_a_copy_by_the_kernel_is_made_of_reads_and_writes(make_mount: MountFactory) -> None:
    mounted = make_mount()
    (mounted.source / "a").write_bytes(b"x" * 100_000)
    with rules_of(mounted.path) as rules:
        number = rules.add("op=write error=ENOSPC path=b nth=1")
        command = ["cp", "--reflink=never", mounted.path / "a", mounted.path / "b"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert "No space left on device" in done.stderr
        assert rules.one(number)["fired"] == 1


def test_close_is_no_flush(make_mount: MountFactory) -> None:
    mounted = make_mount()
    with rules_of(mounted.path) as rules:
        number = rules.add("op=flush error=EIO")
        (mounted.path / "new").write_bytes(b"data")
        assert rules.one(number)["matched"] == 0
