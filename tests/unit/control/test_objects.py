"""Groups as QEMU's objects of the type throttle-group."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.control.bare_mount import NO_LIMIT, Mount
from throttlefs.control.protocol import QmpError
from throttlefs.settings.limits import QEMU_LIMIT_NAMES, Limits, canonical_name
from throttlefs.throttle import READ, Override

MIB = 1 << 20


def add(mount: Mount, name: str, **arguments: Any) -> Any:
    return mount.run("object-add", **{"qom-type": "throttle-group", "id": name, **arguments})


def limits_of(mount: Mount, path: str) -> dict[str, int]:
    """The limits that are not at their default, by QEMU's names."""
    limits = mount.run("qom-get", path=path, property="limits")
    assert {canonical_name(name) for name in limits} == set(QEMU_LIMIT_NAMES)
    unset = {True: 1, False: 0}
    return {name: n for name, n in limits.items() if n != unset[name.endswith("-length")]}


def test_an_object_is_a_group(mount: Mount) -> None:
    limits = {"bps-total": 1000, "bps-total-max": 2000, "bps-total-max-length": 3}
    assert add(mount, "db", limits=limits) == {}
    group = mount.governor.throttle.group("db")
    assert group.meter.limits == Limits(bps=1000, bps_max=2000, bps_max_length=3)
    assert limits_of(mount, "/objects/db") == limits
    mount.open("a.img")
    mount.set_image("a.img", group="db")
    assert mount.limits("a.img")["group"] == "db"


def test_limits_may_be_given_one_by_one(mount: Mount) -> None:
    add(mount, "db", **{"x-bps-total": 77, "x-iops-read": 5, "x-iops-size": 4096})
    assert limits_of(mount, "db") == {"bps-total": 77, "iops-read": 5, "iops-size": 4096}
    add(mount, "both", limits={"bps-read": 1}, **{"x-bps-read": 2, "x-bps-write": 3})
    assert limits_of(mount, "both") == {"bps-read": 1, "bps-write": 3}
    assert mount.run("qom-get", path="/objects/both", property="x-bps-write") == 3
    assert mount.run("qom-get", path="/objects/both", property="x-bps-write-max-length") == 1


def test_every_group_is_an_object_whoever_made_it(mount: Mount) -> None:
    mount.open("a.img")
    mount.run("block_set_io_throttle", device="a.img", group="drives", **NO_LIMIT | {"iops": 9})
    assert limits_of(mount, "/objects/drives") == {"iops-total": 9}
    assert limits_of(mount, "/objects/tenant") == {"bps-total": 30 * MIB}, "of the file"
    listed = mount.run("qom-list", path="/objects")
    assert listed[0] == {"name": "type", "type": "string"}
    assert {one["name"]: one["type"] for one in listed[1:]} == dict.fromkeys(
        ("drives", "tenant"), "child<throttle-group>"
    )


def test_setting_limits_changes_what_is_named_at_once(mount: Mount) -> None:
    image, _ = mount.open("a.img")
    add(mount, "db", limits={"bps-total": 1000, "iops-total": 50})
    mount.governor.throttle.set_override(image, Override(Limits(), "db"))
    assert image.try_admit(READ, 1000)
    assert not image.try_admit(READ, 1000)
    change = {"bps-total": MIB, "bps-total-max": 2 * MIB}
    assert mount.run("qom-set", path="db", property="limits", value=change) == {}
    assert limits_of(mount, "db") == {**change, "iops-total": 50}
    mount.now += 20_000_000
    assert image.try_admit(READ, 1000)
    # A burst would be nothing without its rate.
    mount.run("qom-set", path="db", property="limits", value={"bps-total": 0})
    assert limits_of(mount, "db") == {"iops-total": 50}
    mount.run("qom-set", path="db", property="limits", value={})
    assert limits_of(mount, "db") == {"iops-total": 50}


def test_a_fraction_is_rounded_up(mount: Mount) -> None:
    mount.run("x-throttlefs-set", group__name="db", create=True, values={"iops": 0.5})
    assert limits_of(mount, "db") == {"iops-total": 1}


def test_an_object_is_deleted_unless_it_is_in_use(mount: Mount) -> None:
    mount.open("a.img")
    add(mount, "db")
    mount.set_image("a.img", group="db")
    in_use = "object 'db' is in use, can not be deleted: group 'db' is in use: it has 1 member"
    assert mount.error("object-del", id="db") == in_use
    mount.set_image("a.img", group="")
    assert mount.run("object-del", id="db") == {}
    assert mount.error("object-del", id="db") == "object 'db' not found"
    assert mount.error("object-del", id="tenant") == (
        "object 'tenant' is in use, can not be deleted: "
        "group 'tenant' is named by -o or the configuration file: remove it there"
    )


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/", ["type", "objects"]),
        ("//", ["type", "objects"]),
        ("/objects", ["type", "tenant"]),
        ("objects", ["type", "tenant"]),
        ("/objects/", ["type", "tenant"]),
    ],
)
def test_what_lies_above_the_groups(mount: Mount, path: str, names: list[str]) -> None:
    assert [one["name"] for one in mount.run("qom-list", path=path)] == names
    assert mount.run("qom-get", path=path, property="type") == "container"
    child = mount.run("qom-get", path=path, property=names[1])
    assert mount.run("qom-list", path=child)[0] == {"name": "type", "type": "string"}


@pytest.mark.parametrize(
    "path", ["/objects/tenant", "objects/tenant", "tenant", "/objects/tenant/"]
)
def test_a_group_is_found_by_the_end_of_its_path(mount: Mount, path: str) -> None:
    properties = mount.run("qom-list", path=path)
    types = {one["name"]: one["type"] for one in properties}
    assert (types["type"], types["limits"], len(types)) == ("string", "ThrottleLimits", 21)
    for name in types:
        mount.run("qom-get", path=path, property=name)
    assert mount.run("qom-get", path=path, property="type") == "throttle-group"


@pytest.mark.parametrize(
    "path", ["/tenant", "/objects/none", "none", "/machine", "", "/objects/a/b"]
)
def test_what_is_not_there(mount: Mount, path: str) -> None:
    for command, more in (
        ("qom-get", {"property": "limits"}),
        ("qom-set", {"property": "limits", "value": {}}),
    ):
        with pytest.raises(QmpError) as caught:
            mount.run(command, path=path, **more)
        assert caught.value.error_class == "DeviceNotFound"
        assert str(caught.value) == f"Device '{path}' not found"


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("object-add", {"id": "x"}, "Parameter 'qom-type' is missing"),
        (
            "object-add",
            {"qom-type": "iothread", "id": "x"},
            "Parameter 'qom-type' does not accept value 'iothread'",
        ),
        ("object-add", {"id": "1g"}, "Parameter 'id' expects an identifier"),
        ("object-add", {"id": "a/b"}, "Parameter 'id' expects an identifier"),
        ("object-add", {"id": "x" * 300}, "group: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."),
        ("object-add", {"id": "g", "foo": 1}, "Parameter 'foo' is unexpected"),
        ("object-add", {"id": "g", "props": {}}, "Parameter 'props' is unexpected"),
        (
            "object-add",
            {"id": "tenant"},
            "attempt to add duplicate property 'tenant' to object (type 'container')",
        ),
        (
            "object-add",
            {"id": "g", "limits": {"bps-total": 0.5}},
            "Invalid parameter type for 'limits.bps-total', expected: integer",
        ),
        (
            "object-add",
            {"id": "g", "limits": {"bps-total": True}},
            "Invalid parameter type for 'limits.bps-total', expected: integer",
        ),
        ("object-add", {"id": "g", "limits": {"bps": 5}}, "Parameter 'limits.bps' is unexpected"),
        (
            "object-add",
            {"id": "g", "limits": {"bps-total": 10, "bps-total-max": 5}},
            "bps_max=5 is below bps=10: a burst's rate must be at least that",
        ),
        (
            "object-add",
            {"id": "g", "x-bps-total": -1},
            "x-bps-total: '-1' is negative; the smallest",
        ),
        ("object-del", {"id": "none"}, "object 'none' not found"),
        ("qom-list", {"path": ""}, "Path '' is ambiguous"),
        (
            "qom-get",
            {"path": "tenant", "property": "nope"},
            "Property 'throttle-group.nope' not found",
        ),
        ("qom-get", {"path": "/objects", "property": "a"}, "Property 'container.a' not found"),
        (
            "qom-set",
            {"path": "tenant", "property": "limits", "value": None},
            "Invalid parameter type for 'limits', expected: object",
        ),
        (
            "qom-set",
            {"path": "tenant", "property": "limits", "value": {"bps-total-max": 5}},
            "bps_max=5 is below bps=30M: a burst's rate must be at least that",
        ),
        ("qom-set", {"path": "tenant", "property": "limits"}, "Parameter 'value' is missing"),
        (
            "qom-set",
            {"path": "tenant", "property": "x-bps-total", "value": 5},
            "Property cannot be set after initialization",
        ),
        (
            "qom-set",
            {"path": "tenant", "property": "type", "value": 5},
            "Property 'throttle-group.type' is not writable",
        ),
        (
            "qom-set",
            {"path": "tenant", "property": "nope", "value": 5},
            "Property 'throttle-group.nope' not found",
        ),
        (
            "qom-set",
            {"path": "/objects", "property": "tenant", "value": 5},
            "Property 'container.tenant' is not writable",
        ),
        (
            "qom-set",
            {"path": "/", "property": "tenant", "value": 5},
            "Property 'container.tenant' not found",
        ),
    ],
)
def test_a_mistake_changes_nothing(
    mount: Mount, command: str, arguments: dict[str, Any], message: str
) -> None:
    if command == "object-add" and "id" in arguments and "missing" not in message:
        arguments = {"qom-type": "throttle-group"} | arguments
    assert mount.error(command, **arguments).startswith(message)
