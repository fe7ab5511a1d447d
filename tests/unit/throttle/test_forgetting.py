"""What a closed image owes is remembered until it is paid for; what was not moved is not owed."""

from __future__ import annotations

import sys

from trio.testing import wait_all_tasks_blocked

from tests.unit.throttle.virtual import SECOND, World, play
from throttlefs.settings.limits import Limits
from throttlefs.throttle import READ, ImagePolicy, Override

# Refunds.


def test_a_refund_lets_a_waiting_request_go_earlier() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        await world.ask(image, "large", 10_000)
        await world.ask(image, "next", 1000)
        await world.ask(image, "last", 1000)
        await world.run_until(1)
        image.refund(READ, 10_000, 3000)
        await world.run_until(2.5)
        assert world.waited == {"large": 0}
        await world.run_until(20)
        assert world.waited == {"large": 0, "next": 3 * SECOND, "last": 4 * SECOND}

    play(scenario, Limits(bps=1000))


def test_a_refund_lets_go_at_once_what_is_due_by_it() -> None:
    async def scenario(world: World) -> None:
        world.throttle.create_group("g", Limits(bps=1000))
        world.throttle.set_default(ImagePolicy(group="g"))
        first, second = world.throttle.image("a"), world.throttle.image("b")
        await world.ask(first, "large", 10_000)
        await world.ask(second, "next", 1000)
        await world.run_until(4)
        first.refund(READ, 10_000, 1000)
        await wait_all_tasks_blocked()
        assert world.waited == {"large": 0, "next": 4 * SECOND}

    play(scenario)


def test_a_refund_gives_back_bytes_but_not_the_request() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        await world.ask(image, "empty", 10_000)
        image.refund(READ, 10_000, 0)
        await world.ask(image, "next", 1)
        await world.run_until(5)
        assert world.waited == {"empty": 0, "next": SECOND}

    play(scenario, Limits(bps=1000, iops=1))


def test_what_is_withdrawn_after_it_went_counts_for_nothing() -> None:
    async def scenario(world: World) -> None:
        world.throttle.create_group("g", Limits(bps=1000, iops=1))
        world.throttle.set_default(ImagePolicy(group="g"))
        first, second = world.throttle.image("a"), world.throttle.image("b")
        await world.ask(first, "withdrawn", 10_000)
        first.refund(READ, 10_000, None)
        await world.ask(second, "next", 1000)
        await world.ask(first, "last", 1000)
        await world.run_until(5)
        assert world.waited == {"withdrawn": 0, "next": 0, "last": SECOND}

    play(scenario)


# Forgetting.


def test_closing_and_opening_an_image_is_no_way_round_what_it_owes() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        await world.ask(throttle.image("a"), "first", 10_000)
        throttle.forget("a")
        assert throttle.knows("a")
        await world.run_until(4)
        throttle.forget("unknown")
        await world.ask(throttle.image("a"), "again", 1000)
        await world.run_until(20)
        assert world.waited == {"first": 0, "again": 6 * SECOND}

    play(scenario, Limits(bps=1000))


def test_a_forgotten_image_is_dropped_once_it_owes_nothing() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        throttle.create_group("g", Limits(bps=1000))
        throttle.set_default(ImagePolicy(Limits(bps=1000), "g"))
        await world.ask(throttle.image("a"), "first", 10_000)
        throttle.set_default(ImagePolicy(Limits(bps=1000)))
        throttle.forget("a")
        await world.run_until(9.9)
        throttle.forget("unknown")
        assert throttle.knows("a")
        await world.run_until(10.1)
        throttle.forget("unknown")
        assert not throttle.knows("a")
        assert list(throttle.images()) == []
        throttle.remove_group("g")

    play(scenario)


def test_a_dropped_image_leaves_its_group() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        group = throttle.create_group("g", Limits(bps=1000))
        image = throttle.image("a")
        throttle.set_override(image, Override(group="g"))
        assert group.members == {image}
        throttle.forget("a", keep_settings=False)
        assert group.members == set()
        throttle.remove_group("g")

    play(scenario)


def test_an_image_that_owes_nothing_is_dropped_at_once() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        throttle.image("a")
        throttle.forget("a")
        assert not throttle.knows("a")

    play(scenario, Limits(bps=1000))


def test_what_was_said_of_an_image_is_a_reason_to_keep_it() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        image = throttle.image("a")
        throttle.set_override(image, Override(Limits(bps=1)))
        throttle.forget("a")
        assert throttle.image("a") is image
        throttle.forget("a", keep_settings=False)
        assert not throttle.knows("a")

    play(scenario)


def test_an_image_that_is_open_again_is_not_dropped() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        image = throttle.image("a")
        await world.ask(image, "first", 1000)
        throttle.forget("a")
        assert throttle.image("a") is image
        await world.run_until(5)
        throttle.forget("unknown")
        assert throttle.image("a") is image

    play(scenario, Limits(bps=1000))


def test_an_image_in_which_something_waits_is_not_dropped() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        throttle.create_group("g", Limits(bps=1000))
        throttle.set_default(ImagePolicy(group="g"))
        await world.ask(throttle.image("other"), "other", 10_000)
        await world.ask(throttle.image("a"), "waits", 1000)
        throttle.forget("a")
        await world.run_until(5)
        throttle.forget("unknown")
        assert throttle.knows("a")
        await world.run_until(20)
        assert world.waited["waits"] == 10 * SECOND
        throttle.forget("unknown")
        assert not throttle.knows("a")

    play(scenario)


def test_many_forgotten_images_do_not_pile_up() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        most = 0
        for number in range(5000):
            assert throttle.image(number).try_admit(READ, 1000)
            throttle.forget(number)
            world.alarm.now += SECOND // 100  # each owes for a second
            most = max(most, len(list(throttle.images())))
        assert 90 <= most <= 110

    play(scenario, Limits(bps=1000))


def test_an_image_that_is_closed_over_and_over_is_remembered_once() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        image = throttle.image("a")
        assert image.try_admit(READ, 1_000_000)
        throttle.forget("a")
        references = sys.getrefcount(image)
        for _ in range(1000):
            throttle.image("a")
            throttle.forget("a")
        assert sys.getrefcount(image) == references

    play(scenario, Limits(bps=1000))
