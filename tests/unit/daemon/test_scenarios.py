"""Scenarios on a virtual clock: what begins and ends when, and that all is as before."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.unit.policy.test_overlays import World as Policies
from throttlefs.daemon.faults import MountFaults
from throttlefs.daemon.scenarios import Scenarios
from throttlefs.errors import ThrottlefsError
from throttlefs.fuse.inodes import InodeTable
from throttlefs.policy.loading import overlays_of
from throttlefs.settings.scenario import parse_scenario

SECOND = 10**9

TEXT = """
[[change]]
bps = "100K"
at = "10s"
lasting = "5s"

[[change]]
path = "db/*"
iops = 7
lasting = "2s"
repeat = "6s"

[[fault]]
error = "EIO"
at = "3s"
lasting = "1s"

[[fault]]
hang = true
op = "flush"
"""


def now() -> int:
    return round(trio.current_time() * SECOND)


async def _no_thread(*_: object, **__: object) -> None:
    raise AssertionError


class World(Policies):
    def __init__(self, source: Path) -> None:
        super().__init__()
        self.faults = MountFaults(
            InodeTable(os.open(source, os.O_PATH), 10), _no_thread, None, auto_cache=False
        )
        self.scenarios = Scenarios(self.overlays, self.faults, now)
        self.begin = trio.current_time()
        self.told: list[tuple[float, str, str]] = []
        self.summary: list[dict[str, Any]] = []
        self.scenarios.announce = self._tell

    def _tell(self, event: Any) -> None:
        at = round(trio.current_time() - self.begin, 3)
        assert event["elapsed-ns"] == round(at * SECOND)
        self.told.append((at, event["state"], event.get("what", "")))
        self.summary = event.get("rules", self.summary)

    async def start(self, text: str = TEXT, at_most: float | None = None) -> Any:
        self.begin = trio.current_time()
        scenario = parse_scenario(text)
        limit = None if at_most is None else round(at_most * SECOND)
        overlays = overlays_of(scenario.changes, ["vms"])
        self.number, reply = await self.scenarios.start(scenario, overlays, limit)
        return reply


def play(tmp_path: Path, scenario: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(tmp_path)
            world.open(b"a.img")
            world.open(b"db/x.img")
            nursery.start_soon(world.scenarios.run)
            await scenario(world)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_all_begins_and_ends_in_its_time(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        before = world.state()
        assert await world.start(at_most=14) == {"length-ns": 14 * SECOND, "rules": [1, 2]}
        await trio.sleep(11)
        assert world.held(b"a.img")["bps"] == 100 << 10
        assert "iops" not in world.held(b"db/x.img")
        await trio.sleep(2)
        assert world.held(b"db/x.img")["iops"] == 7
        await trio.sleep(100)
        brown, slow = "bps=100K", "iops=7 of db/*"
        error = "op=read,write error=EIO at=3s lasting=1s"
        assert world.told == [
            (0, "begins", slow),
            (0, "begins", "op=flush hang"),
            (2, "ends", slow),
            (3, "begins", error),
            (4, "ends", error),
            (6, "begins", slow),
            (8, "ends", slow),
            (10, "begins", brown),
            (12, "begins", slow),
            (14, "over", ""),
        ]
        assert [rule["text"] for rule in world.summary] == [error, "op=flush hang"]
        assert world.state() == before
        assert world.faults.rules() == []

    play(tmp_path, scenario)


def test_it_can_be_ended_at_any_time(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        before = world.state()
        for at in (0, 0.5, 2, 3.5, 11, 40):
            await world.start()
            await trio.sleep(at)
            await world.scenarios.end()
            assert world.state() == before
            assert world.faults.rules() == []
        await world.scenarios.end()  # there is none: nothing happens

    play(tmp_path, scenario)


def test_who_started_one_does_not_end_that_of_another(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.start(at_most=1)
        first = world.number
        await trio.sleep(2)
        await world.start()
        await world.scenarios.end(first)
        assert len(world.faults.rules()) == 2
        await world.scenarios.end(world.number)
        assert world.faults.rules() == []

    play(tmp_path, scenario)


def test_one_that_ends_while_pages_are_dropped_leaves_no_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that hangs keeps its page for as long as it hangs."""

    async def hold(*_: object) -> None:
        await trio.sleep(5)

    async def scenario(world: World) -> None:
        before = world.state()
        monkeypatch.setattr(world.faults, "drop_pages", hold)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.start)
            await trio.sleep(1)
            assert len(world.faults.rules()) == 2
            await world.scenarios.end()
            assert world.faults.rules() == []
        assert world.faults.rules() == []
        assert world.state() == before

    play(tmp_path, scenario)


def test_a_reload_takes_no_rule_from_a_scenario(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        of_file = parse_scenario('[[fault]]\nerror = "EROFS"\nop = "mkdir"\n').faults
        await world.start()
        for faults in (of_file, of_file, ()):
            world.faults.use_file(faults, world.scenarios.rules)
            assert len(world.faults.rules()) == 2 + len(faults)
        await world.scenarios.end()
        assert world.faults.rules() == []

    play(tmp_path, scenario)


def test_one_without_repetition_ends_by_itself(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        text = '[[change]]\nbps = 5\nat = "1s"\nlasting = "2s"\n'
        assert await world.start(text) == {"length-ns": 3 * SECOND, "rules": []}
        await trio.sleep(5)
        assert world.told[0] == (1, "begins", "bps=5")
        assert world.told[-1] == (3, "over", "")

    play(tmp_path, scenario)


def test_one_that_cannot_be_changes_nothing(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        before = world.state()
        world.set(b"a.img", bps=5, bps_max=6)
        text = '[[fault]]\nerror = "EIO"\n[[change]]\npath = "a.img"\nbps = 10\n'
        with pytest.raises(ThrottlefsError, match="bps_max=6 is below bps=10"):
            await world.start(text)
        assert world.faults.rules() == []
        world.set(b"a.img", bps=0)
        await world.start()
        with pytest.raises(ThrottlefsError, match="a scenario runs already"):
            await world.start()
        await world.scenarios.end()
        assert world.state()[:2] == before[:2]

    play(tmp_path, scenario)


def test_changes_of_the_config_file_count_from_the_mount(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        changes = parse_scenario(
            '[[change]]\nbps = 5\nat = "10s"\nlasting = "1s"\nrepeat = "10s"\n'
        ).changes
        await trio.sleep(4)
        world.scenarios.use_file(overlays_of(changes, []))
        await trio.sleep(6.5)
        assert world.held(b"a.img")["bps"] == 5
        world.scenarios.use_file(overlays_of(changes, []))  # a reload with the same
        assert world.held(b"a.img")["bps"] == 5
        await trio.sleep(1)
        assert "bps" not in world.held(b"a.img")
        await trio.sleep(9)
        assert world.held(b"a.img")["bps"] == 5
        world.scenarios.use_file([])
        assert "bps" not in world.held(b"a.img")
        assert world.told == []

    play(tmp_path, scenario)
