"""Requests of an image with a device, as tasks: places, flushes, cancellation, open gates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from trio.testing import wait_all_tasks_blocked

from tests.unit.throttle.virtual import START, VirtualAlarm
from throttlefs.device import Disk, Writes
from throttlefs.settings.device import Device
from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.throttle import READ, WRITE, Image, ImagePolicy, Override, Throttle

MS = 1_000_000


class World:
    """A throttle with devices on a virtual clock, and tasks that read, write and flush."""

    def __init__(self, nursery: trio.Nursery, device: Device, limits: Limits) -> None:
        self.alarm = VirtualAlarm()
        self.throttle = Throttle(clock=lambda: self.alarm.now, alarm=self.alarm, new_model=Disk)
        self.throttle.set_default(ImagePolicy(limits, device=device))
        self.image = self.throttle.image("a")
        self.nursery = nursery
        self.done: dict[str, float] = {}
        self.costly: list[str] = []
        nursery.start_soon(self.throttle.dispatcher.run)

    async def start(self, name: str, call: Callable[..., Awaitable[None]]) -> trio.CancelScope:
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await call(name)
                self.done[name] = (self.alarm.now - START) / MS

        self.nursery.start_soon(run)
        await wait_all_tasks_blocked()
        return scope

    async def read(self, name: str) -> None:
        await self._transfer(self.image, READ)

    async def write(self, name: str) -> None:
        await self._transfer(self.image, WRITE)

    async def _transfer(self, image: Image, direction: int) -> None:
        ticket = await image.enter(direction, 4096)
        if ticket is None:
            return
        # Open gates let it go without a place.
        writes: Writes = Writes() if ticket.spot is None else ticket.spot.writes
        if direction == WRITE:
            writes.begin(ticket)
        try:
            await image.finish(ticket)
        except BaseException:
            image.abandon(ticket)
            raise
        finally:
            if direction == WRITE:
                writes.end(ticket, durable=False)

    async def run_until(self, milliseconds: float) -> None:
        end = START + round(milliseconds * MS)
        while self.alarm.instant is not None and self.alarm.instant <= end:
            self.alarm.now = max(self.alarm.now, self.alarm.instant)
            self.alarm.ring()
            await wait_all_tasks_blocked()
        self.alarm.now = end


def play(
    scenario: Callable[[World], Awaitable[None]], limits: Limits = NO_LIMITS, **settings: str
) -> None:
    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                world = World(nursery, Device.parse(settings), limits)
                await scenario(world)
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_requests_take_their_places_in_turn() -> None:
    async def scenario(world: World) -> None:
        for name in "abc":
            await world.start(name, world.read)
        await world.run_until(100)
        assert world.done == {"a": 10, "b": 20, "c": 30}

    play(scenario, latency="10ms", queue_depth="1")


def test_try_admit_leaves_it_to_the_device() -> None:
    async def scenario(world: World) -> None:
        assert not world.image.try_admit(READ, 1)
        world.throttle.set_override(world.image, Override(device=Device()))
        assert world.image.try_admit(READ, 1)

    play(scenario, latency="10ms")


def test_who_waits_for_a_place_leaves_the_queue_when_cancelled() -> None:
    async def scenario(world: World) -> None:
        await world.start("a", world.read)
        scope = await world.start("b", world.read)
        await world.start("c", world.read)
        scope.cancel()
        await world.run_until(100)
        assert world.done == {"a": 10, "c": 20}
        assert world.image.waiting == [0, 0]

    play(scenario, latency="10ms", queue_depth="1")


def test_who_is_served_may_go_but_the_device_works_on() -> None:
    async def scenario(world: World) -> None:
        scope = await world.start("a", world.read)
        await world.start("b", world.read)
        await world.run_until(4)
        scope.cancel()
        await wait_all_tasks_blocked()
        await world.run_until(100)
        assert world.done["b"] == 20

    play(scenario, latency="10ms", queue_depth="1")


def test_open_gates_let_everything_go_and_closed_ones_wait_again() -> None:
    async def scenario(world: World) -> None:
        for name in "abc":
            await world.start(name, world.read)
        await world.run_until(4)
        world.throttle.open_gates()
        await wait_all_tasks_blocked()
        assert world.done == {"a": 4, "b": 4, "c": 4}
        await world.start("d", world.read)
        assert world.done["d"] == 4
        world.throttle.close_gates()
        await world.start("e", world.read)
        await world.run_until(100)
        assert world.done["e"] == 14

    play(scenario, latency="10ms", queue_depth="1")


def test_a_limit_before_the_device_still_holds() -> None:
    async def scenario(world: World) -> None:
        for name in "abc":
            await world.start(name, world.read)
        await world.run_until(1000)
        assert world.done == {"a": 10, "b": 110, "c": 210}

    play(scenario, Limits(iops=10), latency="10ms")


def test_an_image_that_is_closed_and_opened_again_has_its_device() -> None:
    async def scenario(world: World) -> None:
        world.throttle.forget("a")
        world.image = world.throttle.image("a")
        await world.start("a", world.read)
        await world.run_until(100)
        assert world.done == {"a": 10}

    play(scenario, latency="10ms")


# Writes and flushes.


def test_a_flush_is_needed_once_after_a_write() -> None:
    writes = Writes()
    assert not writes.is_dirty
    writes.begin(1)
    assert not writes.is_dirty
    writes.end(1, durable=True)
    assert not writes.is_dirty
    writes.begin(2)
    writes.end(2, durable=False)
    assert writes.is_dirty
    flush = writes.new_flush()
    assert writes.flush_to_join() is flush
    writes.flush_begins(flush)
    assert not writes.is_dirty
    assert writes.flush_to_join() is flush
    writes.flush_ends(flush, has_worked=True)
    assert writes.flush_to_join() is None
    assert not writes.is_dirty


def test_what_is_written_during_a_flush_needs_another() -> None:
    writes = Writes()
    writes.end(1, durable=False)
    flush = writes.new_flush()
    writes.flush_begins(flush)
    writes.begin(2)
    writes.end(2, durable=False)
    assert writes.flush_to_join() is None
    writes.flush_ends(flush, has_worked=True)
    assert writes.is_dirty


def test_after_a_flush_that_failed_everything_is_still_to_be_flushed() -> None:
    writes = Writes()
    writes.end(1, durable=False)
    flush = writes.new_flush()
    writes.flush_begins(flush)
    writes.flush_ends(flush, has_worked=False)
    assert writes.is_dirty
    assert writes.flush_to_join() is None


def test_a_flush_waits_for_the_writes_before_it_and_for_no_later_one() -> None:
    async def scenario(world: World) -> None:
        await world.start("one", world.write)
        await world.run_until(4)
        await world.start("two", world.write)
        spot = world.image.spot_on(world.image.station)  # type: ignore[arg-type]

        async def settle(name: str) -> None:
            await spot.writes.settled()  # type: ignore[attr-defined]

        await world.start("flush", settle)
        await world.run_until(8)
        await world.start("later", world.write)
        await world.run_until(100)
        assert world.done == {"one": 10, "two": 14, "flush": 14, "later": 18}

    play(scenario, latency="10ms")


def test_those_that_join_a_flush_wait_for_its_end() -> None:
    async def scenario(world: World) -> None:
        writes = Writes()
        flush = writes.new_flush()
        results = []

        async def join(name: str) -> None:
            results.append(await flush.wait())

        for name in "ab":
            await world.start(name, join)
        (await world.start("c", join)).cancel()
        await wait_all_tasks_blocked()
        assert results == []
        writes.flush_ends(flush, has_worked=True)
        await wait_all_tasks_blocked()
        assert results == [True, True]

    play(scenario)
