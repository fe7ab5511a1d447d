"""The commands that QEMU lacks: ``x-throttlefs-...``.

``x-throttlefs-query``
    The mount, what its daemon holds, its default, its groups and its images, each with its own
    limits, its group, its weight and its slow device (``disk``). ``device`` asks for one image
    only, which need not be open.
``x-throttlefs-query-config``
    The same as the text of a configuration file (``toml``).
``x-throttlefs-query-stats``
    Counters, and quantiles of wait and service time; ``histograms`` adds the histograms.
``x-throttlefs-set``
    Change one image (``device``), a group (``group-name``; with ``create`` it is made if there is
    none), or the default and with ``all`` every image. ``values`` has limits, ``group``, ``weight``
    and, for a group, ``parent``; all others stay. ``off`` lifts all limits first. Returns what
    changed.
``x-throttlefs-remove-group``
    Remove a group without members.
``x-throttlefs-reload``
    Restore the limits of ``-o`` and of the configuration file.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import trio

from throttlefs import __version__
from throttlefs.policy.change import Change
from throttlefs.policy.config_writer import write_config
from throttlefs.policy.governor import Governor
from throttlefs.policy.state import (
    State,
    device_of,
    group_policy,
    group_state,
    image_state,
    limits_of,
    policy_state,
)
from throttlefs.policy.tuning import Changed, Tuner
from throttlefs.settings.faults import Fault
from throttlefs.stats import QUANTILES, DirectionStatistics, ImageStatistics, quantile_ns
from throttlefs.throttle import NO_OVERRIDE, READ, WRITE, Group, Image

from .arguments import Parameter
from .commands import Arguments, CommandTable, MountFacts
from .device_names import device_name
from .images import Images, KnownImage
from .protocol import QmpError

_AT_A_TIME: Final = 5
"""How many images are described before other tasks get a turn: some 1 ms with quantiles."""


class ExtensionCommands:
    """The commands that QEMU lacks.

    *reload* raises `ThrottlefsError` if it changed nothing; *counts* says what the daemon holds,
    *features* what programs may do on the mount, *faults* which rules it has, *power* whether its
    power is on, if that can be cut.
    """

    def __init__(
        self,
        facts: MountFacts,
        images: Images,
        governor: Governor,
        tuner: Tuner,
        reload: Callable[[], Awaitable[None]],
        counts: Callable[[], Mapping[str, int | None]],
        features: Callable[[], Mapping[str, bool]],
        faults: Callable[[], Iterable[Fault]],
        shares: Callable[[], Mapping[str, object]],
        power: Callable[[], Mapping[str, object]],
    ) -> None:
        self._facts = facts
        self._images = images
        self._governor = governor
        self._tuner = tuner
        self._reload = reload
        self._counts = counts
        self._features = features
        self._faults = faults
        self._shares = shares
        self._power = power

    def register(self, table: CommandTable) -> None:
        """Add them all to *table*."""
        device = {"device": Parameter("string")}
        table.add("x-throttlefs-query", self._query, device)
        table.add("x-throttlefs-query-config", self._query_config)
        table.add(
            "x-throttlefs-query-stats",
            self._query_stats,
            {**device, "histograms": Parameter("boolean")},
        )
        table.add(
            "x-throttlefs-set",
            self._set,
            {
                **device,
                "group-name": Parameter("string"),
                "create": Parameter("boolean"),
                "all": Parameter("boolean"),
                "off": Parameter("boolean"),
                "values": Parameter("object"),
            },
        )
        table.add(
            "x-throttlefs-remove-group",
            self._remove_group,
            {"group-name": Parameter("string", required=True)},
        )
        table.add("x-throttlefs-reload", self._reload_config)

    # -- limits ----------------------------------------------------------------------------

    async def _query(self, arguments: Arguments) -> object:
        throttle = self._governor.throttle
        shares = self._shares()
        images = []
        for number, known in enumerate(await self._chosen(arguments), 1):
            images.append(self._image(known))
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "source": self._facts.source,
            "target": self._facts.target,
            "gates-open": throttle.gates_open,
            "features": dict(self._features()),
            "counts": dict(self._counts()),
            **self._power(),
            "default": _shown(policy_state(self._governor.policy.default), "group"),
            "groups": [
                {
                    "name": group.name,
                    **_shown(group_state(group), "parent"),
                    **_in_force(group),
                    "members": len(group.members),
                    **({"shared": shares[group.name]} if group.name in shares else {}),
                }
                for group in sorted(throttle.groups(), key=lambda group: group.name)
            ],
            "images": images,
        }

    async def _query_config(self, _: Arguments) -> object:
        governor = self._governor
        policy = governor.policy
        overrides = [
            (known.path, known.image.override)
            for known in self._images.known()
            if known.image is not None and governor.is_changed(known.key)
        ]
        stores = policy.stores()
        groups = {
            group.name: group_policy(group, stores.get(group.name))
            for group in governor.throttle.groups()
        }
        rules = policy.config.images
        return {"toml": write_config(policy.default, groups, overrides, rules, self._faults())}

    async def _chosen(self, arguments: Arguments) -> list[KnownImage]:
        known = self._images.known()
        if "device" not in arguments:
            return known
        key, path = await self._images.find(arguments["device"])
        return [one for one in known if one.key == key] or [KnownImage(key, path, None, None)]

    def _image(self, known: KnownImage) -> dict[str, object]:
        image = known.image
        if image is None:
            # It is not open: show what would hold for it.
            state: State = policy_state(self._governor.policy.for_path(known.path))
            follows = self._governor.policy.config.rule_for(known.path) is None
        else:
            state = image_state(image)
            follows = image.override == NO_OVERRIDE
        return {
            "device": known.device,
            "handles": known.handles,
            "follows-default": follows,
            **_shown(state, "group"),
            **({} if image is None else _in_force(image)),
            "waiting": _waiting(image),
            "bytes": {
                "read": known.statistics.read.bytes if known.statistics else 0,
                "write": known.statistics.write.bytes if known.statistics else 0,
            },
        }

    async def _set(self, arguments: Arguments) -> object:
        device, group = arguments.get("device"), arguments.get("group-name")
        every = arguments.get("all", False)
        if device is not None and group is not None:
            raise QmpError("Need at most one of 'device' and 'group-name'")
        if every and (device is not None or group is not None):
            raise QmpError("'all' goes with neither 'device' nor 'group-name'")
        if "create" in arguments and group is None:
            raise QmpError("'create' needs 'group-name'")
        change = Change.parse(
            arguments.get("values", {}).items(),
            off=arguments.get("off", False),
            of_group=group is not None,
        )
        if device is not None:
            key, path = await self._images.find(device)
            done = self._tuner.change_image(key, path, change)
        elif group is not None:
            create = arguments.get("create", False)
            done = self._tuner.change_group(group, change, create=create)
        else:
            every = every or self._images.is_one
            done = self._tuner.change_default(change, every_image=every)
        return [_changed(one) for one in done]

    async def _remove_group(self, arguments: Arguments) -> object:
        self._tuner.remove_group(arguments["group-name"])
        return {}

    async def _reload_config(self, _: Arguments) -> object:
        await self._reload()
        return {}

    # -- statistics ------------------------------------------------------------------------

    async def _query_stats(self, arguments: Arguments) -> object:
        result = []
        histograms = arguments.get("histograms", False)
        for number, known in enumerate(await self._chosen(arguments), 1):
            statistics = known.statistics or ImageStatistics(known.key, known.path)
            waiting = _waiting(known.image)
            image: dict[str, object] = {
                "device": known.device,
                "handles": known.handles,
                "flushes": statistics.flushes,
                "flush-ns": statistics.flush_ns,
                "read": _direction(statistics.read, waiting["read"], histograms),
                "write": _direction(statistics.write, waiting["write"], histograms),
            }
            result.append(image | _held_to(known.image))
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        throttle = self._governor.throttle
        shares = self._shares()
        groups = [
            {
                "name": group.name,
                "limits": group.meter.limits.as_dict(),
                **_disk(group.device_settings.as_text()),
                "parent": group.parent.name if group.parent else None,
                **({"shared": shares[group.name]} if group.name in shares else {}),
            }
            for group in throttle.groups()
        ]
        return {"clock-ns": throttle.clock(), "groups": groups, "images": result}


def _shown(state: State, group: str) -> dict[str, object]:
    return {
        "limits": limits_of(state),
        **_disk(device_of(state)),
        group: state.get(group),
        "weight": state["weight"],
    }


def _disk(settings: Mapping[str, str]) -> dict[str, object]:
    """The settings of a device, if there are any."""
    return {"disk": settings} if settings else {}


def _in_force(node: Image | Group) -> dict[str, object]:
    """The limits in force where rates grow with the size, and how many requests a device serves."""
    found: dict[str, object] = {}
    if node.limits.grows:
        found["in-force"] = node.meter.limits.as_dict()
    if node.device is not None:
        found["serving"] = len(node.device.serving)
    return found


def _held_to(image: Image | None) -> dict[str, object]:
    """What statistics say of the limits in force, the device and the group."""
    if image is None:
        return {"limits": {}, "group": None}
    return {
        "limits": image.meter.limits.as_dict(),
        **_disk(image.device_settings.as_text()),
        "group": None if image.parent is None else image.parent.name,
    }


def _waiting(image: Image | None) -> dict[str, int]:
    waiting = [0, 0] if image is None else image.waiting
    return {"read": waiting[READ], "write": waiting[WRITE]}


def _changed(changed: Changed) -> Mapping[str, object]:
    name = device_name(changed.name)
    return {
        "kind": changed.kind,
        "name": name,
        "before": changed.before,
        "after": changed.after,
    }


def _direction(statistics: DirectionStatistics, waiting: int, histograms: bool) -> dict[str, Any]:
    wait, service = statistics.wait, statistics.service
    figures: dict[str, Any] = {
        "requests": statistics.requests,
        "bytes": statistics.bytes,
        "errors": statistics.errors,
        "delayed": statistics.delayed,
        "wait-ns": statistics.wait_ns,
        "service-ns": statistics.service_ns,
        "waiting": waiting,
        "waiting-most": max(statistics.waiting_most, waiting),
        "wait": {name: quantile_ns(wait, part) for name, part in QUANTILES.items()},
        "service": {name: quantile_ns(service, part) for name, part in QUANTILES.items()},
    }
    if histograms:
        figures |= {"wait-histogram": sparse(wait), "service-histogram": sparse(service)}
    return figures


def sparse(histogram: list[int]) -> dict[str, int]:
    """The buckets that are not empty, by number; `throttlefs.stats` defines them."""
    return {str(bucket): count for bucket, count in enumerate(histogram) if count}
