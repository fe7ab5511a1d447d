"""Who is held to what: -o, the file's tables, reload; debts and requests stay."""

from __future__ import annotations

import pytest

from throttlefs.policy.governor import Governor
from throttlefs.policy.policy import Policy, make_policy
from throttlefs.settings.config import parse_config
from throttlefs.settings.limits import Limits
from throttlefs.settings.options import parse_options
from throttlefs.throttle import READ, ImagePolicy, Override, Throttle


class NoAlarm:
    def set(self, instant: int | None) -> None:
        pass

    async def wait(self) -> None:
        raise AssertionError

    def close(self) -> None:
        pass


class Clock:
    now = 10**12

    def __call__(self) -> int:
        return self.now


def policy(options: str, toml: str = "") -> Policy:
    return make_policy(parse_options([options]), parse_config(toml, "limits.toml"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def governor(clock: Clock, options: str, toml: str = "") -> Governor:
    return Governor(Throttle(clock=clock, alarm=NoAlarm()), policy(options, toml))


TOML = """
[[image]]
path = "db/*.img"
bps = "2M"
weight = 300

[[image]]
path = "vm/**"
group = "vms"

[group.vms]
bps = "30M"
parent = "host"

[group.host]
iops = 1000
"""


def limits_of(governor: Governor, key: int, path: bytes) -> Limits:
    return governor.image((0, key), path).meter.limits


def test_the_first_matching_table_decides(clock: Clock) -> None:
    g = governor(clock, "bps=1M", TOML)
    assert limits_of(g, 1, b"db/a.img") == Limits(bps=2 << 20)
    assert g.image((0, 1), b"db/a.img").weight == 300
    vm = g.image((0, 2), b"vm/deep/disk")
    assert vm.meter.limits == Limits()
    assert [node.meter.limits for node in vm.path[1:]] == [Limits(bps=30 << 20), Limits(iops=1000)]
    assert limits_of(g, 3, b"db/deep/a.img") == Limits(bps=1 << 20), "* stops at /"


def test_the_default_may_change_for_images_without_a_table(clock: Clock) -> None:
    g = governor(clock, "bps=1M", TOML)
    own, default = g.image((0, 1), b"db/a.img"), g.image((0, 2), b"x")
    g.throttle.set_default(ImagePolicy(Limits(iops=5)))
    assert own.meter.limits == Limits(bps=2 << 20)
    assert default.meter.limits == Limits(iops=5)


def test_group_in_the_option_string(clock: Clock) -> None:
    g = governor(clock, "bps=1M,group=g")
    image = g.image((0, 1), b"x")
    assert image.meter.limits == Limits()
    assert image.path[1].meter.limits == Limits(bps=1 << 20)


def test_reload_restores_and_keeps_debts(clock: Clock) -> None:
    g = governor(clock, "bps=1M", TOML)
    image = g.image((0, 1), b"db/a.img")
    assert image.try_admit(READ, 20 << 20)
    assert not image.try_admit(READ, 1)
    owed = image.meter.owed_until()
    g.throttle.set_override(image, Override(Limits(bps=100 << 20)))
    g.changed((0, 1))
    g.reload(policy("bps=1M", TOML), lambda key: None)
    assert image.meter.limits == Limits(bps=2 << 20)
    assert image.meter.owed_until() == owed


def test_reload_moves_images_and_removes_groups(clock: Clock) -> None:
    g = governor(clock, "bps=1M", TOML)
    vm = g.image((0, 2), b"vm/disk")
    new = (
        '[[image]]\npath="vm/*"\ngroup="other"\n[group.other]\nbps=7\n[group.host]\nparent="other"'
    )
    g.reload(policy("", new), lambda key: None)
    assert {group.name for group in g.throttle.groups()} == {"other", "host"}
    assert vm.path[1].meter.limits == Limits(bps=7)
    g.reload(policy("bps=1M", TOML), lambda key: b"db/now-here.img")
    assert vm.meter.limits == Limits(bps=2 << 20), "the path it has now decides"
    assert {group.name for group in g.throttle.groups()} == {"vms", "host"}


def test_parents_may_swap_on_reload(clock: Clock) -> None:
    g = governor(clock, "", '[group.a]\nparent="b"\n[group.b]\nbps=1')
    g.reload(policy("", '[group.b]\nparent="a"\n[group.a]\nbps=1'), lambda key: None)
    assert g.throttle.group("b").parent is g.throttle.group("a")
    assert g.throttle.group("a").parent is None


def test_a_released_image_is_dropped_once_it_owes_nothing(clock: Clock) -> None:
    g = governor(clock, "bps=1M", TOML)
    image = g.image((0, 1), b"db/a.img")
    image.try_admit(READ, 2 << 20)
    g.release((0, 1))
    assert g.image((0, 1), b"db/a.img") is image, "it still owes"
    g.release((0, 1))
    clock.now += 2 * 10**9
    other = g.image((0, 9), b"x")
    g.release(other.key)
    assert not g.throttle.knows((0, 1))


def test_a_live_change_outlives_the_handles(clock: Clock) -> None:
    g = governor(clock, "bps=1M")
    g.throttle.set_override(g.image((0, 1), b"a"), Override(Limits(bps=5)))
    g.changed((0, 1))
    g.release((0, 1))
    assert g.image((0, 1), b"a").meter.limits == Limits(bps=5)


def test_paths_of_dropped_images_are_not_kept(clock: Clock) -> None:
    g = governor(clock, "bps=1M")
    for number in range(5000):
        g.image((0, number), b"f%d" % number).try_admit(READ, 100)
        g.release((0, number))
        clock.now += 10**6
    assert len(g.paths) < 500


PARTS = """
[[image]]
path = "slow*"
bps = "20K"

[[image]]
path = "fast*"
bps = "200M"
"""

SLOW, FAST = Limits(bps=20 << 10), Limits(bps=200 << 20)


def test_a_rename_changes_the_table_and_keeps_the_debt(clock: Clock) -> None:
    """The ordinary "download to x.part, rename" used to keep the limits of the first name."""
    g = governor(clock, "", PARTS)
    image = g.image((0, 1), b"fast.img")
    assert image.meter.limits == FAST
    assert image.try_admit(READ, 1 << 20)
    g.renamed((0, 1), b"slow.img")
    assert image.meter.limits == SLOW
    assert not image.try_admit(READ, 1)
    g.renamed((0, 1), b"other.img")
    assert image.meter.limits == Limits()
    g.renamed((0, 2), b"slow.img")  # of a file that nobody has open
    assert not g.throttle.knows((0, 2))


def test_of_several_names_the_first_table_decides_in_whatever_order_they_come(
    clock: Clock,
) -> None:
    for names in ([b"fast.img", b"slow.img"], [b"slow.img", b"fast.img"]):
        g = governor(clock, "", PARTS)
        for name in names:
            image = g.image((0, 1), name)
        assert image.meter.limits == SLOW
        g.release((0, 1))
        assert g.image((0, 1), b"fast.img").meter.limits == FAST, "nobody has the other name open"


def test_the_next_file_of_a_number_has_its_own_limits(clock: Clock) -> None:
    """What was deleted and still owes must not hand its limits on."""
    g = governor(clock, "", PARTS)
    image = g.image((0, 1), b"slow1")
    assert image.try_admit(READ, 1 << 20)
    g.removed((0, 1))
    assert g.throttle.knows((0, 1)), "it still owes"
    new = g.image((0, 1), b"fast1")
    assert new.meter.limits == FAST


def test_a_live_change_outlasts_opening_and_renaming(clock: Clock) -> None:
    g = governor(clock, "", PARTS)
    image = g.image((0, 1), b"slow1")
    g.throttle.set_override(image, Override(Limits(bps=7)))
    g.changed((0, 1))
    g.image((0, 1), b"slow1")
    g.renamed((0, 1), b"fast1")
    assert image.meter.limits == Limits(bps=7)
    g.removed((0, 1))
    assert g.image((0, 1), b"fast1").meter.limits == FAST
