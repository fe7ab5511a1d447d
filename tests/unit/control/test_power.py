"""x-throttlefs-power-cut, -power-on and -sync: what they ask of the disk, and whom they tell."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest
import trio

from tests.unit.fake_power import REPORT, FakePower
from throttlefs.control.commands import CommandTable, MountFacts
from throttlefs.control.power import PowerCommands
from throttlefs.errors import ThrottlefsError


class Machine:
    """The commands for a disk, and the events that they send."""

    def __init__(self, power: FakePower | None) -> None:
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.table = CommandTable()
        self.commands = PowerCommands(
            MountFacts("/srv/images", "/srv/my mnt"),
            power,
            lambda name, data: self.events.append((name, data)),
        )
        self.commands.register(self.table)

    def run(self, command: str, **arguments: Any) -> Any:
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return trio.run(self.table.run, f"x-throttlefs-{command}", named)

    def error(self, command: str, **arguments: Any) -> str:
        before = len(self.events)
        with pytest.raises(ThrottlefsError) as caught:
            self.run(command, **arguments)
        assert len(self.events) == before, "somebody was told of it"
        return str(caught.value)


@pytest.fixture
def power() -> FakePower:
    return FakePower()


@pytest.fixture
def machine(power: FakePower) -> Machine:
    return Machine(power)


def test_a_cut_and_what_follows(machine: Machine, power: FakePower) -> None:
    assert machine.run("power-cut", seed=7) == REPORT
    assert machine.commands.state()["power"] == {**power.state(), "state": "off"}
    machine.run("power-on")
    machine.run("sync")
    assert power.asked == [("cut", 7, False), ("on",), ("sync",)]
    assert machine.events == [
        ("X_THROTTLEFS_POWER", {"state": "off", "seed": 7}),
        ("X_THROTTLEFS_POWER", {"state": "on"}),
    ]


def test_a_seed_that_was_drawn_is_told(
    machine: Machine, power: FakePower, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "throttlefs"):
        assert machine.run("power-cut")["seed"] == 99
    assert caplog.messages == ["the power is off; the seed of the cut is 99"]
    assert power.asked == [("cut", None, False)]
    assert machine.events == [("X_THROTTLEFS_POWER", {"state": "off", "seed": 99})]


def test_nobody_is_told_of_a_dry_run(machine: Machine, power: FakePower) -> None:
    assert machine.run("power-cut", seed=0, dry_run=True)["dry-run"] is True
    assert machine.run("power-cut", dry_run=False, seed=2**63 - 1)["dry-run"] is False
    assert power.asked == [("cut", 0, True), ("cut", 2**63 - 1, False)]
    assert len(machine.events) == 1


def test_what_the_disk_refuses_is_told_to_nobody_else(machine: Machine, power: FakePower) -> None:
    assert machine.error("power-on") == "power is on"
    machine.run("power-cut")
    assert machine.error("power-cut") == machine.error("sync") == "power is off"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed: -1 is not from 0 to 9223372036854775807"),
        ({"seed": 2**63}, "is not from 0 to"),
        ({"seed": "7"}, "Invalid parameter type for 'seed', expected: integer"),
        ({"seed": True}, "Invalid parameter type for 'seed', expected: integer"),
        ({"dry_run": 1}, "Invalid parameter type for 'dry-run', expected: boolean"),
        ({"device": "db.img"}, "Parameter 'device' is unexpected"),
    ],
)
def test_wrong_arguments_cut_nothing(
    machine: Machine, power: FakePower, arguments: dict[str, Any], message: str
) -> None:
    assert message in machine.error("power-cut", **arguments)
    assert power.asked == []


@pytest.mark.parametrize("command", ["power-cut", "power-on", "sync"])
def test_a_mount_that_is_not_volatile(command: str) -> None:
    machine = Machine(None)
    assert machine.commands.state() == {}
    assert machine.error(command) == (
        "/srv/my mnt does not keep what it could lose: unmount it with"
        " throttlefs umount '/srv/my mnt', and mount it again with -o volatile"
    )
