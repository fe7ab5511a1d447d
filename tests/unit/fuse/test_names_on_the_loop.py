"""Which changes of names run on the loop, and which in a thread, with real files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fuse.names_world import ROOT, NamesWorld
from throttlefs.fuse import inode_operations, privileges
from throttlefs.fuse.arguments import Caller
from throttlefs.fuse.quick_names import Change


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def world(tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> NamesWorld:
    return NamesWorld(tmp_path, stack, monkeypatch, filesystem="ext4")


def changes(world: NamesWorld, caller: Caller) -> list[tuple[str, Any]]:
    """One request of each kind, in an order in which each succeeds."""
    (world.source / "a").write_bytes(b"a")
    world.look_up(b"a")
    return [
        ("rename", (ROOT, b"a", ROOT, b"b", 0, caller)),
        ("link", (world.look_up(b"a"), ROOT, b"c", caller)),
        ("unlink", (ROOT, b"b", caller)),
        ("mkdir", (ROOT, b"d", 0o755, caller)),
        ("rmdir", (ROOT, b"d", caller)),
        ("symlink", (ROOT, b"s", b"target", caller)),
        ("mknod", (ROOT, b"f", 0o10644, 0, caller)),
        ("create", (ROOT, b"n", 0o100644, os.O_WRONLY, caller)),
    ]


def test_changes_of_a_local_filesystem_need_no_thread(world: NamesWorld) -> None:
    for handler, args in changes(world, world.caller):
        assert world.calls_of(handler, *args) == 0, handler
    assert sorted(os.listdir(world.source)) == ["c", "f", "n", "s"]


def test_changes_of_another_filesystem_run_in_threads(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = NamesWorld(tmp_path, stack, monkeypatch, filesystem="nfs4")
    for handler, args in changes(world, world.caller):
        assert world.calls_of(handler, *args) >= 1, handler
    assert sorted(os.listdir(world.source)) == ["c", "f", "n", "s"]


def test_changes_for_another_user_run_in_threads(
    world: NamesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop never takes the ids of somebody else."""
    asked = []

    def acts_as_itself(uid: int, gid: int) -> bool:
        asked.append((uid, gid))
        return False

    monkeypatch.setattr(privileges, "acts_as_itself", acts_as_itself)
    for handler, args in changes(world, world.caller):
        assert world.calls_of(handler, *args) >= 1, handler
    assert set(asked) == {(world.caller.uid, world.caller.gid)}


def test_changes_run_in_threads_while_one_is_stuck(world: NamesWorld) -> None:
    world.stuck = True
    for handler, args in changes(world, world.caller):
        assert world.calls_of(handler, *args) >= 1, handler


def test_changes_run_in_threads_while_an_fsync_is_under_way(
    world: NamesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fh = world.create(b"log")
    needed: list[bool] = []

    async def fsync(self: object, datasync: bool) -> None:
        for kind in Change:
            needed.append(world.operations._quick.are_quick(os.stat(world.source).st_dev, kind))

    monkeypatch.setattr(type(world.handle(fh).file), "fsync", fsync)
    world.run("fsync", fh, True)
    assert needed == [False] * len(Change)
    assert world.calls_of("mkdir", ROOT, b"d", 0o755, world.caller) == 0


@pytest.mark.parametrize("role", ["removed", "moved", "replaced"])
def test_names_of_open_files_change_in_threads(world: NamesWorld, role: str) -> None:
    """A write or discard under way holds the lock of the inode, which the change would wait for."""
    _, fh = world.create(b"open")
    (world.source / "other").touch()
    world.look_up(b"other")
    request = {
        "removed": ("unlink", (ROOT, b"open", world.caller)),
        "moved": ("rename", (ROOT, b"open", ROOT, b"new", 0, world.caller)),
        "replaced": ("rename", (ROOT, b"other", ROOT, b"open", 0, world.caller)),
    }[role]
    assert world.calls_of(request[0], *request[1]) == 1
    world.run("release", fh)


def test_a_name_of_a_file_that_the_kernel_does_not_know_goes_in_a_thread(
    world: NamesWorld,
) -> None:
    """Nothing holds that file, so its blocks are freed with its name."""
    (world.source / "unknown").write_bytes(bytes(100_000))
    assert world.calls_of("unlink", ROOT, b"unknown", world.caller) == 1
    assert not os.listdir(world.source)


def test_errors_are_those_of_src(world: NamesWorld) -> None:
    with pytest.raises(FileNotFoundError):
        world.run("unlink", ROOT, b"missing", world.caller)
    with pytest.raises(FileNotFoundError):
        world.run("rename", ROOT, b"missing", ROOT, b"new", 0, world.caller)
    world.run("mkdir", ROOT, b"d", 0o755, world.caller)
    with pytest.raises(FileExistsError):
        world.run("mkdir", ROOT, b"d", 0o755, world.caller)
    with pytest.raises(IsADirectoryError):
        world.run("unlink", ROOT, b"d", world.caller)
    (world.source / "d/f").touch()
    with pytest.raises(OSError, match="not empty"):
        world.run("rmdir", ROOT, b"d", world.caller)


def test_a_new_file_that_nobody_wrote_to_is_closed_on_the_loop(world: NamesWorld) -> None:
    _, fh = world.create(b"new")
    assert world.calls_of("release", fh) == 0


@pytest.mark.parametrize("what", ["written", "truncated", "failed", "allocated", "unlinked"])
def test_a_file_that_was_changed_is_closed_in_a_thread(world: NamesWorld, what: str) -> None:
    number, fh = world.create(b"new")
    if what == "written":
        assert world.run("write", fh, 0, b"data") == 4
    elif what == "truncated":
        world.run("release", fh)
        fh = world.run("open", number, os.O_WRONLY | os.O_TRUNC, world.caller).fh
    elif what == "failed":
        world.handle(fh).statistics.write.errors += 1
    elif what == "allocated":
        world.run("fallocate", fh, 0, 4096, 0, world.caller)
    else:
        world.run("unlink", ROOT, b"new", world.caller)
    assert world.calls_of("release", fh) == 1


def test_forgotten_files_are_closed_together(world: NamesWorld) -> None:
    """Those with many blocks in a thread, which takes all that come meanwhile."""
    forgets = []
    for number in range(50):
        name = b"%d" % number
        (world.source / os.fsdecode(name)).write_bytes(bytes(200_000))
        forgets.append((world.look_up(name), 1))
        world.run("unlink", ROOT, name, world.caller)

    async def forget_the_others() -> None:
        await world.operations.forget(forgets[1:])

    world.during = forget_the_others
    assert world.calls_of("forget", forgets[:1]) == 2
    assert not held_in(world.source)


def held_in(source: Path) -> list[str]:
    """The files in *source* that this process has open."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [path for path in links if path.startswith(f"{source}/")]


def test_a_forgotten_empty_file_is_closed_on_the_loop(world: NamesWorld) -> None:
    (world.source / "empty").touch()
    number = world.look_up(b"empty")
    world.run("unlink", ROOT, b"empty", world.caller)
    assert world.calls_of("forget", [(number, 1)]) == 0


@pytest.mark.parametrize("removed", [True, False])
def test_others_get_a_turn_while_many_files_are_forgotten(
    world: NamesWorld, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    forgets = []
    for number in range(60):
        name = b"%d" % number
        (world.source / os.fsdecode(name)).touch()
        forgets.append((world.look_up(name), 1))
        if removed:
            world.run("unlink", ROOT, name, world.caller)
    now = 1000.0

    def monotonic() -> float:
        nonlocal now
        now += 0.25e-3
        return now

    monkeypatch.setattr(inode_operations, "monotonic", monotonic)
    assert 5 <= world.calls_of("forget", forgets) <= 30
    assert not held_in(world.source)
