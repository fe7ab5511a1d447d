"""A limiter with tasks that wait, on a virtual clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from trio.testing import wait_all_tasks_blocked

from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.throttle import READ, Image, ImagePolicy, Throttle

SECOND = 1_000_000_000
START = 90 * 24 * 3600 * SECOND
"""Months of uptime."""


class VirtualAlarm:
    """One shot, as a timerfd: it goes off when the clock has reached the instant it was set to."""

    def __init__(self) -> None:
        self.now = START
        self.instant: int | None = None
        self.times_set = 0
        self.times_gone_off = 0
        self._sleepers = trio.lowlevel.ParkingLot()

    def set(self, instant: int | None) -> None:
        self.instant = instant
        self.times_set += 1
        self.ring()

    def ring(self) -> None:
        if self._is_due():
            self._sleepers.unpark_all()

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._is_due():
            await self._sleepers.park()
        self.instant = None
        self.times_gone_off += 1

    def _is_due(self) -> bool:
        return self.instant is not None and self.instant <= self.now

    def fileno(self) -> int:
        return 123

    def close(self) -> None:
        raise AssertionError("whoever made the alarm closes it")


class World:
    """A throttle on a virtual clock, and the tasks that ask it."""

    def __init__(self, default: Limits, nursery: trio.Nursery) -> None:
        self.alarm = VirtualAlarm()
        self.throttle = Throttle(clock=lambda: self.alarm.now, alarm=self.alarm)
        self.throttle.set_default(ImagePolicy(default))
        self.dispatcher = self.throttle.dispatcher
        self.nursery = nursery
        self.waited: dict[str, int] = {}

    async def ask(
        self, image: Image, name: str, nbytes: int, direction: int = READ
    ) -> trio.CancelScope:
        """Start a task that asks for *nbytes*; how long (ns) it waited will be ``waited[name]``."""
        scope = trio.CancelScope()

        async def request() -> None:
            with scope:
                self.waited[name] = await image.admit(direction, nbytes)

        self.nursery.start_soon(request)
        await wait_all_tasks_blocked()
        return scope

    async def run_until(self, seconds: float) -> None:
        """Let time go by, the limiter's task acting at each instant it has set."""
        end = START + round(seconds * SECOND)
        alarm = self.alarm
        while alarm.instant is not None and alarm.instant <= end:
            alarm.now = max(alarm.now, alarm.instant)
            alarm.ring()
            await wait_all_tasks_blocked()
        alarm.now = end
        await wait_all_tasks_blocked()


def play(
    scenario: Callable[[World], Awaitable[None]],
    default: Limits = NO_LIMITS,
    *,
    dispatcher: bool = True,
) -> None:
    """Run *scenario* with the limiter's own task, unless without *dispatcher*."""

    async def main() -> None:
        with trio.fail_after(20):  # real time: a limiter that never sleeps ends here
            async with trio.open_nursery() as nursery:
                world = World(default, nursery)
                if dispatcher:
                    nursery.start_soon(world.dispatcher.run)
                await wait_all_tasks_blocked()
                await scenario(world)
                nursery.cancel_scope.cancel()

    trio.run(main)
