"""What the kernel remembers of a file may be out of date, and a name may mean another file by the
time that the daemon comes to it. None of that gives anybody more than his own rights."""

from __future__ import annotations

import os
import random
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.soak import Soak, Tally
from tests.support import Mounted, MountFactory
from tests.trust.users import (
    ANNA,
    BERT,
    CARL,
    ROOT,
    Failed,
    acl,
    directories,
    outcome,
    workers,
)
from throttlefs.host import syscalls

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

SECRET = b"secret"
REMEMBERING = "allow_other,attr_timeout=600,entry_timeout=600"


def in_directory(directory: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a worker: call *function* with paths that begin at a descriptor."""
    os.umask(0)
    os.fchdir(directory)
    return outcome(lambda: function(*arguments))


def contents(path: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> bytes:
    fd = os.open(path, flags | os.O_NONBLOCK, mode)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def exchange(one: str, other: str) -> None:
    here = syscalls.AT_FDCWD
    syscalls.renameat2(here, os.fsencode(one), here, os.fsencode(other), syscalls.RENAME_EXCHANGE)


def give(path: Path, uid: int, mode: int, data: bytes | None = None) -> None:
    """Make a file, or a directory without *data*."""
    if data is None:
        path.mkdir()
    else:
        path.write_bytes(data)
    os.chown(path, uid, uid)
    os.chmod(path, mode)


def replace_by_same_number(path: Path, make: Callable[[], None]) -> None:
    """Remove *path* and make something else there that has got the number of its inode."""
    number = path.stat().st_ino
    path.unlink()
    make()
    for _ in range(1000):
        if path.lstat().st_ino == number:
            return
        path.unlink()
        make()
    pytest.skip("this filesystem gives no inode number twice")


# -- what the kernel remembers ----------------------------------------------------------------


def test_directories_moved_into_one_another_hold_nobody_up(mounted: Mounted) -> None:
    """Each was last seen in the other."""
    (mounted.source / "a" / "b").mkdir(parents=True)
    (mounted.source / "a" / "file").write_bytes(b"data")
    with directories([mounted.path / "a", mounted.path / "a" / "b"]) as (a, b):
        os.rename(mounted.source / "a" / "b", mounted.source / "b")
        os.rename(mounted.source / "a", mounted.source / "b" / "a")
        outcome(lambda: os.stat("a", dir_fd=b))  # ELOOP, from the kernel
        fd = os.open("file", os.O_RDONLY, dir_fd=a)
        assert os.read(fd, 10) == b"data"
        os.close(fd)
    mounted.umount()


def test_a_fifo_in_the_place_of_a_file_holds_nobody_up(make_mount: MountFactory) -> None:
    mount = make_mount(REMEMBERING)
    file = mount.source / "file"
    file.write_bytes(b"data")
    assert os.listdir(mount.path) == ["file"]  # now the kernel knows it, and nothing is open
    replace_by_same_number(file, lambda: os.mkfifo(file))
    fd = os.open(mount.path / "file", os.O_RDONLY | os.O_NONBLOCK)
    assert stat.S_ISFIFO(os.fstat(fd).st_mode)
    os.close(fd)
    mount.umount()


def test_a_file_with_the_number_of_ones_own_is_not_ones_own(make_mount: MountFactory) -> None:
    mount = make_mount(REMEMBERING)
    file = mount.source / "file"
    with directories([mount.path]) as (side,), workers([ANNA]) as (anna,):
        give(file, ANNA.uid, 0o600, b"Anna's")
        assert os.listdir(mount.path) == ["file"]
        time.sleep(0.02)  # timestamps are that coarse
        replace_by_same_number(file, lambda: give(file, 0, 0o600, SECRET))
        found = anna.run(in_directory, side, contents, "file")
    assert found in (Failed("EACCES"), Failed("ESTALE"))


def test_in_a_sticky_directory_only_owners_remove_names(make_mount: MountFactory) -> None:
    """Whatever was there a moment ago."""
    mount = make_mount(REMEMBERING)
    give(mount.source / "sticky", 0, 0o1777)
    below = mount.source / "sticky"
    with (
        directories([mount.path / "sticky", below]) as (side, source),
        workers([ANNA, BERT]) as (anna, bert),
    ):
        for change in ([os.unlink, "lock"], [os.rename, "lock", "mine"], [exchange, "lock", "x"]):
            for name in ("lock", "x"):
                anna.run(in_directory, side, contents, name, os.O_CREAT | os.O_RDWR)
            anna.run(in_directory, source, os.unlink, "lock")
            bert.run(in_directory, source, contents, "lock", os.O_CREAT | os.O_RDWR)
            assert anna.run(in_directory, side, *change) == Failed("EPERM")
            assert (below / "lock").stat().st_uid == BERT.uid
            bert.run(in_directory, source, os.unlink, "lock")


def test_who_has_lost_a_file_cannot_change_who_may_use_it(make_mount: MountFactory) -> None:
    mount = make_mount(REMEMBERING)
    file = mount.source / "file"
    with directories([mount.path]) as (side,), workers([ANNA]) as (anna,):
        give(file, ANNA.uid, 0o755, b"#!/bin/sh")
        assert anna.run(in_directory, side, os.chmod, "file", 0o711) is None
        os.chown(file, 0, 0)
        os.chmod(file, 0o700)
        access = acl(7, [(ANNA.uid, 7)], 0, 7, 0)
        for change in (
            [os.chmod, "file", 0o4777],
            [os.chown, "file", -1, ANNA.groups[0]],
            [os.setxattr, "file", "system.posix_acl_access", access],
        ):
            assert anna.run(in_directory, side, *change) == Failed("EPERM"), change
    st = file.stat()
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o700, 0, 0)
    assert os.listxattr(file) == []


# -- what changes in between ------------------------------------------------------------------


def exchange_for_ever(directory: int, one: str, other: str) -> None:
    """Run in a worker, until that is ended."""
    os.fchdir(directory)
    while True:
        exchange(one, other)


def create_for(seconds: float, side: int, source: int) -> tuple[int, list[Any]]:
    """Open a file, made if missing, as often as it goes; what was found in it."""
    ends, times, found = time.monotonic() + seconds, 0, []
    while time.monotonic() < ends:
        os.fchdir(side)
        one = outcome(lambda: contents("new", os.O_CREAT | os.O_RDWR, 0o600))
        if isinstance(one, bytes) and one:
            found.append(one)
        other = outcome(lambda: contents("new", os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600))
        if isinstance(other, Failed) and other.error not in ("EACCES", "ENOENT", "ESTALE"):
            found.append(other)
        times += 2
    return times, found


def move_for_ever(directory: int) -> None:
    """Now the secret is at "new", now it is not."""
    os.fchdir(directory)
    while True:
        outcome(lambda: os.rename("secret", "new"))
        outcome(lambda: os.rename("new", "secret") if os.stat("new").st_uid == 0 else None)
        outcome(lambda: os.unlink("new") if os.stat("new").st_uid else None)
        outcome(lambda: os.link("kept", "secret"))


def make_for(seconds: float, side: int, source: int) -> tuple[int, list[Any]]:
    """Make things of every kind, and see whose they are."""
    ends, times = time.monotonic() + seconds, 0
    makers: list[Callable[[], Any]] = [
        lambda: os.mkdir("new"),
        lambda: os.mknod("new", stat.S_IFREG | 0o4777),
        lambda: os.mkfifo("new"),
        lambda: os.symlink("x", "new"),
        lambda: contents("new", os.O_CREAT | os.O_EXCL | os.O_RDWR),
    ]
    while time.monotonic() < ends:
        os.fchdir(side)
        outcome(makers[times % len(makers)])
        os.fchdir(source)
        outcome(lambda: os.unlink("new"))
        outcome(lambda: os.rmdir("new"))
        times += 1
    return times, []


@pytest.mark.parametrize(
    ("attack", "below"),
    [(create_for, "move"), (make_for, "exchange")],
    ids=["create", "make"],
)
def test_another_file_at_a_new_name_is_not_the_makers(
    make_mount: MountFactory, soak: Soak, tally: Tally, attack: Any, below: str
) -> None:
    """In Anna's directory, where she herself may rename what is root's."""
    mount = make_mount("allow_other,attr_timeout=0,entry_timeout=0")
    directory = mount.source / "annas"
    give(directory, ANNA.uid, 0o755)
    give(directory / "secret", 0, 0o600, SECRET)
    os.link(directory / "secret", directory / "kept")
    before = (directory / "secret").stat()
    with (
        directories([mount.path / "annas", directory]) as (side, source),
        workers([ANNA, ROOT]) as (anna, mover),
    ):
        if below == "move":
            mover.begin(move_for_ever, source)
        else:
            mover.begin(exchange_for_ever_if_there, source)
        times, found = anna.run(attack, soak.choose(2.0, 240.0), side, source)
    assert found == []
    after = (directory / "kept").stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (0, 0, before.st_mode)
    assert (directory / "kept").read_bytes() == SECRET
    tally.note(times, checked="root's file in Anna's directory stays root's, unread and unchanged")


def exchange_for_ever_if_there(directory: int) -> None:
    os.fchdir(directory)
    while True:
        outcome(lambda: exchange("secret", "new"))
        outcome(lambda: os.link("kept", "secret"))  # whatever was removed


# -- symlinks instead of directories ----------------------------------------------------------


def attack_for(seconds: float, side: int, seed: int) -> tuple[int, list[Any]]:
    """Do anything to the files in "d"; what was read."""
    os.fchdir(side)
    os.umask(0)
    random_, ends, times, read = random.Random(seed), time.monotonic() + seconds, 0, []
    path = "d/file"
    things: list[Callable[[], Any]] = [
        lambda: contents(path),
        lambda: contents(path, os.O_RDWR),
        lambda: contents(path, os.O_RDWR | os.O_TRUNC),
        lambda: contents("d/new", os.O_RDWR | os.O_CREAT, 0o666),
        lambda: os.getxattr(path, "user.x"),
        lambda: os.setxattr(path, "user.x", b"theirs"),
        lambda: os.chmod(path, 0o4777),
        lambda: os.chown(path, -1, os.getgid()),
        lambda: os.truncate(path, 1),
        lambda: os.utime(path),
        lambda: os.mkdir("d/new"),
        lambda: os.rmdir("d/new"),
        lambda: os.unlink("d/new"),
        lambda: os.unlink(path),
        lambda: os.symlink("x", "d/new"),
        lambda: os.link(path, "d/new"),
        lambda: os.rename("d/new", path),
        lambda: os.mknod("d/new", stat.S_IFREG | 0o666),
        lambda: [name for name in os.listdir("d") if name == "witness"],
        lambda: os.stat(path).st_size,
        lambda: os.readlink(path),
    ]
    while time.monotonic() < ends:
        read.append(outcome(random_.choice(things)))
        times += 1
    return times, [one for one in read if one in (SECRET, b"outside", len(SECRET), ["witness"])]


def test_a_directory_that_becomes_a_symlink_leads_nowhere(
    make_mount: MountFactory, tmp_path: Path, soak: Soak, tally: Tally
) -> None:
    """Outside is what only root can reach; so whoever comes there came by the daemon."""
    outside = tmp_path / "outside"
    give(outside, 0, 0o700)
    give(outside / "file", 0, 0o666, SECRET)
    os.setxattr(outside / "file", "user.x", b"outside")
    (outside / "witness").touch()
    mount = make_mount("allow_other,attr_timeout=0,entry_timeout=0")
    os.chmod(mount.source, 0o1777)
    give(mount.source / "d", ANNA.uid, 0o777)
    give(mount.source / "d" / "file", ANNA.uid, 0o666, b"plain")
    os.symlink(outside, mount.source / "link")
    os.lchown(mount.source / "link", ANNA.uid, ANNA.uid)
    before = [(path, path.lstat()) for path in (outside, *outside.iterdir())]
    people = [ANNA, BERT, CARL]
    with (
        directories([mount.path, mount.source]) as (side, source),
        workers([*people, ANNA]) as processes,
    ):
        processes[-1].begin(exchange_for_ever, source, "d", "link")
        seconds = soak.choose(3.0, 300.0)
        for number, process in enumerate(processes[:-1]):
            process.begin(attack_for, seconds, side, number)
        for process in processes[:-1]:
            times, read = process.answer()
            assert read == []
            tally.note(times, checked="nothing outside of SRC was read, made or changed")
    assert [(path, path.lstat()) for path in (outside, *outside.iterdir())] == before
    assert (outside / "file").read_bytes() == SECRET
    assert os.getxattr(outside / "file", "user.x") == b"outside"
    assert "Traceback" not in mount.log
