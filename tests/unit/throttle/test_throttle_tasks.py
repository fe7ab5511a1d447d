"""The limiter's tasks: who waits, who is woken and when."""

from __future__ import annotations

import pytest
from trio.testing import wait_all_tasks_blocked

from tests.unit.throttle.virtual import SECOND, START, World, play
from throttlefs.settings.limits import Limits
from throttlefs.throttle import READ, WRITE, Override

# Waiting.


def test_admit_returns_how_long_the_request_waited() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        for name in ("first", "second", "third"):
            await world.ask(image, name, 1000)
        assert image.waiting == [2, 0]
        assert image.waiting_most == [2, 0]
        await world.run_until(0.5)
        await world.ask(image, "late", 1000)
        await world.run_until(10)
        assert world.waited == {
            "first": 0,
            "second": SECOND,
            "third": 2 * SECOND,
            "late": 3 * SECOND - SECOND // 2,
        }

    play(scenario, Limits(bps=1000))


def test_try_admit_charges_what_goes_and_nothing_else() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        assert image.try_admit(READ, 1000)
        assert not image.try_admit(READ, 1_000_000)
        await world.run_until(1)
        assert image.try_admit(READ, 1)

    play(scenario, Limits(bps=1000))


def test_images_do_not_wait_for_each_other() -> None:
    async def scenario(world: World) -> None:
        for name, rate in (("a", 100), ("b", 1000)):
            image = world.throttle.image(name)
            world.throttle.set_override(image, Override(Limits(bps=rate)))
            await world.ask(image, f"{name}1", 1000)
            await world.ask(image, f"{name}2", 1000)
        await world.run_until(1)
        assert world.waited == {"a1": 0, "b1": 0, "b2": SECOND}
        await world.run_until(10)
        assert world.waited["a2"] == 10 * SECOND

    play(scenario)


# Cancellation.


def test_a_cancelled_request_is_not_charged_and_what_came_behind_it_goes_on() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        await world.ask(image, "first", 1000)
        scope = await world.ask(image, "cancelled", 1_000_000)
        await world.ask(image, "third", 1000)
        await world.ask(image, "fourth", 1000)
        await world.run_until(0.5)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert image.waiting == [2, 0]
        await world.run_until(5)
        assert world.waited == {"first": 0, "third": SECOND, "fourth": 2 * SECOND}

    play(scenario, Limits(bps=1000))


@pytest.mark.parametrize("cancelled", [0, 1, 2])
def test_cancelling_any_of_those_that_wait_leaves_the_others(cancelled: int) -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        image.try_admit(READ, 1)
        scopes = [await world.ask(image, str(number), 1) for number in range(3)]
        scopes[cancelled].cancel()
        await world.run_until(10)
        assert list(world.waited.values()) == [SECOND, 2 * SECOND]
        assert world.waited.keys() == {"0", "1", "2"} - {str(cancelled)}

    play(scenario, Limits(iops=1))


def test_when_the_last_one_is_cancelled_the_alarm_is_switched_off() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        image.try_admit(READ, 1000)
        scope = await world.ask(image, "cancelled", 1000)
        assert world.alarm.instant == START + SECOND
        scope.cancel()
        await wait_all_tasks_blocked()
        assert world.alarm.instant is None
        await world.run_until(100)
        assert world.alarm.times_gone_off == 0
        await world.ask(image, "next", 1000)
        assert world.waited == {"next": 0}

    play(scenario, Limits(bps=1000))


def test_cancelled_just_after_its_release_a_request_has_gone() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        await world.ask(image, "first", 1000)
        scope = await world.ask(image, "released", 1000)
        await world.ask(image, "next", 1000)
        world.alarm.now = START + SECOND
        world.dispatcher.poll()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert not scope.cancelled_caught
        assert world.waited == {"first": 0, "released": SECOND}
        await world.run_until(2)
        assert world.waited["next"] == 2 * SECOND

    play(scenario, Limits(bps=1000))


def test_cancelled_just_before_its_release_a_request_leaves_its_turn_to_the_next() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        await world.ask(image, "first", 1000)
        scope = await world.ask(image, "cancelled", 1000)
        await world.ask(image, "next", 1000)
        world.alarm.now = START + SECOND
        scope.cancel()
        world.dispatcher.poll()
        await wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert world.waited == {"first": 0, "next": SECOND}

    play(scenario, Limits(bps=1000))


def test_cancelling_all_and_opening_the_gates_wakes_nobody_twice() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        scopes = [await world.ask(image, str(number), 1) for number in range(10)]
        for scope in scopes[1::2]:
            scope.cancel()
        world.throttle.open_gates()
        for scope in scopes:
            scope.cancel()
        await wait_all_tasks_blocked()
        assert world.waited.keys() == {"0", "2", "4", "6", "8"}

    play(scenario, Limits(iops=1))


# Gates.


def test_open_gates_let_everything_go_and_closed_ones_hold_again() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        throttle.create_group("g", Limits(bps=1000))
        images = [throttle.image(number) for number in range(10)]
        for image in images[:5]:
            throttle.set_override(image, Override(group="g"))
        went: list[int] = []

        async def request(number: int) -> None:
            await images[number % 10].admit(number % 2, 1000)
            went.append(number)

        for number in range(1000):
            world.nursery.start_soon(request, number)
        await wait_all_tasks_blocked()
        waiting = sum(sum(image.waiting) for image in images)
        assert waiting == 1000 - len(went) > 900

        await world.run_until(0.5)
        throttle.open_gates()
        await wait_all_tasks_blocked()
        assert sorted(went) == list(range(1000))
        assert not any(sum(image.waiting) for image in images)
        assert world.alarm.instant is None

        # Nobody waits while they are open, not even with new limits or in a new image.
        throttle.set_override(images[9], Override(Limits(iops=1)))
        for image in (images[0], images[9], throttle.image("new")):
            for _ in range(10):
                assert image.try_admit(READ, 1 << 20)
                assert await image.admit(WRITE, 1 << 20) == 0

        throttle.close_gates()
        assert not images[0].try_admit(READ, 1000)
        await world.ask(images[0], "held", 1000)
        assert world.waited == {}
        # What the gates let through was not charged: only the first of the group is owed.
        await world.run_until(1)
        assert world.waited == {"held": SECOND // 2}

    play(scenario, Limits(bps=1000))


def test_requests_that_the_gates_let_through_go_in_the_order_of_their_arrival() -> None:
    async def scenario(world: World) -> None:
        images = [world.throttle.image(key) for key in "ab"]
        for image in images:
            image.try_admit(READ, 1)
        woken: list[int] = []

        class Waiter:
            def __init__(self, number: int) -> None:
                self.number = number
                self.abort = None

            def resume(self, value: object) -> None:
                woken.append(self.number)

        monkeypatch = pytest.MonkeyPatch()
        coroutines = []
        with monkeypatch.context() as patch:
            for number in range(20):
                patch.setattr("throttlefs.waiting.running", Waiter(number))
                coroutines.append(images[number % 3 % 2].admit(READ, 1))
                coroutines[-1].send(None)
        world.throttle.open_gates()
        assert woken == list(range(20))
        for coroutine in coroutines:
            coroutine.close()

    play(scenario, Limits(iops=1))
