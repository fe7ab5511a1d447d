"""The commands of the control socket on a real limiter with a clock of the test's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from throttlefs.config import parse_config
from throttlefs.control.commands import CommandTable, MountFacts, QemuCommands
from throttlefs.control.extensions import ExtensionCommands
from throttlefs.control.images import Images, device_name
from throttlefs.control.protocol import QmpError
from throttlefs.errors import ThrottlefsError
from throttlefs.fuse.inodes import InodeTable
from throttlefs.governor import Governor
from throttlefs.limits import RATES
from throttlefs.options import parse_options
from throttlefs.policy import make_policy
from throttlefs.stats import ImageStatistics, Statistics
from throttlefs.throttle import READ, Image, Throttle
from throttlefs.tuning import Tuner

NO_LIMIT = dict.fromkeys(RATES, 0)
TOML = """
[[image]]
path = "ruled.img"
iops = 50

[group.tenant]
bps = "30M"
"""


class NoAlarm:
    def set(self, instant: int | None) -> None:
        pass

    async def wait(self) -> None:
        raise AssertionError

    def fileno(self) -> int:
        raise AssertionError

    def close(self) -> None:
        pass


class Mount:
    """What a mount of *source* with ``-o bps=4M`` consists of, but for FUSE."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.now = 10**12
        self.policy = make_policy(parse_options(["bps=4M"]), parse_config(TOML, "limits.toml"))
        self.inodes = InodeTable(os.open(source, os.O_PATH), 100)
        self.statistics = Statistics()
        self.governor = Governor(Throttle(clock=lambda: self.now, alarm=NoAlarm()), self.policy)
        images = Images(self.inodes, self.governor, self.statistics)
        tuner = Tuner(self.governor, images.is_open)
        facts = MountFacts(str(source), "/mnt")
        self.ended = 0
        self.reload_error: ThrottlefsError | None = None
        self.table = CommandTable()
        QemuCommands(facts, images, tuner, self._end).register(self.table)
        self.counts: dict[str, int | None] = {"inodes": 1, "handles": 0}
        ExtensionCommands(
            facts, images, self.governor, tuner, self._reload, lambda: self.counts
        ).register(self.table)

    def _end(self) -> None:
        self.ended += 1

    def _reload(self) -> None:
        if self.reload_error is not None:
            raise self.reload_error
        self.governor.reload(self.policy, self.inodes.path_of)

    def open(self, name: str) -> tuple[Image, ImageStatistics]:
        st = os.stat(self.source / name)
        key = (st.st_dev, st.st_ino)
        path = os.fsencode(name)
        return self.governor.image(key, path), self.statistics.opened(key, path)

    def close(self, image: Image) -> None:
        self.statistics.closed(image.key)
        self.governor.release(image.key)  # type: ignore[arg-type]

    def run(self, command: str, **arguments: Any) -> Any:
        named = {name.replace("__", "-"): value for name, value in arguments.items()}
        return trio.run(self.table.run, command, named)

    def set_image(self, device: str, **values: Any) -> Any:
        return self.run("x-throttlefs-set", device=device, values=values)

    def limits(self, device: str) -> dict[str, Any]:
        (image,) = self.run("x-throttlefs-query", device=device)["images"]
        return {"group": image["group"], "weight": image["weight"], **image["limits"]}

    def error(self, command: str, **arguments: Any) -> str:
        before = self.run("x-throttlefs-query")
        with pytest.raises(ThrottlefsError) as caught:
            self.run(command, **arguments)
        assert self.run("x-throttlefs-query") == before, "something was changed"
        text = str(caught.value)
        assert "\n" not in text
        return text


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    for name in ("a.img", "b.img", "ruled.img"):
        (tmp_path / name).write_bytes(b"x" * 1000)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "c.img").write_bytes(b"")
    mount = Mount(tmp_path)
    yield mount
    mount.inodes.close()


# -- block_set_io_throttle -------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["device", "id"])
def test_a_drive_gets_limits_of_its_own(mount: Mount, argument: str) -> None:
    image, _ = mount.open("a.img")
    limits = NO_LIMIT | {"bps": 1000, "bps_max": 5000, "bps_max_length": 3}
    assert mount.run("block_set_io_throttle", **{argument: "a.img"}, **limits) == {}
    assert image.meter.limits.as_dict() == {"bps": 1000, "bps_max": 5000, "bps_max_length": 3}
    # All limits there are: what is not named again is lifted.
    mount.run("block_set_io_throttle", device="a.img", **NO_LIMIT | {"iops": 7})
    assert image.meter.limits.as_dict() == {"iops": 7}


def test_a_drive_with_a_group_shares_limits(mount: Mount) -> None:
    first, _ = mount.open("a.img")
    second, _ = mount.open("b.img")
    for device in ("a.img", "b.img"):
        limits = NO_LIMIT | {"bps": 5000}
        mount.run("block_set_io_throttle", device=device, group="db", **limits)
    assert first.parent is second.parent is mount.governor.throttle.group("db")
    assert first.parent.meter.limits.as_dict() == {"bps": 5000}  # type: ignore[union-attr]
    assert first.meter.limits.unlimited
    drives = {drive["device"]: drive["inserted"] for drive in mount.run("query-block")}
    for device in ("a.img", "b.img"):
        assert (drives[device]["group"], drives[device]["bps"]) == ("db", 5000)


def test_a_drive_without_limits_leaves_its_group(mount: Mount) -> None:
    image, _ = mount.open("a.img")
    mount.run("block_set_io_throttle", device="a.img", group="db", **NO_LIMIT | {"bps": 5})
    mount.run("block_set_io_throttle", device="a.img", **NO_LIMIT)
    assert image.parent is None
    assert image.meter.limits.unlimited
    (drive,) = mount.run("query-block")
    assert "group" not in drive["inserted"]


def test_what_query_block_says_can_be_set_again(mount: Mount) -> None:
    """libvirt reads a drive's limits and group and sends them back with one changed."""
    image, _ = mount.open("a.img")
    for group in ({}, {"group": "db"}):
        limits = NO_LIMIT | {"iops": 10, "iops_max": 20, "iops_size": 4096}
        mount.run("block_set_io_throttle", device="a.img", **limits, **group)
        (drive,) = mount.run("query-block")
        said = drive["inserted"]
        names = {*limits, "group", "iops_max_length"}
        again = {name: said[name] for name in names if name in said}
        before = mount.limits("a.img")
        mount.run("block_set_io_throttle", device="a.img", **again)
        assert mount.limits("a.img") == before
    assert image.parent is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Parameter 'bps' is missing"),
        ({"device": "a.img", "bps": 1}, "Parameter 'bps_rd' is missing"),
        (NO_LIMIT, "Need exactly one of 'device' and 'id'"),
        (NO_LIMIT | {"device": "a.img", "id": "a.img"}, "Need exactly one of 'device' and 'id'"),
        (NO_LIMIT | {"device": "none"}, "Device 'none' not found"),
        (NO_LIMIT | {"device": "dir"}, "Device 'dir' not found: Is a directory"),
        (NO_LIMIT | {"device": 5}, "Invalid parameter type for 'device', expected: string"),
        (
            NO_LIMIT | {"device": "a.img", "bps": "1M"},
            "Invalid parameter type for 'bps', expected: integer",
        ),
        (
            NO_LIMIT | {"device": "a.img", "bps": True},
            "Invalid parameter type for 'bps', expected: integer",
        ),
        (NO_LIMIT | {"device": "a.img", "foo": 1}, "Parameter 'foo' is unexpected"),
        (
            NO_LIMIT | {"device": "a.img", "bps": -1},
            "bps: '-1' is negative; the smallest value is 0",
        ),
        (
            NO_LIMIT | {"device": "a.img", "iops": 10, "iops_max": 5},
            "iops_max=5 is below iops=10: a burst's rate must be at least that",
        ),
        (
            NO_LIMIT | {"device": "a.img", "iops_size": 5},
            "iops_size=5 has nothing to count: add iops, iops_rd or iops_wr",
        ),
        (
            NO_LIMIT | {"device": "a.img", "bps": 5, "group": "x" * 300},
            "group: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...' cannot name a group: use at most 255"
            " printable characters",
        ),
    ],
)
def test_a_mistake_changes_nothing(mount: Mount, arguments: dict[str, Any], message: str) -> None:
    mount.open("a.img")
    assert mount.error("block_set_io_throttle", **arguments) == message


def test_an_unknown_command_has_its_class(mount: Mount) -> None:
    with pytest.raises(QmpError, match="The command nope has not been found") as caught:
        mount.run("nope")
    assert caught.value.error_class == "CommandNotFound"


def test_an_unknown_drive_has_its_class(mount: Mount) -> None:
    with pytest.raises(QmpError) as caught:
        mount.run("block_set_io_throttle", device="nope", **NO_LIMIT)
    assert caught.value.error_class == "DeviceNotFound"


def test_every_command_is_listed(mount: Mount) -> None:
    names = {command["name"] for command in mount.run("query-commands")}
    assert names >= {
        "qmp_capabilities",
        "query-version",
        "query-commands",
        "query-status",
        "query-block",
        "query-blockstats",
        "block_set_io_throttle",
        "quit",
    }
    assert all(name.startswith("x-throttlefs-") for name in names if "throttlefs" in name)


def test_quit_ends_the_mount(mount: Mount) -> None:
    assert mount.run("quit") == {}
    assert mount.ended == 1


# -- which image -----------------------------------------------------------------------------


def test_a_file_can_be_told_limits_before_it_is_opened(mount: Mount) -> None:
    mount.set_image("dir/c.img", bps="9K")
    image, _ = mount.open("dir/c.img")
    assert image.meter.limits.as_dict() == {"bps": 9216}
    mount.close(image)
    assert mount.limits("dir/c.img")["bps"] == 9216


def test_looking_at_a_file_leaves_nothing_behind(mount: Mount) -> None:
    assert mount.limits("ruled.img") == {"group": None, "weight": 100, "iops": 50}
    assert mount.limits("a.img") == {"group": None, "weight": 100, "bps": 4 << 20}
    assert list(mount.governor.throttle.images()) == []


@pytest.mark.parametrize(
    "link", ["a.img", "./a.img", "dir/../a.img", "dir/../dir/../a.img"], ids=str
)
def test_symlinks_lead_to_the_image(mount: Mount, link: str) -> None:
    (mount.source / "link").symlink_to(link)
    mount.set_image("link", bps=5)
    assert mount.limits("a.img")["bps"] == 5


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "dir/../../x", "link"])
def test_no_path_leads_out_of_the_mount(mount: Mount, target: str) -> None:
    (mount.source.parent / "x").write_text("")
    (mount.source / "link").symlink_to(target)
    assert "'link' not found" in mount.error("x-throttlefs-set", device="link", values={"bps": 1})


@pytest.mark.parametrize(
    "device", ["", ".", "..", "a.img/x", "a\0b", "x" * 5000, "\ud800", "%\ud800"]
)
def test_a_strange_name_is_not_found(mount: Mount, device: str) -> None:
    assert "not found" in mount.error("x-throttlefs-set", device=device, values={"bps": 1})


@pytest.mark.parametrize("name", [b"\xff\xfe.img", b"100%.img", b"%41.img", b"%\xff", "ü".encode()])
def test_any_name_goes_there_and_back(mount: Mount, name: bytes) -> None:
    with open(os.path.join(os.fsencode(mount.source), name), "wb"):
        pass
    mount.open(os.fsdecode(name))
    mount.set_image(device_name(name), bps=5)
    assert mount.limits(device_name(name))["bps"] == 5
    assert device_name(name) in [drive["device"] for drive in mount.run("query-block")]


def test_a_name_that_only_looks_encoded_is_taken_as_it_stands(mount: Mount) -> None:
    for name in ("A.img", "%41.img"):
        (mount.source / name).write_bytes(b"")
    mount.set_image("%41.img", bps=5)
    assert mount.limits("%41.img")["bps"] == 5
    assert mount.limits("A.img")["bps"] == 4 << 20


def test_an_unlinked_image_goes_by_its_name_while_it_is_open(mount: Mount) -> None:
    image, _ = mount.open("a.img")
    os.unlink(mount.source / "a.img")
    mount.set_image("a.img", bps=5)
    assert image.meter.limits.bps == 5


# -- x-throttlefs-set ------------------------------------------------------------------------


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
        ({"values": {"weight": 0}}, "weight: '0' is not a whole number from 1 to 10000"),
        ({"values": {"iops": 5, "bps": "x"}}, "bps: 'x' is not a number; write e.g. 3000, 10K or"),
        ({"values": {"group": "tenat"}}, "there is no group 'tenat'; did you mean 'tenant'?"),
        ({"values": {"group": 5}}, "group: '5' is not the name of a group"),
        ({"values": {"group": False}}, "group: 'False' is not the name of a group"),
        ({"values": {"bps_max": 1}}, "bps_max=1 is below bps=4M"),
        ({"values": {"parent": "tenant"}}, "unknown limit 'parent'"),
        ({"values": {"bps": [1]}}, "bps: '[1]' is not a number"),
        ({"values": {"group": "tenant", "bps": 5, "bps_max": 1}}, "bps_max=1 is below bps=5"),
        ({"values": [], "off": True}, "Invalid parameter type for 'values', expected: object"),
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


def test_groups_are_made_changed_nested_and_removed(mount: Mount) -> None:
    mount.run("x-throttlefs-set", group__name="db", values={"bps": 5, "parent": "tenant"})
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
    assert in_use == "group 'db' is in use: it has 1 members"
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
        mount.run("x-throttlefs-set", group__name=f"g{number}", values=values)
    for name, parent in (("new", "g31"), ("g0", "tenant")):
        text = mount.error("x-throttlefs-set", group__name=name, values={"parent": parent})
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


# -- statistics ------------------------------------------------------------------------------


def test_statistics_are_those_of_the_image(mount: Mount) -> None:
    _, statistics = mount.open("a.img")
    mount.open("b.img")
    for _ in range(99):
        statistics.read.served(4096, 10_000)
    statistics.read.served(4096, 1_000_000)
    statistics.read.waited(5_000_000, 7)
    statistics.write.errors += 1
    statistics.flushed(11)
    answer = mount.run("x-throttlefs-query-stats", histograms=True)
    first, second = answer["images"]
    assert answer["clock-ns"] == mount.now
    read = first["read"]
    assert (read["requests"], read["bytes"], read["delayed"]) == (100, 409_600, 1)
    assert (read["wait-ns"], read["service-ns"]) == (5_000_000, 99 * 10_000 + 1_000_000)
    assert read["waiting-most"] == 7
    assert read["service"]["p50"] == pytest.approx(10_000, rel=0.2)
    assert read["service"]["p99.9"] == pytest.approx(1_000_000, rel=0.2)
    assert read["wait"]["p50"] == 0
    assert sum(read["service-histogram"].values()) == 100
    assert first["write"]["errors"] == 1
    assert first["flushes"] == 1
    assert second["read"]["requests"] == 0
    assert second["read"]["service"]["p50"] is None
    (drive, _) = mount.run("query-blockstats")
    stats = drive["stats"]
    assert (stats["rd_operations"], stats["rd_bytes"]) == (100, 409_600)
    assert (stats["failed_wr_operations"], stats["flush_operations"]) == (1, 1)
    assert stats["rd_total_time_ns"] == 5_000_000 + 99 * 10_000 + 1_000_000


def test_figures_of_a_closed_image_are_kept(mount: Mount) -> None:
    image, statistics = mount.open("a.img")
    statistics.write.served(10, 10)
    mount.close(image)
    (one,) = mount.run("x-throttlefs-query-stats", device="a.img")["images"]
    assert one["write"]["bytes"] == 10
    assert one["handles"] == 0


def test_what_an_image_owes_is_not_forgiven_by_a_change(mount: Mount, tmp_path: Path) -> None:
    image, _ = mount.open("a.img")
    assert image.try_admit(READ, 8 << 20)
    for values in ({"bps": "8M"}, {"iops": 10}, {"bps": "4M"}):
        mount.set_image("a.img", **values)
        assert not image.try_admit(READ, 1)
    mount.now += 2_000_000_000
    assert image.try_admit(READ, 1)
