"""Live changes of images and groups: they act at once on what waits, and nothing slips through."""

from __future__ import annotations

from tests.unit.throttle.virtual import SECOND, World, play
from throttlefs.policy.change import Change
from throttlefs.policy.governor import Governor
from throttlefs.policy.policy import make_policy
from throttlefs.policy.tuning import Tuner
from throttlefs.settings.config import NO_CONFIG
from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.settings.options import parse_options
from throttlefs.throttle import NO_OVERRIDE, Override


def test_a_new_limit_acts_at_once_on_what_waits_and_the_debt_stays_in_bytes() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        await world.ask(image, "first", 10_000)
        await world.ask(image, "next", 1)
        await world.run_until(4)
        world.throttle.set_override(image, Override(Limits(bps=2000)))
        await world.run_until(20)
        assert world.waited["next"] == 7 * SECOND

    play(scenario, Limits(bps=1000))


def test_a_lifted_limit_lets_all_go_and_restored_still_owes_what_went_under_it() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        for name in ("first", "second", "third"):
            await world.ask(image, name, 10_000)
        world.throttle.set_override(image, Override(NO_LIMITS))
        await world.run_until(1)
        assert world.waited == {"first": 0, "second": 0, "third": 0}
        world.throttle.set_override(image, NO_OVERRIDE)
        await world.ask(image, "again", 1)
        await world.run_until(20)
        assert world.waited["again"] == 9 * SECOND

    play(scenario, Limits(bps=1000))


def test_between_changes_made_together_nothing_slips_through() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        throttle.create_group("g", Limits(bps=1000))
        await world.ask(throttle.image("other"), "unlimited", 10_000)
        throttle.set_override(throttle.image("other"), Override(group="g"))
        await world.ask(throttle.image("other"), "owed", 10_000)
        image = throttle.image("a")
        throttle.set_override(image, Override(Limits(bps=1000)))
        await world.ask(image, "first", 10_000)
        await world.ask(image, "held", 1000)
        with throttle.changes():
            throttle.set_override(image, NO_OVERRIDE)
            throttle.set_override(image, Override(group="g"))
        await world.run_until(9)
        assert "held" not in world.waited
        await world.run_until(10)
        assert world.waited["held"] == 10 * SECOND

    play(scenario)


def test_what_one_command_changes_is_changed_at_once() -> None:
    """A group loses its own limit and gets a parent with one: nothing goes in between."""

    async def scenario(world: World) -> None:
        throttle = world.throttle
        governor = Governor(throttle, make_policy(parse_options(["bps=0"]), NO_CONFIG))
        tuner = Tuner(governor, is_open=lambda _: True)
        for name in ("vm", "tenant"):
            throttle.create_group(name, Limits(bps=1000))
        for path, group in ((b"disk", "vm"), (b"other", "tenant")):
            key = (1, len(path))
            throttle.set_override(governor.image(key, path), Override(group=group))
            await world.ask(throttle.image(key), f"first of {group}", 10_000)
        await world.ask(throttle.image((1, 4)), "held", 1000)
        tuner.change_group("vm", Change({}, off=True, parent="tenant"))
        await world.run_until(9)
        assert "held" not in world.waited
        await world.run_until(10)
        assert world.waited["held"] == 10 * SECOND

    play(scenario)
