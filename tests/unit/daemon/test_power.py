"""The power of a disk: what happens at unlucky moments, and when something fails amid a cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .power_world import PowerWorld


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
