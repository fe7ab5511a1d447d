"""The settings of slow devices, and rates that grow: set, shown, written and restored."""

from __future__ import annotations

import pytest

from tests.unit.control.bare_mount import Mount
from throttlefs.policy.policy import make_policy
from throttlefs.settings.config import parse_config
from throttlefs.settings.options import parse_options


def shown(mount: Mount, device: str) -> dict[str, object]:
    (image,) = mount.run("x-throttlefs-query", device=device)["images"]
    return image


def test_settings_of_a_device_change_in_flight(mount: Mount) -> None:
    image, _ = mount.open("a.img")
    assert image.station is None
    (changed,) = mount.set_image("a.img", latency_wr="20ms", queue_depth=4, seed="7")
    assert changed["before"] == {"bps": 4 << 20, "weight": 100}
    assert changed["after"] == {
        "bps": 4 << 20,
        "latency_wr": "20ms",
        "queue_depth": "4",
        "seed": "7",
        "weight": 100,
    }
    assert image.station is not None
    assert image.station.model.places == 4
    assert shown(mount, "a.img")["disk"] == {"latency_wr": "20ms", "queue_depth": "4", "seed": "7"}
    assert shown(mount, "a.img")["serving"] == 0
    mount.set_image("a.img", latency_wr=0, queue_depth=0)
    assert image.station is None
    assert shown(mount, "a.img")["disk"] == {"seed": "7"}


def test_off_takes_the_device_away(mount: Mount) -> None:
    image, _ = mount.open("a.img")
    mount.set_image("a.img", latency="5ms")
    mount.run("x-throttlefs-set", device="a.img", off=True)
    assert image.station is None
    assert "disk" not in shown(mount, "a.img")


def test_limits_and_device_are_changed_apart(mount: Mount) -> None:
    image, _ = mount.open("a.img")
    mount.set_image("a.img", latency="5ms")
    assert mount.limits("a.img")["bps"] == 4 << 20
    mount.set_image("a.img", bps="1M")
    assert image.device is not None
    mount.run("block_set_io_throttle", device="a.img", bps=9, **_no_other_limit())
    assert image.device is not None
    assert mount.limits("a.img")["bps"] == 9


def _no_other_limit() -> dict[str, int]:
    return dict.fromkeys(("bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)


def test_with_a_group_the_device_is_the_groups(mount: Mount) -> None:
    one, _ = mount.open("a.img")
    mount.set_image("a.img", group="disk", latency="5ms", queue_depth=1)
    (group,) = [g for g in mount.run("x-throttlefs-query")["groups"] if g["name"] == "disk"]
    assert group["disk"] == {"latency": "5ms", "queue_depth": "1"}
    assert one.device is None
    assert one.station is not None
    assert "disk" not in shown(mount, "a.img")
    # Where devices nest, the nearest counts.
    shared = one.station
    mount.set_image("a.img", latency="1ms")
    assert one.station is one.device is not shared


def test_the_default_reaches_images_that_follow_it(mount: Mount) -> None:
    image, _ = mount.open("a.img")
    mount.run("x-throttlefs-set", values={"latency": "5ms"})
    assert image.station is not None
    mount.restore()
    assert image.station is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latency": "5"}, "latency: '5' has no unit"),
        ({"latency": 5}, "latency: '5' has no unit"),
        ({"latency_rd": "2ms/1ms"}, "latency_rd: '2ms/1ms': percentiles must not fall"),
        ({"latancy": "5ms"}, "unknown limit 'latancy'; did you mean 'latency'?"),
        ({"queue_depth": "many"}, "queue_depth: 'many' is not a whole number"),
        ({"iops_at_least": 5}, "iops_at_least=5 needs iops_per_gib"),
        ({"size": "1K"}, "size=1K is below that of the image, 1M"),
        ({"group": "d", "seek": "1ms"}, "seek needs size"),
        ({"group": "d", "iops_per_gib": 3}, "iops_per_gib needs size"),
    ],
)
def test_wrong_values_change_nothing(mount: Mount, values: dict[str, object], message: str) -> None:
    image, _ = mount.open("a.img")
    image.note_size(1 << 20)
    assert mount.error("x-throttlefs-set", device="a.img", values=values).startswith(message)


# Rates that grow.


def test_rates_grow_with_the_size_that_is_said_or_that_the_image_has(mount: Mount) -> None:
    image, _ = mount.open("a.img")
    mount.set_image("a.img", bps=0, iops_per_gib=3, iops_at_least=100, iops_at_most=16000)
    assert image.meter.limits.iops == 100
    image.note_size(500 << 30)
    assert image.meter.limits.iops == 1500
    assert shown(mount, "a.img")["limits"] == {
        "iops_per_gib": 3,
        "iops_at_least": 100,
        "iops_at_most": 16000,
    }
    assert shown(mount, "a.img")["in-force"] == {"iops": 1500}
    mount.set_image("a.img", size="1T")
    assert image.meter.limits.iops == 3072
    (statistics,) = mount.run("x-throttlefs-query-stats", device="a.img")["images"]
    assert statistics["limits"] == {"iops": 3072}


def test_a_rate_that_is_given_no_longer_grows(mount: Mount) -> None:
    mount.set_image("a.img", bps=0, iops_per_gib=3, iops_at_least=100, iops_max=3000)
    mount.set_image("a.img", iops=500)
    assert mount.limits("a.img") == {"group": None, "weight": 100, "iops": 500, "iops_max": 3000}
    mount.set_image("a.img", iops_per_gib=3)
    assert mount.limits("a.img") == {
        "group": None,
        "weight": 100,
        "iops_per_gib": 3,
        "iops_max": 3000,
    }
    mount.set_image("a.img", iops=1000, iops_per_gib=3)
    assert mount.limits("a.img")["iops"] == 1000
    mount.set_image("a.img", iops_per_gib=0, iops=0)
    assert mount.limits("a.img") == {"group": None, "weight": 100}


def test_a_groups_rates_grow_with_its_size(mount: Mount) -> None:
    values = {"iops_per_gib": 3, "size": "100G"}
    mount.run("x-throttlefs-set", group__name="disk", create=True, values=values)
    group = mount.governor.throttle.group("disk")
    assert group.meter.limits.iops == 300
    mount.run("x-throttlefs-set", group__name="disk", values={"size": "200G"})
    assert group.meter.limits.iops == 600


def test_what_is_in_force_is_written_as_a_file_that_says_the_same(mount: Mount) -> None:
    mount.open("a.img")
    mount.set_image("a.img", iops_per_gib=0.75, latency="200us/2ms/10ms", size="1.5G", seed=3)
    values = {"seek": "1ms/18ms", "rpm": 7200, "size": "1T", "bps_per_gib": "1M"}
    mount.run("x-throttlefs-set", group__name="disk", create=True, values=values)
    mount.run("x-throttlefs-set", values={"latency_flush": "8ms"})
    text = mount.run("x-throttlefs-query-config")["toml"]
    assert 'latency = "200us/2ms/10ms"\n' in text
    config = parse_config(text, "written")
    policy = make_policy(parse_options([]), config)
    assert policy.default == mount.governor.policy.default
    assert str(policy.for_path(b"a.img").device) == "latency=200us/2ms/10ms,size=1.5G,seed=3"
    assert policy.groups["disk"].device.as_text() == {
        "seek": "1ms/18ms",
        "rpm": "7200",
        "size": "1T",
    }


def test_an_image_without_the_default_device_is_written_so(mount: Mount) -> None:
    image, _ = mount.open("a.img")
    mount.run("x-throttlefs-set", values={"latency": "5ms"})
    mount.set_image("a.img", latency=0)
    config = parse_config(mount.run("x-throttlefs-query-config")["toml"], "written")
    policy = make_policy(parse_options([]), config)
    assert not policy.for_path(b"a.img").device.is_slow
    assert policy.default.device.is_slow
    assert image.station is None
