"""Groups as QMP objects: a mount and QEMU answer the same to the same commands, word for word.

What QEMU 7.2 answers is written down here; where QEMU is installed it is asked as well.
"""

from __future__ import annotations

import re
from typing import Any

from tests.qmp import RawClient, socket_of
from tests.support import MountFactory

GENERIC, NOT_FOUND = "GenericError", "DeviceNotFound"
TYPE = {"qom-type": "throttle-group"}
UNSET = {
    name + suffix: value
    for name in ("bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write")
    for suffix, value in (("", 0), ("-max", 0), ("-max-length", 1))
} | {"iops-size": 0}
BURST = {"bps-total": 1000, "bps-total-max": 2000, "bps-total-max-length": 3}
PROPERTIES = [
    {"name": "limits", "type": "ThrottleLimits"},
    {"name": "type", "type": "string"},
    *({"name": f"x-{name}", "type": "int"} for name in sorted(UNSET)),
]


def put(path: str, value: Any, name: str = "limits") -> tuple[str, dict[str, Any]]:
    return "qom-set", {"path": path, "property": name, "value": value}


def get(path: str, name: str = "limits") -> tuple[str, dict[str, Any]]:
    return "qom-get", {"path": path, "property": name}


def add(name: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    return "object-add", {**TYPE, "id": name, **arguments}


Command = tuple[str, dict[str, Any]]

STEPS: list[tuple[Command, Any]] = [
    # command and arguments; the result, or class and description of the error
    (add("db"), {}),
    (get("/objects/db"), UNSET),
    (
        add("db"),
        (GENERIC, "attempt to add duplicate property 'db' to object (type 'container')"),
    ),
    (add("vm", limits=BURST), {}),
    (get("vm"), UNSET | BURST),
    (get("objects/vm", "x-bps-total-max"), 2000),
    (get("/objects/vm", "type"), "throttle-group"),
    (add("old.1-2_3", **{"x-iops-read": 5, "x-iops-size": 4096}), {}),
    (get("old.1-2_3"), UNSET | {"iops-read": 5, "iops-size": 4096}),
    (put("/objects/vm", {"iops-total": 7}), {}),
    (get("/objects/vm"), UNSET | BURST | {"iops-total": 7}),
    (put("vm", {}), {}),
    (("qom-list", {"path": "/objects/vm"}), PROPERTIES),
    (
        ("qom-list", {"path": "/objects"}),
        [
            *({"name": name, "type": "child<throttle-group>"} for name in ("db", "old.1-2_3")),
            {"name": "type", "type": "string"},
            {"name": "vm", "type": "child<throttle-group>"},
        ],
    ),
    (get("/", "objects"), "/objects"),
    (get("/objects", "vm"), "/objects/vm"),
    (get("/", "type"), "container"),
    # mistakes
    (("object-add", {"id": "x"}), (GENERIC, "Parameter 'qom-type' is missing")),
    (("object-add", TYPE), (GENERIC, "Parameter 'id' is missing")),
    (
        ("object-add", {"qom-type": "nope", "id": "x"}),
        (GENERIC, "Parameter 'qom-type' does not accept value 'nope'"),
    ),
    (add("1x"), (GENERIC, "Parameter 'id' expects an identifier")),
    (add("x", foo=5), (GENERIC, "Parameter 'foo' is unexpected")),
    (add("x", limits=5), (GENERIC, "Invalid parameter type for 'limits', expected: object")),
    (
        add("x", limits={"bps-total": "5"}),
        (GENERIC, "Invalid parameter type for 'limits.bps-total', expected: integer"),
    ),
    (
        add("x", limits={"bps-total": 0.5}),
        (GENERIC, "Invalid parameter type for 'limits.bps-total', expected: integer"),
    ),
    (add("x", limits={"bps": 5}), (GENERIC, "Parameter 'limits.bps' is unexpected")),
    (put("vm", 5, "x-bps-total"), (GENERIC, "Property cannot be set after initialization")),
    (put("vm", 5, "type"), (GENERIC, "Property 'throttle-group.type' is not writable")),
    (put("vm", 5, "nope"), (GENERIC, "Property 'throttle-group.nope' not found")),
    (put("vm", 5), (GENERIC, "Invalid parameter type for 'limits', expected: object")),
    (put("vm", {"foo": 1}), (GENERIC, "Parameter 'limits.foo' is unexpected")),
    (put("/objects", 5, "vm"), (GENERIC, "Property 'container.vm' is not writable")),
    (("qom-set", {"path": "vm", "property": "limits"}), (GENERIC, "Parameter 'value' is missing")),
    (put("nope", {}), (NOT_FOUND, "Device 'nope' not found")),
    (get("/objects/nope"), (NOT_FOUND, "Device '/objects/nope' not found")),
    (get("/vm"), (NOT_FOUND, "Device '/vm' not found")),
    (get("", "type"), (NOT_FOUND, "Device '' not found")),
    (get("vm", "nope"), (GENERIC, "Property 'throttle-group.nope' not found")),
    (get("/objects", "nope"), (GENERIC, "Property 'container.nope' not found")),
    (("qom-list", {"path": "nope"}), (NOT_FOUND, "Device 'nope' not found")),
    (("qom-list", {"path": ""}), (GENERIC, "Path '' is ambiguous")),
    (("object-del", {"id": "nope"}), (GENERIC, "object 'nope' not found")),
    (("object-del", {"id": "db"}), {}),
    (get("db"), (NOT_FOUND, "Device 'db' not found")),
]


def answers(client: RawClient) -> list[tuple[Command, Any]]:
    """What is answered to each of `STEPS`."""
    found: list[tuple[Command, Any]] = []
    for (command, arguments), _ in STEPS:
        answer = client.run(command, **arguments)
        if "error" in answer:
            # Later versions of QEMU say in which line and column of all that was sent.
            words = re.sub(r"^\d+:\d+: ", "", answer["error"]["desc"])
            result: Any = (answer["error"]["class"], words)
        else:
            result = answer["return"]
        if isinstance(result, list):
            # From QEMU 11 on a monitor is an object, too.
            listed = [one for one in result if one.get("type") != "child<monitor-qmp>"]
            result = sorted(listed, key=lambda one: one["name"])
        found.append(((command, arguments), result))
    return found


def share(client: RawClient, device: str) -> str:
    """Put *device* into the group ``vm``; returns what is answered to its deletion."""
    limits = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    limits["bps"] = 999
    assert client.run("block_set_io_throttle", device=device, group="vm", **limits) == {
        "return": {}
    }
    assert client.run("qom-get", path="vm", property="limits")["return"] == UNSET | {
        "bps-total": 999
    }
    error = client.run("object-del", id="vm")["error"]
    assert error["class"] == GENERIC
    return str(error["desc"])


IN_USE = "object 'vm' is in use, can not be deleted"


def test_a_mount(make_mount: MountFactory) -> None:
    mounted = make_mount()
    (mounted.source / "disk.img").write_bytes(bytes(1 << 20))
    with (
        (mounted.path / "disk.img").open("rb"),
        RawClient(socket_of(mounted.entry)) as client,
    ):
        assert answers(client) == STEPS
        assert share(client, "disk.img") == f"{IN_USE}: group 'vm' is in use: it has 1 member"


def test_qemu(qemu: str) -> None:
    with RawClient(qemu) as client:
        assert answers(client) == STEPS
        said = share(client, "drive0")
        assert said == IN_USE or said.startswith("Cannot delete")  # the latter from QEMU 11 on
