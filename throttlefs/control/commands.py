"""QEMU's own commands, with QEMU's arguments and results.

They follow ``qapi/block-core.json`` and ``qapi/block.json`` of QEMU 7.2. An image is a drive whose
``device`` is its path in the mount. `throttlefs.control.extensions` has the rest.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import trio

from throttlefs.policy.change import Change
from throttlefs.policy.tuning import Tuner
from throttlefs.settings.cachemode import CacheMode
from throttlefs.settings.limits import NO_LIMITS, QEMU_LIMIT_NAMES, RATES, Limits
from throttlefs.stats import DirectionStatistics
from throttlefs.throttle import NO_GROUP

from .arguments import Parameter, Signature, check_arguments
from .images import Images, KnownImage
from .protocol import QmpError, shown, version

Arguments = Mapping[str, Any]
Handler = Callable[[Arguments], Awaitable[object]]

_THROTTLE_SIGNATURE: Final = {
    **{rate: Parameter("integer", required=True) for rate in RATES},
    **{name: Parameter("integer") for name in QEMU_LIMIT_NAMES if name not in RATES},
    "device": Parameter("string"),
    "id": Parameter("string"),
    "group": Parameter("string"),
}

_AT_A_TIME: Final = 25
"""How many images are described before other tasks get a turn: some 1 ms."""


@dataclass(frozen=True, slots=True)
class MountFacts:
    """Facts that never change while a mount lives."""

    source: str
    target: str
    read_only: bool = False
    cache: CacheMode = CacheMode.WRITEBACK


class CommandTable:
    """Commands by name, each with its signature."""

    def __init__(self) -> None:
        self._commands: dict[str, tuple[Handler, Signature]] = {}
        self.add("query-commands", self._query_commands)

    def add(self, name: str, handler: Handler, signature: Signature | None = None) -> None:
        """Let *handler* carry out *name*."""
        self._commands[name] = (handler, signature or {})

    async def run(self, name: str, arguments: Arguments) -> object:
        """Carry out a command; returns its result. Raises `QmpError`."""
        if name not in self._commands:
            raise QmpError(f"The command {shown(name)} has not been found", "CommandNotFound")
        handler, signature = self._commands[name]
        check_arguments(arguments, signature)
        return await handler(arguments)

    async def _query_commands(self, _: Arguments) -> object:
        return [{"name": name} for name in ("qmp_capabilities", *self._commands)]


class QemuCommands:
    """The commands that QEMU has as well."""

    def __init__(
        self, facts: MountFacts, images: Images, tuner: Tuner, end_mount: Callable[[], None]
    ) -> None:
        self._facts = facts
        self._images = images
        self._tuner = tuner
        self._end_mount = end_mount

    def register(self, table: CommandTable) -> None:
        """Add them all to *table*."""
        table.add("query-version", self._query_version)
        table.add("query-status", self._query_status)
        table.add("query-block", self._query_block)
        table.add("query-blockstats", self._query_blockstats, {"query-nodes": Parameter("boolean")})
        table.add("block_set_io_throttle", self._set_io_throttle, _THROTTLE_SIGNATURE)
        table.add("quit", self._quit)

    async def _query_version(self, _: Arguments) -> object:
        return version()

    async def _query_status(self, _: Arguments) -> object:
        return {"status": "running", "singlestep": False, "running": True}

    async def _quit(self, _: Arguments) -> object:
        self._end_mount()
        return {}

    # -- drives ----------------------------------------------------------------------------

    async def _query_block(self, _: Arguments) -> object:
        known = self._images.known()
        sizes = await trio.to_thread.run_sync(self._images.sizes, known)
        result = []
        for number, (image, size) in enumerate(zip(known, sizes, strict=True), 1):
            result.append(self._drive(image, *size))
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        return result

    def _drive(self, known: KnownImage, size: int, used: int) -> dict[str, object]:
        """``BlockInfo``."""
        file = os.path.join(self._facts.source, known.device)
        inserted: dict[str, object] = {
            "file": file,
            "node-name": _node_name(known),
            "ro": self._facts.read_only,
            "drv": "raw",
            "backing_file_depth": 0,
            "encrypted": False,
            "detect_zeroes": "off",
            "write_threshold": 0,
            "cache": {
                "writeback": not self._facts.cache.durable_writes,
                "direct": self._facts.cache.direct,
                "no-flush": self._facts.cache.ignores_fsync,
            },
            "image": {
                "filename": file,
                "format": "raw",
                "virtual-size": size,
                "actual-size": used,
                "dirty-flag": False,
            },
            **_throttling(known),
        }
        return {
            "device": known.device,
            "type": "unknown",
            "removable": False,
            "locked": False,
            "inserted": inserted,
        }

    async def _query_blockstats(self, _: Arguments) -> object:
        result = []
        for number, known in enumerate(self._images.known(), 1):
            result.append(
                {
                    "device": known.device,
                    "node-name": _node_name(known),
                    "stats": _block_statistics(known),
                }
            )
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        return result

    async def _set_io_throttle(self, arguments: Arguments) -> object:
        if ("device" in arguments) == ("id" in arguments):
            raise QmpError("Need exactly one of 'device' and 'id'")
        device = arguments.get("device", arguments.get("id"))
        assert isinstance(device, str)
        key, path = await self._images.find(device)
        limits = [(name, arguments[name]) for name in QEMU_LIMIT_NAMES if name in arguments]
        change = _throttle_change(limits, arguments.get("group"), device)
        self._tuner.change_image(key, path, change)
        return {}


def _throttle_change(limits: list[tuple[str, Any]], group: str | None, device: str) -> Change:
    """The change that the arguments of ``block_set_io_throttle`` make, as in QEMU.

    They are all the limits that the drive has from now on. Without any limit the drive leaves its
    group. A group with the drive's own name means that it is in no group.
    """
    own = group is None or group == device
    change = Change.parse(limits if own else [*limits, ("group", group)])
    if not any(change.limits[rate] for rate in RATES):
        # Only a burst or an iops_size can be left, which is refused without its rate.
        change.applied_to(NO_LIMITS)
        return Change(all_limits=True, group=NO_GROUP)
    return replace(change, all_limits=True)


def _node_name(known: KnownImage) -> str:
    device, inode = known.key
    return f"{device:x}-{inode}"


def _throttling(known: KnownImage) -> dict[str, object]:
    """The limits among ``BlockDeviceInfo``: the image's own or, without any, its group's.

    QEMU's limits are whole numbers, so a fraction is rounded up.
    """
    image = known.image
    limits, group = NO_LIMITS, None
    if image is not None:
        limits = image.meter.limits
        if image.parent is not None:
            group = image.parent.name
            limits = image.parent.meter.limits if limits.unlimited else limits
        elif not limits.unlimited:
            group = known.device
    return {
        **{rate: math.ceil(getattr(limits, rate)) for rate in RATES},
        **_optional_limits(limits),
        **({} if group is None else {"group": group}),
    }


def _optional_limits(limits: Limits) -> dict[str, int]:
    """The bursts, with the length of each, and ``iops_size``; as in QEMU if there are any."""
    found = {}
    for rate in RATES:
        burst = f"{rate}_max"
        if getattr(limits, burst):
            found[burst] = math.ceil(getattr(limits, burst))
            found[f"{burst}_length"] = getattr(limits, f"{burst}_length")
    if limits.iops_size:
        found["iops_size"] = limits.iops_size
    return found


_NOTHING: Final = DirectionStatistics()


def _block_statistics(known: KnownImage) -> dict[str, object]:
    """``BlockDeviceStats``; as in QEMU the times include the wait in the limiter."""
    statistics = known.statistics
    read = _NOTHING if statistics is None else statistics.read
    write = _NOTHING if statistics is None else statistics.write
    return {
        "rd_bytes": read.bytes,
        "wr_bytes": write.bytes,
        "unmap_bytes": 0,
        "rd_operations": read.requests,
        "wr_operations": write.requests,
        "flush_operations": 0 if statistics is None else statistics.flushes,
        "unmap_operations": 0,
        "rd_total_time_ns": read.service_ns + read.wait_ns,
        "wr_total_time_ns": write.service_ns + write.wait_ns,
        "flush_total_time_ns": 0 if statistics is None else statistics.flush_ns,
        "unmap_total_time_ns": 0,
        "wr_highest_offset": 0,
        "rd_merged": 0,
        "wr_merged": 0,
        "unmap_merged": 0,
        "failed_rd_operations": read.errors,
        "failed_wr_operations": write.errors,
        "failed_flush_operations": 0,
        "failed_unmap_operations": 0,
        "invalid_rd_operations": 0,
        "invalid_wr_operations": 0,
        "invalid_flush_operations": 0,
        "invalid_unmap_operations": 0,
        "account_invalid": False,
        "account_failed": False,
        "timed_stats": [],
    }
