"""The limiter's own task and its alarm: when it wakes, and when it sleeps."""

from __future__ import annotations

import select

import trio
from trio.testing import wait_all_tasks_blocked

from tests.unit.throttle.virtual import SECOND, START, World, play
from throttlefs.settings.limits import Limits
from throttlefs.throttle import READ, WRITE, ImagePolicy, Override, Throttle, TimerfdAlarm
from throttlefs.throttle.wakeups import PATIENCE_NS


def test_the_task_sleeps_while_nothing_waits() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        for second in range(100):
            await world.run_until(second)
            assert image.try_admit(READ, 1000)
            assert await world.throttle.image("b").admit(WRITE, 1000) == 0
        assert world.alarm.instant is None
        assert world.alarm.times_gone_off == 0
        assert world.alarm.times_set == 0

    play(scenario, Limits(bps=1000))


def test_the_alarm_is_set_once_for_each_instant_and_no_more() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        for number in range(100):
            await world.ask(image, str(number), 1)
        assert world.alarm.times_set == 1
        await world.run_until(60)
        assert len(world.waited) == 61
        assert world.alarm.times_gone_off == 60
        assert world.alarm.times_set <= 62
        await world.run_until(1000)
        assert len(world.waited) == 100
        assert world.alarm.instant is None
        assert world.alarm.times_gone_off == 99
        assert world.alarm.times_set <= 101

    play(scenario, Limits(iops=1))


def test_changes_that_change_nothing_do_not_set_the_alarm() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        await world.ask(image, "first", 1000)
        await world.ask(image, "second", 1000)
        times = world.alarm.times_set
        for _ in range(100):
            world.throttle.set_override(image, Override(Limits(bps=1000)))
            world.throttle.set_default(ImagePolicy())
            world.dispatcher.poll()
        assert world.alarm.times_set == times
        await world.run_until(1)
        assert world.waited["second"] == SECOND

    play(scenario, Limits(bps=1000))


def test_poll_does_nothing_unless_something_is_due() -> None:
    """As the session loop uses it: it watches the descriptor and there is no task."""

    async def scenario(world: World) -> None:
        dispatcher, alarm = world.dispatcher, world.alarm
        assert dispatcher.fileno() == alarm.fileno()
        dispatcher.poll()
        assert alarm.times_set == 0
        image = world.throttle.image("a")
        for name in ("first", "second", "third"):
            await world.ask(image, name, 1000)
        assert alarm.times_set == 1
        assert alarm.instant == START + SECOND
        for _ in range(3):
            dispatcher.poll()
        alarm.now = START + SECOND - 1
        dispatcher.poll()
        await wait_all_tasks_blocked()
        assert world.waited == {"first": 0}
        assert alarm.times_set == 1
        alarm.now = START + SECOND
        dispatcher.poll()
        dispatcher.poll()
        await wait_all_tasks_blocked()
        assert world.waited == {"first": 0, "second": SECOND}
        assert alarm.times_set == 2
        assert alarm.instant == START + 2 * SECOND

    play(scenario, Limits(bps=1000), dispatcher=False)


def test_a_late_poll_makes_nobody_wait_for_the_lost_time() -> None:
    """Late by less than the slack, the limiter makes up for it."""

    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        for number in range(5):
            await world.ask(image, str(number), 1)
        for number in range(1, 5):
            world.alarm.now = START + number * SECOND // 100 + 1_000_000
            world.dispatcher.poll()
            await wait_all_tasks_blocked()
            if number < 4:
                assert world.alarm.instant == START + (number + 1) * SECOND // 100
        assert len(world.waited) == 5

    play(scenario, Limits(iops=100), dispatcher=False)


def plan_and_sleep(world: World) -> None:
    """What the session loop does before it sleeps."""
    world.dispatcher.plan(world.alarm.now)
    world.dispatcher.before_sleep()


def test_the_alarm_leads_what_is_alone_and_nothing_goes_before_it_is_due() -> None:
    async def scenario(world: World) -> None:
        dispatcher, alarm = world.dispatcher, world.alarm
        image = world.throttle.image("a")
        dispatcher.pace(100_000, 0)
        for name in ("first", "second"):
            await world.ask(image, name, 1000)
        plan_and_sleep(world)
        assert alarm.instant == START + SECOND - 100_000
        assert dispatcher.scheduler.next_due == START + SECOND
        alarm.now = alarm.instant
        dispatcher.poll()
        await wait_all_tasks_blocked()
        assert world.waited == {"first": 0}
        dispatcher.pace(0, 0)
        plan_and_sleep(world)
        assert alarm.instant == START + SECOND

    play(scenario, Limits(bps=1000), dispatcher=False)


def test_changes_set_the_alarm_while_the_loop_sleeps() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        world.dispatcher.pace(0, 0)
        for name in ("first", "second"):
            await world.ask(image, name, 1000)
        plan_and_sleep(world)
        assert world.alarm.instant == START + SECOND
        world.throttle.set_override(image, Override(Limits(bps=2000)))
        assert world.alarm.instant == START + SECOND // 2

    play(scenario, Limits(bps=1000), dispatcher=False)


def test_a_group_that_hosts_share_is_not_let_wait_for_longer_than_it_must() -> None:
    """How long its members wait tells whether it holds them up."""

    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        world.dispatcher.pace(0, 0)
        for number in range(9):
            await world.ask(image, str(number), 1000)
        world.alarm.now = START + SECOND
        world.dispatcher.poll()
        plan_and_sleep(world)
        assert world.alarm.instant == START + 2 * SECOND + PATIENCE_NS
        world.throttle.create_group("tenant", Limits(bps=1000), shared=True)
        plan_and_sleep(world)
        assert world.alarm.instant == START + 2 * SECOND

    play(scenario, Limits(bps=1000), dispatcher=False)


def test_an_alarm_is_switched_off_only_if_it_has_not_gone_off() -> None:
    async def scenario(world: World) -> None:
        dispatcher, alarm = world.dispatcher, world.alarm
        image = world.throttle.image("a")
        await world.ask(image, "first", 1000)
        second = await world.ask(image, "second", 1000)
        alarm.now = START + SECOND
        dispatcher.poll()
        await wait_all_tasks_blocked()
        assert alarm.times_set == 1
        assert "second" in world.waited
        second = await world.ask(image, "third", 1000)
        assert alarm.instant == START + 2 * SECOND
        second.cancel()
        await wait_all_tasks_blocked()
        assert alarm.instant is None

    play(scenario, Limits(bps=1000), dispatcher=False)


# The real clock.


def test_on_the_real_clock_with_the_real_alarm() -> None:
    async def main() -> list[int]:
        alarm = TimerfdAlarm()
        try:
            throttle = Throttle(alarm=alarm)
            throttle.set_default(ImagePolicy(Limits(iops=100)))
            image = throttle.image("a")
            waited: list[int] = []

            async def request() -> None:
                waited.append(await image.admit(READ, 4096))

            with trio.fail_after(30):
                async with trio.open_nursery() as dispatcher:
                    dispatcher.start_soon(throttle.dispatcher.run)
                    async with trio.open_nursery() as clients:
                        for _ in range(11):
                            clients.start_soon(request)
                    dispatcher.cancel_scope.cancel()
        finally:
            alarm.close()
        return waited

    waited = trio.run(main)
    assert len(waited) == 11
    # Ten intervals of 10 ms, less the time in which all of them came, and what a busy machine may
    # catch up. Then several go at once, and trio runs their tasks in any order.
    assert SECOND // 50 < max(waited) < 10 * SECOND


def test_the_descriptor_becomes_readable_when_something_is_due() -> None:
    async def main() -> None:
        alarm = TimerfdAlarm()
        try:
            throttle = Throttle(alarm=alarm)
            throttle.set_default(ImagePolicy(Limits(iops=50)))
            dispatcher = throttle.dispatcher
            image = throttle.image("a")
            assert image.try_admit(READ, 1)
            assert select.select([dispatcher.fileno()], [], [], 0)[0] == []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(image.admit, READ, 1)
                await wait_all_tasks_blocked()
                ready, _, _ = select.select([dispatcher.fileno()], [], [], 10)
                assert ready == [dispatcher.fileno()]
                dispatcher.poll()
            assert image.waiting == [0, 0]
        finally:
            alarm.close()

    trio.run(main)
