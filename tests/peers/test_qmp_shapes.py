"""The answers of the control socket have the keys and types of QEMU's own.

What QEMU 7.2 answers is written down here, and what later versions answer otherwise; where QEMU
is installed it is asked as well, so that what is written down stays true.
"""

from __future__ import annotations

import re
from typing import Any

from tests.qmp import RawClient, socket_of
from tests.support import MountFactory
from throttlefs.settings.limits import RATES

LIMITS = dict.fromkeys(RATES, 0) | {"bps": 1 << 20}
BURSTS = LIMITS | {"bps_max": 1 << 21, "bps_max_length": 3, "iops": 100, "iops_size": 4096}

BLOCK = {
    "device": str,
    "type": str,
    "removable": bool,
    "locked": bool,
    "inserted": dict,
}
INSERTED = {
    "file": str,
    "node-name": str,
    "ro": bool,
    "drv": str,
    "backing_file_depth": int,
    "encrypted": bool,
    "detect_zeroes": str,
    "write_threshold": int,
    "cache": {"writeback": bool, "direct": bool, "no-flush": bool},
    "image": {
        "filename": str,
        "format": str,
        "virtual-size": int,
        "actual-size": int,
        "dirty-flag": bool,
    },
    **dict.fromkeys(RATES, int),
}
SHAPES: dict[str, Any] = {
    "greeting": {
        "QMP": {
            "version": {"qemu": {"major": int, "minor": int, "micro": int}, "package": str},
            "capabilities": list,
        }
    },
    "version": {"qemu": {"major": int, "minor": int, "micro": int}, "package": str},
    "status": {"status": str, "singlestep": bool, "running": bool},
    "plain": BLOCK | {"inserted": INSERTED | {"group": str}},
    "bursts": BLOCK
    | {
        "inserted": INSERTED
        | {"group": str, "bps_max": int, "bps_max_length": int, "iops_size": int}
    },
    "unlimited": BLOCK | {"inserted": INSERTED},
    "stats": {
        "device": str,
        "node-name": str,
        "stats": {
            **{
                f"{kind}_{what}": int
                for kind in ("rd", "wr", "unmap")
                for what in ("bytes", "operations", "total_time_ns", "merged")
                if (kind, what) not in (("unmap", "bytes"), ("unmap", "operations"))
            },
            **{
                f"{how}_{kind}_operations": int
                for how in ("failed", "invalid")
                for kind in ("rd", "wr", "flush", "unmap")
            },
            "unmap_bytes": int,
            "unmap_operations": int,
            "flush_operations": int,
            "flush_total_time_ns": int,
            "wr_highest_offset": int,
            "account_invalid": bool,
            "account_failed": bool,
            "timed_stats": list,
        },
    },
    "commands": {"name": str},
    "error": {"error": {"class": str, "desc": str}, "id": int},
}
# What QEMU has changed since: the version (Debian's that has it first, if qapi/*.json do not say),
# which answers, and their keys, with None for those that are gone. A mount stays with 7.2.
_ZONES = ("bytes", "operations", "total_time_ns", "merged")
_LIMITS = ("request-alignment", "min-mem-alignment", "opt-mem-alignment", "max-iov")
DRIVES = ("plain", "bursts", "unlimited")
LATER: list[tuple[tuple[int, int], tuple[str, ...], dict[str, Any]]] = [
    (
        (8, 1),
        ("stats",),
        {
            "stats": {
                **{f"zone_append_{what}": int for what in _ZONES},
                **{f"{how}_zone_append_operations": int for how in ("failed", "invalid")},
            }
        },
    ),
    ((9, 0), ("status",), {"singlestep": None}),
    ((10, 0), DRIVES, {"inserted": {"active": bool}}),
    (
        (11, 1),
        DRIVES,
        {"inserted": {"children": list, "image": {"limits": dict.fromkeys(_LIMITS, int)}}},
    ),
]


def changed(before: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The shape *before* with the keys of *change*."""
    result = dict(before)
    for key, value in change.items():
        if value is None:
            del result[key]
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = changed(result[key], value)
        else:
            assert key not in result
            result[key] = value
    return result


def shapes_of_qemu(version: dict[str, int]) -> dict[str, Any]:
    """What QEMU of a *version* answers."""
    shapes = dict(SHAPES)
    for since, names, change in LATER:
        if (version["major"], version["minor"]) >= since:
            shapes |= {name: changed(shapes[name], change) for name in names}
    return shapes


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    return type(value)


def answers(client: RawClient, device: str) -> dict[str, Any]:
    """What is compared, by the names in `SHAPES`."""

    def drive() -> Any:
        (one,) = client.run("query-block")["return"]
        return one

    found = {"greeting": client.greeting}
    for name, limits in (("unlimited", LIMITS | {"bps": 0}), ("plain", LIMITS), ("bursts", BURSTS)):
        set_limits = client.run("block_set_io_throttle", device=device, **limits)
        assert set_limits == {"return": {}}
        found[name] = drive()
        assert {key: found[name]["inserted"][key] for key in limits} == limits
    found["version"] = client.run("query-version")["return"]
    found["status"] = client.run("query-status")["return"]
    (found["stats"],) = client.run("query-blockstats")["return"]
    found["commands"] = client.run("query-commands")["return"][0]
    client.send(b'{"execute": "nope", "id": 5}')
    found["error"] = client.receive()
    return found


MISTAKES: list[tuple[bytes, str, str]] = [
    # command, class, description
    (b'{"execute": "nope"}', "CommandNotFound", "The command nope has not been found"),
    (b'{"exec": "x"}', "GenericError", "QMP input member 'exec' is unexpected"),
    (b'{"execute": 5}', "GenericError", "QMP input member 'execute' must be a string"),
    (
        b'{"execute": "query-version", "arguments": 5}',
        "GenericError",
        "QMP input member 'arguments' must be an object",
    ),
    (
        b'{"execute": "query-version", "arguments": {"x": 1}}',
        "GenericError",
        "Parameter 'x' is unexpected",
    ),
    (b"[1]", "GenericError", "QMP input must be a JSON object"),
    (b"junk\n", "GenericError", "JSON parse error, invalid keyword 'junk'"),
    (b'{"arguments": {}}', "GenericError", "QMP input lacks member 'execute'"),
    (
        b'{"execute": "block_set_io_throttle"}',
        "GenericError",
        "Parameter 'bps' is missing",
    ),
    (
        b'{"execute": "block_set_io_throttle", "arguments": {"device": "nope", "bps": 0,'
        b' "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0}}',
        "DeviceNotFound",
        "Device 'nope' not found",
    ),
    (
        b'{"execute": "block_set_io_throttle", "arguments": {"bps": 0,'
        b' "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0}}',
        "GenericError",
        "Need exactly one of 'device' and 'id'",
    ),
    (
        b'{"execute": "block_set_io_throttle", "arguments": {"device": "x", "bps": "1"}}',
        "GenericError",
        "Invalid parameter type for 'bps', expected: integer",
    ),
    (
        b'{"execute": "qmp_capabilities"}',
        "CommandNotFound",
        "Capabilities negotiation is already complete, command ignored",
    ),
]


def mistakes(client: RawClient) -> list[tuple[bytes, str, str]]:
    """What is answered to each of `MISTAKES`."""
    found = []
    for command, _, _ in MISTAKES:
        client.send(command)
        error = client.receive()["error"]
        found.append((command, error["class"], error["desc"]))
    return found


def test_the_answers_of_a_mount(make_mount: MountFactory) -> None:
    mounted = make_mount()
    (mounted.source / "disk.img").write_bytes(bytes(1 << 20))
    with (
        (mounted.path / "disk.img").open("rb"),
        RawClient(socket_of(mounted.entry)) as client,
    ):
        assert shape(answers(client, "disk.img")) == SHAPES
        assert mistakes(client) == MISTAKES


def test_the_answers_of_qemu(qemu: str) -> None:
    with RawClient(qemu) as client:
        found = shape(answers(client, "drive0"))
        assert found["stats"].pop("parent"), "the layers below the drive: a mount has none"
        assert found == shapes_of_qemu(client.greeting["QMP"]["version"]["qemu"])
        # Later versions say in which line and column of all that was sent.
        said = [(*words, re.sub(r"^\d+:\d+: ", "", desc)) for *words, desc in mistakes(client)]
        assert said == MISTAKES
