"""Requests that wait in a fault: how each wait ends, on a virtual clock."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from throttlefs.device.parking import Parking

SECOND = 10**9


class World:
    """A parking, with requests that wait in it and how their wait ended, by name."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.ends: dict[str, tuple[float, str]] = {}
        self.changes: list[int] = []
        self.changed: list[int] = []
        self.parking = Parking(self._next_change, lambda: self.changed.append(self.now()), self.now)

    @staticmethod
    def now() -> int:
        return round(trio.current_time() * SECOND)

    def _next_change(self) -> int | None:
        return min((at for at in self.changes if at > self.now()), default=None)

    async def wait(self, name: str, number: int, duration: int | None) -> None:
        begin = trio.current_time()

        async def waiter() -> None:
            try:
                await self.parking.wait(number, duration)
                end = "goes on"
            except OSError as exc:
                end = errno.errorcode[exc.errno or 0]
            self.ends[name] = (round(trio.current_time() - begin, 3), end)

        self.nursery.start_soon(waiter)
        await wait_all_tasks_blocked()


def play(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(nursery)
            nursery.start_soon(world.parking.run)
            await scenario(world)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_delay_ends_by_itself_and_in_its_order() -> None:
    async def scenario(world: World) -> None:
        await world.wait("long", 1, 3 * SECOND)
        await world.wait("short", 1, SECOND)
        await world.wait("for ever", 1, None)
        assert world.parking.waiting(1) == 3
        await trio.sleep(100)
        assert world.ends == {"short": (1, "goes on"), "long": (3, "goes on")}
        assert world.parking.waiting(1) == 1

    play(scenario)


def test_a_rule_releases_its_own() -> None:
    async def scenario(world: World) -> None:
        await world.wait("one", 1, None)
        await world.wait("two", 2, None)
        await world.wait("delayed", 2, 50 * SECOND)
        await trio.sleep(5)
        world.parking.release(2)
        await wait_all_tasks_blocked()
        assert world.ends == {"two": (5, "goes on"), "delayed": (5, "goes on")}
        await trio.sleep(100)
        assert "one" not in world.ends

    play(scenario)


def test_at_the_end_a_hang_fails_and_a_delay_is_over() -> None:
    async def scenario(world: World) -> None:
        await world.wait("hangs", 1, None)
        await world.wait("delayed", 2, 50 * SECOND)
        world.parking.open_gates()
        await world.wait("late", 1, None)
        await world.wait("late too", 2, SECOND)
        assert world.ends == {
            "hangs": (0, "EIO"),
            "delayed": (0, "goes on"),
            "late": (0, "EIO"),
            "late too": (0, "goes on"),
        }
        world.parking.close_gates()
        await world.wait("again", 1, None)
        await trio.sleep(100)
        assert "again" not in world.ends

    play(scenario)


def test_a_request_may_be_withdrawn() -> None:
    async def scenario(world: World) -> None:
        with trio.move_on_after(2):
            await world.parking.wait(1, None)
        with trio.move_on_after(2):
            await world.parking.wait(1, 10 * SECOND)
        assert world.parking.waiting(1) == 0
        world.parking.release(1)
        await trio.sleep(100)
        assert not world.ends

    play(scenario)


def test_changes_of_periods_are_told_when_they_come() -> None:
    async def scenario(world: World) -> None:
        world.changes = [7 * SECOND, 9 * SECOND]
        world.parking.look_again()
        await trio.sleep(100)
        assert world.changed == [7 * SECOND, 9 * SECOND]

    play(scenario)


@pytest.mark.parametrize("duration", [None, SECOND])
def test_nothing_is_left_after_many(duration: int | None) -> None:
    async def scenario(world: World) -> None:
        for number in range(50):
            await world.wait(str(number), number % 3, duration)
        await trio.sleep(2)
        for number in range(3):
            world.parking.release(number)
        await wait_all_tasks_blocked()
        assert len(world.ends) == 50
        assert sum(world.parking.waiting(number) for number in range(3)) == 0

    play(scenario)
