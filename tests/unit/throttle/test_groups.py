"""Groups, the default and weights of a mount's limiter: who is held to what."""

from __future__ import annotations

import pytest
from trio.testing import wait_all_tasks_blocked

from tests.unit.throttle.virtual import SECOND, World, play
from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.throttle import (
    NO_GROUP,
    NO_OVERRIDE,
    READ,
    WRITE,
    GroupCycleError,
    GroupExistsError,
    GroupInUseError,
    ImagePolicy,
    Override,
    UnknownGroupError,
)

MIB = 1 << 20


def test_the_default_holds_for_images_of_which_nothing_else_is_said() -> None:
    async def scenario(world: World) -> None:
        default, own = world.throttle.image("default"), world.throttle.image("own")
        world.throttle.set_override(own, Override(Limits(bps=MIB)))
        for image in (default, own):
            assert image.try_admit(READ, MIB)
            await world.ask(image, str(image.key), 512)
        world.throttle.set_default(ImagePolicy())
        await wait_all_tasks_blocked()
        assert world.waited == {"default": 0}
        world.throttle.set_override(own, NO_OVERRIDE)
        await wait_all_tasks_blocked()
        assert world.waited == {"default": 0, "own": 0}

    play(scenario, Limits(bps=1024))


def test_images_follow_the_default_into_its_group_and_out_of_it() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        group = throttle.create_group("all", Limits(bps=MIB))
        a, b = throttle.image("a"), throttle.image("b")
        throttle.set_default(ImagePolicy(group="all", weight=300))
        throttle.set_override(b, Override(group=NO_GROUP))
        assert a.parent is group
        assert a.weight == 300
        assert b.parent is None
        assert throttle.image("c").parent is group
        assert a.try_admit(READ, MIB)
        assert not throttle.image("c").try_admit(READ, 512)
        throttle.set_default(ImagePolicy())
        assert a.weight == 100
        assert a.try_admit(READ, MIB)
        throttle.set_override(b, Override(group="all"))
        assert not b.try_admit(READ, 512)

    play(scenario)


def test_a_group_inside_another_is_held_to_both() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        throttle.create_group("tenant", Limits(bps=MIB))
        throttle.create_group("vm", Limits(iops=1), parent="tenant", weight=200)
        disk, other = throttle.image("disk"), throttle.image("other")
        throttle.set_override(disk, Override(group="vm"))
        throttle.set_override(other, Override(group="tenant"))
        assert disk.try_admit(READ, MIB)
        assert not other.try_admit(READ, 512)
        throttle.set_group_limits("vm", NO_LIMITS)
        assert not disk.try_admit(READ, 512)
        throttle.set_group_parent("vm", None)
        assert disk.try_admit(READ, MIB)
        throttle.set_group_parent("vm", "tenant")
        assert not disk.try_admit(READ, 512)
        throttle.set_group_limits("tenant", NO_LIMITS)
        assert disk.try_admit(READ, 512)
        assert other.try_admit(READ, 512)

    play(scenario)


def test_putting_a_group_into_another_holds_what_waits_in_it() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        throttle.create_group("tenant", Limits(bps=MIB))
        throttle.create_group("vm", Limits(bps=2 * MIB))
        disk, other = throttle.image("disk"), throttle.image("other")
        throttle.set_override(disk, Override(group="vm"))
        throttle.set_override(other, Override(group="tenant"))
        assert disk.try_admit(READ, 2 * MIB)
        assert other.try_admit(READ, 4 * MIB)
        await world.ask(disk, "disk", 2 * MIB)
        throttle.set_group_parent("vm", "tenant")
        await world.run_until(3.9)
        assert world.waited == {}
        await world.run_until(4)
        assert world.waited == {"disk": 4 * SECOND}

    play(scenario)


def test_weights_of_images_and_groups_can_be_changed() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        throttle.create_group("tenant", Limits(iops=1))
        throttle.create_group("vm", parent="tenant")
        disk, other = throttle.image("disk"), throttle.image("other")
        throttle.set_override(disk, Override(group="vm"))
        throttle.set_override(other, Override(group="tenant"))
        throttle.set_group_weight("vm", 200)
        for number in range(12):
            await world.ask(disk, f"disk{number}", 512)
            await world.ask(other, f"other{number}", 512)
        await world.run_until(8.5)
        by_disk = [name for name in world.waited if name.startswith("disk")]
        assert len(world.waited) == 9
        assert len(by_disk) == 6
        throttle.set_group_weight("vm", 100)
        throttle.set_override(other, Override(group="tenant", weight=200))
        await world.run_until(17.5)
        by_disk = [name for name in world.waited if name.startswith("disk")]
        assert len(world.waited) == 18
        assert 8 <= len(by_disk) <= 10

    play(scenario)


def test_an_order_that_cannot_be_carried_out_changes_nothing() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        image = throttle.image("disk")
        throttle.create_group("a")
        throttle.create_group("b", parent="a")
        throttle.create_group("c", parent="b")
        throttle.set_override(image, Override(group="c"))
        with pytest.raises(UnknownGroupError, match="'x'"):
            throttle.set_override(image, Override(group="x"))
        with pytest.raises(UnknownGroupError):
            throttle.create_group("d", parent="x")
        with pytest.raises(UnknownGroupError):
            throttle.set_default(ImagePolicy(group="x"))
        with pytest.raises(GroupExistsError, match="'a'"):
            throttle.create_group("a")
        with pytest.raises(GroupCycleError, match=r"'a'.*'c'"):
            throttle.set_group_parent("a", "c")
        with pytest.raises(GroupCycleError):
            throttle.set_group_parent("a", "a")
        with pytest.raises(GroupInUseError, match="member"):
            throttle.remove_group("b")
        assert [group.name for group in throttle.groups()] == ["a", "b", "c"]
        assert image.parent is throttle.group("c")
        assert image.weight == 100
        throttle.create_group("empty")
        throttle.set_default(ImagePolicy(group="empty"))
        with pytest.raises(GroupInUseError, match="default"):
            throttle.remove_group("empty")

    play(scenario)


def test_a_group_that_is_removed_and_made_again_owes_what_it_owed() -> None:
    async def scenario(world: World) -> None:
        throttle = world.throttle
        image = throttle.image("disk")
        for second in range(3):
            throttle.create_group("group", Limits(bps=MIB))
            throttle.set_override(image, Override(group="group"))
            assert image.try_admit(READ, 10 * MIB) == (second == 0)
            throttle.set_override(image, NO_OVERRIDE)
            throttle.remove_group("group")
            await world.run_until(second + 1)
        throttle.create_group("group", Limits(bps=MIB))
        throttle.set_override(image, Override(group="group"))
        assert not image.try_admit(READ, 512)
        await world.run_until(10)
        assert image.try_admit(READ, 512)

    play(scenario)


def test_an_unlimited_image_is_never_delayed_by_others() -> None:
    async def scenario(world: World) -> None:
        limited, free = world.throttle.image("limited"), world.throttle.image("free")
        world.throttle.set_override(limited, Override(Limits(bps=1)))
        for number in range(64):
            await world.ask(limited, str(number), MIB)
        times = world.alarm.times_set
        assert all(free.try_admit(direction, MIB) for direction in (READ, WRITE) * 500)
        assert await free.admit(READ, MIB) == 0
        assert world.alarm.times_set == times

    play(scenario)


def test_a_newcomer_does_not_overtake_what_is_due_and_not_yet_released() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("disk")
        await world.ask(image, "first", MIB)
        await world.ask(image, "second", MIB)
        world.alarm.now += SECOND + 50_000  # the dispatcher has not woken yet
        assert not image.try_admit(WRITE, 512)
        await world.ask(image, "late", 512, WRITE)
        await world.run_until(10)
        assert list(world.waited) == ["first", "second", "late"]

    play(scenario, Limits(bps=MIB))
