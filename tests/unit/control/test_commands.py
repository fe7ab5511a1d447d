"""QEMU's commands and the statistics, as the control socket answers them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.control.bare_mount import NO_LIMIT, Mount
from throttlefs.control.protocol import QmpError
from throttlefs.throttle import READ


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


def test_qemus_commands_know_whole_numbers_only(mount: Mount) -> None:
    """0 would mean that there is no limit, so a fraction is rounded up."""
    mount.open("a.img")
    mount.set_image("a.img", bps=0, iops=0.5, iops_max=1.5, iops_rd=2.25)
    (drive,) = mount.run("query-block")
    said = drive["inserted"]
    assert [said[name] for name in ("iops", "iops_max", "iops_rd")] == [1, 2, 3]
    assert all(type(said[name]) is int for name in ("bps", "iops", "iops_max", "iops_rd"))
    message = mount.error("block_set_io_throttle", **NO_LIMIT | {"device": "a.img", "iops": 0.5})
    assert message == "Invalid parameter type for 'iops', expected: integer"


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
        "object-add",
        "object-del",
        "qom-list",
        "qom-get",
        "qom-set",
        "quit",
    }
    assert all(name.startswith("x-throttlefs-") for name in names if "throttlefs" in name)


def test_quit_ends_the_mount(mount: Mount) -> None:
    assert mount.run("quit") == {}
    assert mount.ended == 1


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
