"""Changes for a time: who is held to them, and that what was before comes back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.policy.test_governor import TOML, Clock, NoAlarm, policy
from throttlefs.device import Disk
from throttlefs.errors import ThrottlefsError
from throttlefs.policy.change import Change, TuningError
from throttlefs.policy.governor import Governor
from throttlefs.policy.loading import overlays_of
from throttlefs.policy.overlays import Overlay, Overlays
from throttlefs.policy.state import group_policy, image_state
from throttlefs.policy.tuning import Tuner
from throttlefs.settings.scenario import TimedChange
from throttlefs.throttle import WRITE, Throttle


class World:
    """A governor with overlays; images have their place in `paths` as inode number."""

    paths = (b"a.img", b"db/x.img", b"db/y.img", b"vm/1")

    def __init__(self, options: str = "iops=500", toml: str = TOML) -> None:
        self.clock = Clock()
        self.policy = policy(options, toml)
        self.governor = Governor(
            Throttle(clock=self.clock, alarm=NoAlarm(), new_model=Disk), self.policy
        )
        self.tuner = Tuner(self.governor, lambda _: True)
        self.overlays = Overlays(self.governor)

    def open(self, path: bytes) -> None:
        self.governor.image((1, self.paths.index(path)), path)

    def close(self, path: bytes) -> None:
        self.governor.release((1, self.paths.index(path)))

    def set(self, path: bytes, **values: Any) -> None:
        self.tuner.change_image((1, self.paths.index(path)), path, Change.parse(values.items()))

    def held(self, path: bytes) -> dict[str, Any]:
        image = self.governor.image((1, self.paths.index(path)), path)
        return {**image_state(image), "weight": image.weight}

    def state(self) -> list[Any]:
        """All that anything is held to."""
        governor = self.governor
        images = [
            (image.key, image.override, image_state(image), image.parent and image.parent.name)
            for image in governor.throttle.images()
        ]
        groups = [(group.name, group_policy(group)) for group in governor.throttle.groups()]
        return [governor.policy.default, groups, sorted(images, key=lambda one: str(one[0]))]


def overlay(**table: Any) -> Overlay:
    return Overlay(TimedChange.parse(table))


def test_images_by_path_open_before_or_after() -> None:
    world = World()
    world.open(b"db/x.img")
    before = world.state()
    world.overlays.set_active([overlay(path="db/*", bps="100K")])
    assert world.held(b"db/x.img") == {"bps": 100 << 10, "weight": 300}
    assert world.held(b"a.img") == {"iops": 500, "weight": 100}
    world.overlays.set_active([])
    world.close(b"a.img")
    assert world.state() == before
    assert world.held(b"db/y.img") == {"bps": 2 << 20, "weight": 300}


def test_an_image_opened_meanwhile_is_held_too_and_let_go() -> None:
    world = World()
    world.overlays.set_active([overlay(path="db/*", iops=7)])
    world.open(b"db/y.img")
    assert world.held(b"db/y.img") == {"bps": 2 << 20, "iops": 7, "weight": 300}
    world.overlays.set_active([])
    assert world.held(b"db/y.img") == {"bps": 2 << 20, "weight": 300}


def test_the_default_and_a_group() -> None:
    world = World()
    for path in world.paths:
        world.open(path)
    before = world.state()
    world.overlays.set_active([overlay(bps="1M"), overlay(group="vms", bps="5M", weight=7)])
    assert world.held(b"a.img") == {"iops": 500, "bps": 1 << 20, "weight": 100}
    assert world.held(b"db/x.img") == {"bps": 2 << 20, "weight": 300}  # it has its own
    group = world.governor.throttle.group("vms")
    assert (group.meter.limits.bps, group.weight) == (5 << 20, 7)
    world.overlays.set_active([])
    assert world.state() == before


def test_latencies_come_and_go() -> None:
    world = World("iops=500,latency=1ms", "")
    world.open(b"a.img")
    world.open(b"db/x.img")
    before = world.state()
    world.overlays.set_active([overlay(path="db/*", latency="20ms"), overlay(latency_wr="5ms")])
    assert world.held(b"a.img") == {
        "iops": 500,
        "latency": "1ms",
        "latency_wr": "5ms",
        "weight": 100,
    }
    assert world.held(b"db/x.img")["latency"] == "20ms"
    world.overlays.set_active([])
    assert world.state() == before


def test_two_overlap_and_each_ends_alone() -> None:
    world = World()
    world.open(b"db/x.img")
    one, two = overlay(path="db/*", bps="100K", iops=9), overlay(path="**", bps="50K")
    seen = []
    for active in ([one], [one, two], [two], [one, two], [one], []):
        world.overlays.set_active(active)
        held = world.held(b"db/x.img")
        seen.append((held.get("bps", 0) >> 10, held.get("iops")))
    assert seen == [(100, 9), (50, 9), (50, None), (50, 9), (100, 9), (2048, None)]


def test_a_live_change_meanwhile_stays() -> None:
    world = World()
    for path in world.paths:
        world.open(path)
    world.set(b"db/y.img", bps=5)
    world.overlays.set_active([overlay(path="**", bps="100K"), overlay(iops=3)])
    assert world.held(b"db/y.img")["bps"] == 100 << 10
    world.set(b"db/x.img", bps=77)
    world.tuner.change_default(Change.parse({"iops": 44}.items()))
    world.overlays.set_active([])
    assert world.held(b"db/x.img")["bps"] == 77
    assert world.held(b"db/y.img")["bps"] == 5  # live, too, but from before
    assert world.held(b"a.img") == {"iops": 44, "weight": 100}


def test_a_reload_restores_what_is_below() -> None:
    world = World()
    for path in world.paths:
        world.open(path)
    world.set(b"db/y.img", bps=5)
    world.overlays.set_active([overlay(path="db/*", iops=3), overlay(group="vms", bps="5M")])
    new = policy("iops=600", TOML.replace('"2M"', '"3M"'))
    world.overlays.around(lambda: world.governor.reload(new, lambda _: None))
    assert world.held(b"db/x.img") == {"bps": 3 << 20, "iops": 3, "weight": 300}
    assert world.held(b"db/y.img") == {"bps": 3 << 20, "iops": 3, "weight": 300}
    assert world.governor.throttle.group("vms").meter.limits.bps == 5 << 20
    world.overlays.set_active([])
    assert world.held(b"db/y.img") == {"bps": 3 << 20, "weight": 300}
    assert world.held(b"a.img") == {"iops": 600, "weight": 100}
    assert world.governor.throttle.group("vms").meter.limits.bps == 30 << 20


def test_debt_outlives_another_change() -> None:
    world = World("iops=0", "")
    image = world.governor.image((1, 0), b"a.img")
    slow = overlay(path="a.img", bps="1K")
    world.overlays.set_active([slow])
    assert image.try_admit(WRITE, 1 << 20)
    assert not image.try_admit(WRITE, 1)
    world.overlays.set_active([slow, overlay(path="a.img", weight=5)])
    assert not image.try_admit(WRITE, 1)
    world.overlays.set_active([])
    assert image.try_admit(WRITE, 1 << 20)


def test_a_profile_is_none() -> None:
    with pytest.raises(TuningError, match="a profile cannot change for a time"):
        overlay(profile="hdd-7200")


def test_one_that_cannot_hold_is_left_out_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World("bps=10M,bps_max=20M", "")
    world.open(b"a.img")
    wrong = overlay(bps="30M")
    with pytest.raises(TuningError, match="bps_max=20M is below bps=30M"):
        world.overlays.check([wrong])
    world.overlays.set_active([wrong])
    world.overlays.set_active([wrong, overlay(iops=5)])
    assert world.held(b"a.img")["bps"] == 10 << 20
    assert world.held(b"a.img")["iops"] == 5
    assert [record.message for record in caplog.records] == [
        "bps=30M cannot hold: bps_max=20M is below bps=30M: a burst's rate must be at least that"
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"bsp": 1}, "[[change]] number 1: unknown limit 'bsp'; did you mean 'bps'?"),
        ({"bps": "x"}, "[[change]] number 1: bps: 'x' is not a number"),
        ({"bps": 1, "group": "vmss"}, "[[change]] number 1: there is no group 'vmss'; did you"),
        ({"parent": "vms"}, "[[change]] number 1: parent is for groups"),
        ({"group": "vms", "parent": "x"}, "[[change]] number 1: a group or a parent cannot change"),
    ],
)
def test_what_can_be_nowhere_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ThrottlefsError) as caught:
        overlays_of([TimedChange.parse(table)], ["vms"])
    assert str(caught.value).startswith(message)


TABLES: list[dict[str, Any]] = [
    {"path": "db/*", "bps": "100K"},
    {"path": "**", "iops": 4, "weight": 9},
    {"iops": 3, "bps_wr": "1M"},
    {"group": "vms", "bps": "1M"},
    {"path": "vm/1", "bps": 0},
    {"path": "**", "latency": "5ms", "queue_depth": 2},
    {"latency_flush": "20ms"},
    {"group": "vms", "latency_wr": "1ms/9ms"},
]


@given(st.lists(st.sets(st.integers(0, len(TABLES) - 1)), max_size=8), st.sets(st.integers(0, 3)))
def test_whatever_came_and_went_all_is_as_before(sets: list[set[int]], opened: set[int]) -> None:
    world = World()
    for number in opened:
        world.open(world.paths[number])
    before = world.state()
    overlays = [overlay(**table) for table in TABLES]
    for active in sets:
        world.overlays.set_active(overlays[number] for number in sorted(active))
        alone = World()
        for number in opened:
            alone.open(alone.paths[number])
        alone.overlays.set_active(overlays[number] for number in sorted(active))
        assert world.state() == alone.state()  # it does not matter what held before
    world.overlays.set_active([])
    assert world.state() == before
