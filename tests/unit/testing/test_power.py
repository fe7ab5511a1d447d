"""The power of a disk in the hands of a program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from tests.unit.fake_power import FakePower
from throttlefs.control.commands import CommandTable, MountFacts
from throttlefs.control.locate import Located
from throttlefs.control.power import PowerCommands
from throttlefs.errors import ThrottlefsError
from throttlefs.host.mountinfo import MountEntry, read_mounts
from throttlefs.testing import disk as disk_module
from throttlefs.testing.async_disk import AsyncDisk
from throttlefs.testing.disk import Disk
from throttlefs.testing.figures import LostFile, PowerCut


class FakeDaemon:
    pid = 1


@pytest.fixture
def power() -> FakePower:
    return FakePower()


@pytest.fixture
def disk(power: FakePower, monkeypatch: pytest.MonkeyPatch) -> Disk:
    table = CommandTable()
    PowerCommands(MountFacts("/", "/mnt"), power, lambda *_: None).register(table)

    class Client:
        def run(self, command: str, **arguments: Any) -> Any:
            return trio.run(table.run, command, arguments)

    @contextmanager
    def session(_: Located, *, patient: bool = False) -> Iterator[Client]:
        assert patient, "a cut may take minutes"
        yield Client()

    monkeypatch.setattr(Located, "session", session)
    monkeypatch.setattr(disk_module, "find_socket", lambda mount: None)
    mount: MountEntry = read_mounts()[0]
    return Disk("/", mount, FakeDaemon())  # type: ignore[arg-type]


def test_a_cut_is_a_plain_value(disk: Disk, power: FakePower) -> None:
    cut = disk.power_cut(seed=7)
    assert cut == PowerCut(
        seed=7,
        dry_run=False,
        lost_bytes=12288,
        undone_changes=3,
        files=(LostFile("db/x", 8192, 40960, 36864), LostFile("odd\nname", 4096, 4096, 4096)),
        names=("create db/y", "rename a -> b"),
        not_rolled_back=("b.img was changed in SRC behind the mount",),
    )
    with pytest.raises(ThrottlefsError, match="power is off"):
        disk.sync()
    disk.power_on()
    disk.sync()
    assert disk.power_cut(dry_run=True).dry_run
    assert power.asked == [
        ("cut", 7, False),
        ("sync",),
        ("on",),
        ("sync",),
        ("cut", None, True),
    ]


def test_in_trio(disk: Disk, power: FakePower) -> None:
    async def main() -> None:
        awaited = AsyncDisk(disk)
        assert (await awaited.power_cut(seed=3)).seed == 3
        await awaited.power_on()
        await awaited.sync()

    trio.run(main)
    assert power.asked == [("cut", 3, False), ("on",), ("sync",)]
