"""x-throttlefs-set and reload: what they change, whom it reaches, what is kept."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest

from tests.unit.control.bare_mount import Mount
from throttlefs.control.protocol import parse_request, success
from throttlefs.errors import ThrottlefsError
from throttlefs.policy.policy import make_policy
from throttlefs.settings.config import parse_config
from throttlefs.settings.options import parse_options


def test_a_change_says_what_has_changed(mount: Mount) -> None:
    mount.open("a.img")
    assert mount.set_image("a.img", bps="2M", iops_wr=500) == [
        {
            "kind": "image",
            "name": "a.img",
            "before": {"bps": 4 << 20, "weight": 100},
            "after": {"bps": 2 << 20, "iops_wr": 500, "weight": 100},
        }
    ]


def test_a_rate_may_be_a_fraction_as_a_number_or_as_text(mount: Mount) -> None:
    mount.open("a.img")
    (changed,) = mount.set_image("a.img", iops=0.5, bps="0.1K")
    assert changed["after"] == {"bps": Fraction(1024, 10), "iops": Fraction(1, 2), "weight": 100}
    answer = json.loads(success(changed, parse_request(b'{"execute": "x"}')))
    assert answer["return"]["after"] == {"bps": 102.4, "iops": 0.5, "weight": 100}
    # What a client was told it may send again.
    assert mount.set_image("a.img", **answer["return"]["after"])[0]["before"] == changed["after"]
    assert mount.limits("a.img")["bps"] == Fraction(1024, 10)
    text = mount.run("x-throttlefs-query-config")["toml"]
    assert "bps = 102.4\niops = 0.5\n" in text
    message = mount.error("x-throttlefs-set", device="a.img", values={"iops": 0.0001})
    assert message == "iops: '0.0001' is too small; the smallest rate is 0.001 a second"


def test_one_limit_is_lifted_with_its_burst(mount: Mount) -> None:
    mount.set_image("a.img", bps=5, bps_max=50, bps_max_length=3, iops=5, iops_size="4K")
    mount.set_image("a.img", bps=0)
    assert mount.limits("a.img") == {"group": None, "weight": 100, "iops": 5, "iops_size": 4096}
    mount.set_image("a.img", iops=0, iops_rd=9)
    assert mount.limits("a.img")["iops_size"] == 4096
    mount.set_image("a.img", iops_rd=0)
    assert mount.limits("a.img") == {"group": None, "weight": 100}


def test_off_leaves_the_group_as_well(mount: Mount) -> None:
    image, _ = mount.open("a.img")
    mount.set_image("a.img", group="tenant", bps="2M")
    mount.run("x-throttlefs-set", device="a.img", off=True)
    assert image.parent is None
    assert image.meter.limits.unlimited
    assert mount.governor.throttle.group("tenant").meter.limits.bps == 2 << 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": {"bsp": 1}}, "unknown limit 'bsp'; did you mean 'bps'?"),
        ({"values": {"bps": 1, "bps-total": 2}}, "bps-total is given twice"),
        ({"values": {"group": "", "throttling.group": ""}}, "throttling.group is given twice"),
        ({"values": {"throttling.group": 5}}, "throttling.group: '5' is not the name of a group"),
        ({"values": {"weight": 0}}, "weight: '0' is not a whole number from 1 to 10000"),
        ({"values": {"iops": 5, "bps": "x"}}, "bps: 'x' is not a number; write e.g. 3000, 10K or"),
        ({"values": {"group": "tenat"}}, "there is no group 'tenat'; did you mean 'tenant'?"),
        ({"values": {"group": 5}}, "group: '5' is not the name of a group"),
        ({"values": {"group": False}}, "group: 'False' is not the name of a group"),
        ({"values": {"bps_max": 1}}, "bps_max=1 is below bps=4M"),
        ({"values": {"parent": "tenant"}}, "parent is for groups: give it with"),
        ({"values": {"bps": [1]}}, "bps: '[1]' is not a number"),
        ({"values": {"group": "tenant", "bps": 5, "bps_max": 1}}, "bps_max=1 is below bps=5"),
        ({"values": [], "off": True}, "Invalid parameter type for 'values', expected: object"),
        ({"create": True}, "'create' needs 'group-name'"),
        ({"values": {"cache": "none"}}, "cache cannot change in flight"),
        ({"group-name": "x"}, "Need at most one of 'device' and 'group-name'"),
        ({"all": True}, "'all' goes with neither 'device' nor 'group-name'"),
    ],
)
def test_an_invalid_change_is_not_applied_at_all(
    mount: Mount, arguments: dict[str, Any], message: str
) -> None:
    text = mount.error("x-throttlefs-set", device="a.img", **arguments)
    assert text.startswith(message)
    assert list(mount.governor.throttle.images()) == []


def test_the_default_holds_for_who_has_no_word_of_his_own(mount: Mount) -> None:
    mount.open("a.img")
    mount.open("ruled.img")
    mount.set_image("b.img", bps=7)
    mount.run("x-throttlefs-set", values={"bps": "9M"})
    assert mount.limits("a.img")["bps"] == 9 << 20
    assert mount.limits("b.img")["bps"] == 7
    assert "bps" not in mount.limits("ruled.img")
    assert mount.limits("dir/c.img")["bps"] == 9 << 20


def test_all_is_every_image_too(mount: Mount) -> None:
    mount.open("ruled.img")
    mount.set_image("b.img", bps=7)
    mount.run("x-throttlefs-set", all=True, values={"bps": 11})
    for device in ("a.img", "b.img", "ruled.img"):
        assert mount.limits(device)["bps"] == 11
    mount.run("x-throttlefs-set", all=True, off=True)
    for device in ("a.img", "b.img", "ruled.img"):
        assert mount.limits(device) == {"group": None, "weight": 100}


def test_all_is_nothing_if_one_image_cannot_be_so(mount: Mount) -> None:
    mount.set_image("b.img", bps=100, bps_max=200)
    text = mount.error("x-throttlefs-set", all=True, values={"bps": 1000})
    assert text == "bps_max=200 is below bps=1000: a burst's rate must be at least that"


def test_a_mistyped_group_is_not_made(mount: Mount) -> None:
    text = mount.error("x-throttlefs-set", group__name="tenat", values={"bps": 5})
    assert text == (
        "there is no group 'tenat'; did you mean 'tenant'?"
        " To make one: throttlefs set --group NAME --create"
    )
    text = mount.error("x-throttlefs-set", group__name="qqq", values={"bps": 5})
    assert text.startswith("there is no group 'qqq'; the groups are 'tenant'. To make one:")
    assert [group.name for group in mount.governor.throttle.groups()] == ["tenant"]
    mount.run("x-throttlefs-set", group__name="tenant", create=True, values={"bps": 5})
    assert mount.governor.throttle.group("tenant").meter.limits.bps == 5


def test_groups_are_made_changed_nested_and_removed(mount: Mount) -> None:
    values = {"bps": 5, "parent": "tenant"}
    mount.run("x-throttlefs-set", group__name="db", create=True, values=values)
    (group, _) = mount.run("x-throttlefs-query")["groups"]
    assert group == {
        "name": "db",
        "limits": {"bps": 5},
        "parent": "tenant",
        "weight": 100,
        "members": 0,
    }
    cycle = mount.error("x-throttlefs-set", group__name="tenant", values={"parent": "db"})
    assert cycle == "group 'tenant' cannot have the parent 'db': it is below it"
    mount.set_image("a.img", group="db")
    in_use = mount.error("x-throttlefs-remove-group", group__name="db")
    assert in_use == "group 'db' is in use: it has 1 member"
    mount.set_image("a.img", group="")
    mount.run("x-throttlefs-remove-group", group__name="db")
    assert [g["name"] for g in mount.run("x-throttlefs-query")["groups"]] == ["tenant"]
    of_file = mount.error("x-throttlefs-remove-group", group__name="tenant")
    assert "named by -o or the configuration file" in of_file


@pytest.mark.parametrize("name", ["", "a\nb", "\ud800", "x" * 256])
def test_a_group_has_a_printable_name(mount: Mount, name: str) -> None:
    text = mount.error("x-throttlefs-set", group__name=name, values={"bps": 1})
    assert text.startswith("group: ")
    assert [group.name for group in mount.governor.throttle.groups()] == ["tenant"]


def test_groups_nest_32_levels_deep_and_no_deeper(mount: Mount) -> None:
    for number in range(32):
        values = {"parent": f"g{number - 1}"} if number else {}
        mount.run("x-throttlefs-set", group__name=f"g{number}", create=True, values=values)
    for name, parent in (("new", "g31"), ("g0", "tenant")):
        values = {"parent": parent}
        text = mount.error("x-throttlefs-set", group__name=name, create=True, values=values)
        assert text == "parent: more than 32 groups would be one inside the other"
    mount.set_image("a.img", group="g31")


def test_reload_restores_what_the_file_says(mount: Mount) -> None:
    before = mount.run("x-throttlefs-query")
    mount.set_image("a.img", bps=1, weight=5)
    mount.set_image("ruled.img", group="new", bps=5)
    mount.run("x-throttlefs-set", values={"iops": 1})
    mount.run("x-throttlefs-set", group__name="tenant", values={"bps": 1})
    mount.run("x-throttlefs-reload")
    after = mount.run("x-throttlefs-query")
    assert after["groups"] == before["groups"]
    assert after["default"] == before["default"]
    assert mount.limits("a.img") == {"group": None, "weight": 100, "bps": 4 << 20}
    assert mount.limits("ruled.img") == {"group": None, "weight": 100, "iops": 50}


def test_a_reload_that_fails_says_why(mount: Mount) -> None:
    mount.reload_error = ThrottlefsError("limits.toml: line 3 is not UTF-8")
    assert mount.error("x-throttlefs-reload") == "limits.toml: line 3 is not UTF-8"


def test_a_removed_file_takes_its_limits_along(mount: Mount) -> None:
    mount.set_image("a.img", bps=5)
    (image,) = mount.governor.throttle.images()
    mount.governor.removed(image.key)  # type: ignore[arg-type]
    assert mount.limits("a.img")["bps"] == 4 << 20


def test_what_is_in_force_can_be_saved_as_a_file(mount: Mount) -> None:
    (mount.source / "odd [1]*.img").write_bytes(b"")
    mount.set_image("odd [1]*.img", bps="1.5M", iops=100, iops_size="4K")
    mount.set_image("a.img", group="db two", bps=77)
    mount.set_image("b.img", weight=7)
    mount.run("x-throttlefs-set", device="dir/c.img", off=True)
    mount.run("x-throttlefs-set", values={"bps": "6M", "weight": 50})
    mount.run("x-throttlefs-set", group__name="db two", values={"parent": "tenant", "weight": 9})
    text = mount.run("x-throttlefs-query-config")["toml"]
    saved = make_policy(parse_options([]), parse_config(text, "saved.toml"))
    for device in ("odd [1]*.img", "a.img", "b.img", "dir/c.img", "ruled.img", "new.img"):
        said = saved.for_path(device.encode())
        found = {"group": said.group, "weight": said.weight, **said.limits.as_dict()}
        if (mount.source / device).exists():
            assert found == mount.limits(device), device
    assert saved.groups["db two"].limits.bps == 77
    assert (saved.groups["db two"].parent, saved.groups["db two"].weight) == ("tenant", 9)
    assert saved.default.limits.bps == 6 << 20


def test_a_live_change_of_an_image_with_a_table_can_be_saved(mount: Mount) -> None:
    mount.set_image("ruled.img", bps=77)
    saved = parse_config(mount.run("x-throttlefs-query-config")["toml"], "saved.toml")
    (rule,) = saved.images
    assert (rule.glob.text, rule.limits and rule.limits.bps) == ("ruled.img", 77)
