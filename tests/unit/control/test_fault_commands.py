"""x-throttlefs-fault-...: rules are added, listed and removed, or nothing has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.control.bare_mount import Mount
from throttlefs.errors import ThrottlefsError
from throttlefs.host import fusectl
from throttlefs.policy.loading import check_waits, read_policy
from throttlefs.settings.config import parse_config
from throttlefs.settings.faults import Fault
from throttlefs.settings.options import parse_options


def add(mount: Mount, device: str | None = None, **values: Any) -> int:
    arguments = {} if device is None else {"device": device}
    number: int = mount.run("x-throttlefs-fault-add", values=values, **arguments)["rule"]
    return number


def listed(mount: Mount) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = mount.run("x-throttlefs-fault-list")
    return found


def test_a_rule_is_added_listed_and_removed(mount: Mount) -> None:
    assert add(mount, error="EIO", nth=3) == 1
    assert add(mount, "a.img", op=["flush"], delay="2s") == 2
    first, second = listed(mount)
    assert first == {
        "rule": 1,
        "values": {"op": ["read", "write"], "error": "EIO", "nth": 3},
        "text": "op=read,write error=EIO nth=3",
        "active": True,
        "matched": 0,
        "fired": 0,
        "waiting": 0,
        "damaged": 0,
    }
    assert second["values"] == {"path": "a.img", "op": ["flush"], "delay": "2s"}
    mount.run("x-throttlefs-fault-remove", rule=1)
    assert [rule["rule"] for rule in listed(mount)] == [2]
    assert add(mount, hang=True) == 3
    assert mount.run("x-throttlefs-fault-clear") == {"removed": 2}
    assert listed(mount) == []


def test_a_directory_stands_for_all_that_is_in_it(mount: Mount) -> None:
    add(mount, "dir", op="mkdir", error="EIO")
    add(mount, "dir/", op="mkdir", error="EIO")
    assert [rule["values"]["path"] for rule in listed(mount)] == [["dir", "dir/**"]] * 2


def test_a_strange_name_is_taken_literally(mount: Mount) -> None:
    (mount.source / "odd [1]*.img").write_bytes(b"")
    add(mount, "odd [1]*.img", error="EIO")
    assert listed(mount)[0]["values"]["path"] == r"odd \[1]\*.img"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": {"error": "ENOSYS"}}, "error: ENOSYS cannot be used: the kernel remembers it"),
        ({"values": {"nth": 1}}, "the rule does nothing: give it an effect"),
        ({"values": {"hang": True, "delay": "1s"}}, "delay and hang are two effects"),
        ({"device": "nix.img", "values": {"hang": True}}, "Device 'nix.img' not found"),
        ({"device": "a.img", "values": {"hang": True, "path": "x"}}, "path and a file are given"),
        ({"values": [1]}, "Invalid parameter type for 'values', expected: object"),
        ({}, "Parameter 'values' is missing"),
    ],
)
def test_a_wrong_rule_is_not_added(mount: Mount, arguments: dict[str, Any], message: str) -> None:
    add(mount, hang=True)
    before = listed(mount)
    assert mount.error("x-throttlefs-fault-add", **arguments).startswith(message)
    assert listed(mount) == before


def test_a_rule_that_is_not_there_cannot_be_removed(mount: Mount) -> None:
    assert mount.error("x-throttlefs-fault-remove", rule=1) == (
        "there is no fault rule 1; there are none"
    )
    add(mount, hang=True)
    add(mount, hang=True)
    assert mount.error("x-throttlefs-fault-remove", rule=3) == (
        "there is no fault rule 3; the rules are 1, 2"
    )
    assert len(listed(mount)) == 2


def test_there_is_a_bound_on_rules(mount: Mount) -> None:
    mount.faults.use_file([Fault.parse({"hang": True})] * 1000)
    text = mount.error("x-throttlefs-fault-add", values={"hang": True})
    assert text == "there are 1000 rules, and no more can be: remove some"


def test_a_reload_restores_the_rules_of_the_file(mount: Mount) -> None:
    of_file = [Fault.parse({"error": "EIO"}), Fault.parse({"hang": True, "op": "flush"})]
    mount.faults.use_file(of_file)
    assert [rule["rule"] for rule in listed(mount)] == [1, 2]
    mount.faults.rules()[0].count()
    add(mount, lose=True)
    mount.faults.use_file(of_file)
    assert [(rule["rule"], rule["matched"]) for rule in listed(mount)] == [(1, 1), (2, 0)]
    mount.run("x-throttlefs-fault-remove", rule=2)
    mount.faults.use_file(of_file)
    assert [(rule["rule"], rule["matched"]) for rule in listed(mount)] == [(4, 0), (5, 0)]
    mount.faults.use_file([])
    assert listed(mount) == []


def test_the_kernel_must_not_end_the_mount_for_a_wait(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fusectl, "request_timeout", lambda: ("fs.fuse.max_request_timeout", 10))
    text = mount.error("x-throttlefs-fault-add", values={"delay": "11s"})
    assert text == (
        "delay of 11s is longer than fs.fuse.max_request_timeout, 10 s, after which the kernel"
        " ends the mount: a shorter one, or sysctl fs.fuse.max_request_timeout=0"
    )
    text = mount.error("x-throttlefs-fault-add", values={"hang": True, "lasting": "1min"})
    assert text.startswith("hang of 1min is longer than fs.fuse.max_request_timeout")
    assert listed(mount) == []
    add(mount, delay="10s")
    add(mount, hang=True)  # nobody knows for how long
    file = tmp_path / "faults.toml"
    file.write_text('[[fault]]\ndelay = "1h"\n')
    with pytest.raises(ThrottlefsError, match="delay of 1h is longer than"):
        read_policy(parse_options([f"config={file}"]))
    monkeypatch.setattr(fusectl, "request_timeout", lambda: None)
    check_waits([Fault.parse({"delay": "1h"})])


def test_rules_are_saved_with_what_is_in_force(mount: Mount) -> None:
    add(mount, "dir", op=["write"], torn=512, error="EIO", every=2)
    add(mount, lose=True, probability=1e-7, at="2s", range="1K-")
    text = mount.run("x-throttlefs-query-config")["toml"]
    saved = parse_config(text, "saved.toml").faults
    assert saved == tuple(rule.fault for rule in mount.faults.rules())
    assert (
        '[[fault]]\npath = ["dir", "dir/**"]\nop = ["write"]\ntorn = "512"\nerror = "EIO"' in text
    )
