"""Profiles in flight: a change of all limits and the whole device at once."""

from __future__ import annotations

from tests.unit.control.bare_mount import Mount

M = 1 << 20


def test_a_profile_replaces_all_limits_and_the_device(mount: Mount) -> None:
    mount.open("a.img")
    mount.set_image("a.img", iops=5, iops_max=9, latency="5ms", seed=1)
    (changed,) = mount.set_image("a.img", profile="sd-card")
    assert changed["after"] == {
        "bps_rd": 40 * M,
        "bps_wr": 10**7,
        "profile": "sd-card",
        "latency_rd": "667us",
        "latency_wr": "2ms",
        "queue_depth": "1",
        "weight": 100,
    }
    (changed,) = mount.set_image("a.img", bps_wr="3M", latency_wr="4ms")
    assert changed["after"]["profile"] == "sd-card", "it is that card, with changes"
    assert changed["after"]["latency_wr"] == "4ms"


def test_what_is_given_beside_it_wins(mount: Mount) -> None:
    mount.open("a.img")
    (changed,) = mount.set_image("a.img", profile="aws-gp2", **{"iops-total": 6000, "size": "1T"})
    after = changed["after"]
    assert (after["iops"], after["size"]) == (6000, "1T")
    assert "iops_per_gib" not in after
    assert "iops_max" not in after, "a burst below the rate"


def test_off_takes_it_away(mount: Mount) -> None:
    mount.open("a.img")
    mount.set_image("a.img", profile="sd-card")
    (changed,) = mount.run("x-throttlefs-set", device="a.img", off=True)
    assert changed["after"] == {"weight": 100}


def test_a_group_and_the_default_take_one(mount: Mount) -> None:
    mount.open("a.img")
    mount.run("x-throttlefs-set", values={"profile": "azure-p10"})
    status = mount.run("x-throttlefs-query")
    assert status["default"]["disk"]["profile"] == "azure-p10"
    changed = mount.set_image("a.img", group="disk", profile="hdd-7200")
    assert [one["kind"] for one in changed] == ["group", "image"]
    (group,) = (g for g in mount.run("x-throttlefs-query")["groups"] if g["name"] == "disk")
    assert group["disk"]["rpm"] == "7200"
    message = mount.error(
        "x-throttlefs-set",
        **{"group-name": "disk", "values": {"profile": "hdd-7200", "size": 0}},
    )
    assert message.startswith("seek needs size")


def test_mistakes_change_nothing(mount: Mount) -> None:
    mount.open("a.img")
    before = mount.limits("a.img")
    for values, message in (
        ({"profile": "nvmee"}, "unknown profile 'nvmee'; did you mean 'nvme'?"),
        ({"profile": 5}, "profile: '5' is not the name of a profile"),
        ({"profile": "aws-gp3", "iops_max": 9}, "iops_max=9 is below iops=3000"),
        ({"profile": "nvme", "latency": "5"}, "latency: '5' has no unit"),
    ):
        said = mount.error("x-throttlefs-set", device="a.img", values=values)
        assert said.startswith(message)
    assert mount.limits("a.img") == before


def test_the_configuration_in_force_says_it_in_a_comment(mount: Mount) -> None:
    """As a key it would bring back what was lifted since."""
    mount.open("a.img")
    mount.set_image("a.img", profile="sd-card")
    mount.set_image("a.img", bps_wr=0)
    text = mount.run("x-throttlefs-query-config")["toml"]
    assert '# profile "sd-card", changed or not\nlatency_rd = "667us"' in text
    assert "\nprofile =" not in text
    assert "bps_wr" not in text
