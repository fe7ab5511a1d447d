"""power-cut, power-on and sync: what they ask the daemon, what they print and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from tests.unit.cli.conftest import Mistake
from tests.unit.fake_power import FakePower
from throttlefs.cli.main import cli
from throttlefs.cli.presentation import power_text, print_cut
from throttlefs.control import locate
from throttlefs.control.commands import CommandTable, MountFacts
from throttlefs.control.power import PowerCommands


class FakeMount:
    """A mount that `locate` finds: its daemon is in this process."""

    point = "/mnt"

    def __init__(self, power: FakePower | None, device: str | None) -> None:
        self.device = device
        self.patient = False
        self._table = CommandTable()
        facts = MountFacts("/src", self.point)
        PowerCommands(facts, power, lambda *_: None).register(self._table)

    @contextmanager
    def session(self, *, patient: bool = False) -> Iterator[FakeMount]:
        self.patient = patient
        yield self

    def run(self, command: str, **arguments: Any) -> Any:
        return trio.run(self._table.run, command, arguments)


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> FakePower:
    power = FakePower()
    found = FakeMount(power, None)
    monkeypatch.setattr(locate, "locate", lambda path: found)
    return power


def command(*words: str) -> None:
    cli.main(list(words), prog_name="throttlefs", standalone_mode=False)


def test_a_cut_says_what_was_lost(power: FakePower, capsys: pytest.CaptureFixture[str]) -> None:
    command("power-cut", "mnt", "--seed", "7")
    assert capsys.readouterr().out.splitlines() == [
        "power is off, seed 7: lost 12 KiB of 2 files, undid 3 changes",
        "file        lost   size  size after",
        "db/x       8 KiB  40960       36864",
        "odd\\nname  4 KiB   4096        4096",
        "undone: create db/y",
        "undone: rename a -> b",
        "not rolled back: b.img was changed in SRC behind the mount",
    ]
    command("power-on", "mnt")
    command("sync", "mnt")
    assert capsys.readouterr().out == ""
    assert power.asked == [("cut", 7, False), ("on",), ("sync",)]


def test_a_dry_run_says_so(power: FakePower, capsys: pytest.CaptureFixture[str]) -> None:
    command("power-cut", "mnt", "--dry-run")
    out = capsys.readouterr().out
    assert out.startswith(
        "a power cut with seed 99 would lose 12 KiB of 2 files and undo 3 changes\n"
    )
    assert power.asked == [("cut", None, True)]


def test_nothing_may_be_lost(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = {
        "lost-bytes": 0,
        "undone-changes": 0,
        "files": [],
        "names": [],
        "not-rolled-back": [],
    }
    print_cut({"seed": 1, "dry-run": False, **nothing})
    print_cut({"seed": 2, "dry-run": True, **nothing})
    assert capsys.readouterr().out.splitlines() == [
        "power is off, seed 1: lost nothing, undid nothing",
        "a power cut with seed 2 would lose nothing and undo nothing",
    ]


def test_json_has_the_report_of_the_daemon(
    power: FakePower, capsys: pytest.CaptureFixture[str]
) -> None:
    command("power-cut", "mnt", "--json", "--seed=3")
    report = json.loads(capsys.readouterr().out)
    assert (report["seed"], report["files"][0]["size-after"]) == (3, 36864)


def test_the_command_waits_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["sync"], ["power-cut"], ["power-on"]):
        found = FakeMount(FakePower(), None)
        found.patient = False
        monkeypatch.setattr(locate, "locate", lambda path, found=found: found)
        try:
            command(*words, "mnt")
        except Exception as exc:
            assert str(exc) == "power is on"  # noqa: PT017
        assert found.patient


@pytest.mark.parametrize("name", ["power-cut", "power-on", "sync"])
def test_a_file_in_a_mount_has_no_power_of_its_own(
    mistake: Mistake, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    power = FakePower()
    found = FakeMount(power, "db.img")
    monkeypatch.setattr(locate, "locate", lambda path: found)
    said = mistake(name, "mnt/db.img")
    assert said == f"{name} is for a whole mount, and mnt/db.img lies in one: use /mnt"
    assert power.asked == []


@pytest.mark.parametrize("name", ["power-cut", "power-on", "sync"])
def test_what_is_refused(mistake: Mistake, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert "/proc does not lie on a throttlefs mount" in mistake(name, "/proc", status=1)
    assert "/no/such does not lie on a throttlefs mount" in mistake(name, "/no/such", status=1)
    assert mistake(name) == f"Missing argument 'MOUNTPOINT'; see throttlefs {name} --help"
    found = FakeMount(None, None)
    monkeypatch.setattr(locate, "locate", lambda path: found)
    assert mistake(name, "mnt", status=1) == (
        "/mnt does not keep what it could lose: unmount it with throttlefs umount /mnt, and mount"
        " it again with -o volatile"
    )


@pytest.mark.parametrize("seed", ["-1", "x", "1.5", str(2**63)])
def test_a_wrong_seed(mistake: Mistake, power: FakePower, seed: str) -> None:
    assert mistake("power-cut", "mnt", f"--seed={seed}").startswith("Invalid value for '--seed'")
    assert power.asked == []


def test_what_show_says_of_power(power: FakePower) -> None:
    assert power_text(power.state()) == (
        "volatile: power is on; 12 MiB and 1 change are not flushed, undo log 3 MiB"
    )
    power.on = False
    assert power_text(power.state()) == "volatile: power is off"
