"""The power of a disk: what happens at unlucky moments, and when something fails amid a cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from tests.support import let_the_clock_go_on
from throttlefs.daemon import cut_plan
from throttlefs.errors import ThrottlefsError
from throttlefs.fuse import names_in_use

from .power_world import ROOT, PowerWorld


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PowerWorld]:
    with ExitStack() as stack:
        yield PowerWorld(tmp_path, stack, monkeypatch)


def test_a_file_whose_last_name_goes_while_an_earlier_removal_is_tidied_up_comes_back(
    world: PowerWorld,
) -> None:
    (world.source / "one").write_bytes(b"contents")
    (world.source / "two").hardlink_to(world.source / "one")
    world.run("unlink", *world.unlink(b"one"))
    world.disk._journal.commit_all()
    world.names.during = world.change("unlink", *world.unlink(b"two"))
    world.tidy()
    assert len(world.hidden()) == 1
    seed = next(seed for seed in range(50) if world.cut(seed, dry_run=True)["names"])
    assert world.cut(seed)["not-rolled-back"] == []
    assert (world.source / "two").read_bytes() == b"contents"


def test_a_cut_that_cannot_be_written_down_changes_nothing_and_the_next_one_is_done(
    world: PowerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.source / "old").write_bytes(b"contents")
    (world.source / "changed").touch()
    world.run("rename", ROOT, b"old", ROOT, b"new", 0, world.names.caller)
    caller, number = world.names.caller, world.names.look_up(b"changed")
    world.run("setxattr_with_flags", number, b"user.mine", b"1", 0, caller)
    seed = next(seed for seed in range(50) if len(world.cut(seed, dry_run=True)["names"]) == 2)

    def full(path: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    let_the_clock_go_on()
    with monkeypatch.context() as patch:
        patch.setattr(cut_plan, "_create", full)
        with pytest.raises(ThrottlefsError, match=r"nothing was rolled back.*No space left"):
            world.cut(seed)
    assert sorted(os.listdir(world.source))[1:] == ["changed", "new"]
    assert (world.source / "changed").stat().st_nlink == 1
    world.power_on()
    assert world.cut(seed)["not-rolled-back"] == []
    assert sorted(os.listdir(world.source))[1:] == ["changed", "old"]
    assert os.listxattr(world.source / "changed") == []
    assert world.hidden() == []
    assert os.listdir(world.log) == []


def test_files_that_come_and_go_are_forgotten_although_some_change_is_always_unflushed(
    world: PowerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names_in_use, "_MANY", 10)
    in_use, journal = world.disk._in_use, world.disk._journal
    in_use._enough = 10
    for number in range(60):
        name = b"%d" % number
        world.names.create(name)
        world.run("unlink", *world.unlink(name))
        journal.commit(world.names.inodes.root.key, journal.newest - 1)
        if in_use.has_too_many():
            assert world.power._news.is_set()
            world.power._news = trio.Event()
            world.tidy()
        assert len(journal)
    assert len(in_use._last_ns) <= 12
