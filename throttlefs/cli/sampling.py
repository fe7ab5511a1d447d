"""Computes what images did in an interval from two answers of the control socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from throttlefs.control.client import QmpClient
from throttlefs.settings.limits import RATES
from throttlefs.stats import BUCKET_COUNT, quantile_ns, since


@dataclass(frozen=True, slots=True)
class Activity:
    """The reads or the writes of an image in an interval; times in ns, None if there are none."""

    requests: int
    bytes: int
    errors: int
    delayed: int
    wait_ns: int
    service_ns: int
    waiting: int
    """Requests that wait at the end of the interval."""
    waiting_most: int
    """The most that ever waited at a time."""
    wait: tuple[int, ...]
    service: tuple[int, ...]

    def wait_quantile(self, fraction: float) -> float | None:
        """The wait (ns) that *fraction* of the requests did not exceed."""
        return quantile_ns(self.wait, fraction)

    def service_quantile(self, fraction: float) -> float | None:
        """The time (ns) in file and device that *fraction* of the requests did not exceed."""
        return quantile_ns(self.service, fraction)


@dataclass(frozen=True, slots=True)
class Use:
    """How much of a limit is used."""

    limit: str
    """Its canonical name."""
    value: float
    share: float
    """1 for all of it."""
    group: str | None
    """The group that it is a limit of, None for the image's own."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image in an interval of `seconds`."""

    device: str
    handles: int
    group: str | None
    limits: Mapping[str, float]
    """Its own limits."""
    read: Activity
    write: Activity
    seconds: float
    tightest: Use | None = None
    """The limit that is used most, of its own and of those above it."""
    disk: Mapping[str, str] = field(default_factory=dict)
    """The settings of the device that its requests go through; empty if there is none."""

    @property
    def byte_rate(self) -> float:
        """Bytes a second, both ways."""
        return self.rate("bps")

    @property
    def request_rate(self) -> float:
        """Requests a second, both ways."""
        return self.rate("iops")

    @property
    def waiting(self) -> int:
        """Requests that wait for a limit."""
        return self.read.waiting + self.write.waiting

    def wait_quantile(self, fraction: float) -> float | None:
        """The wait (ns) of reads and writes together."""
        both = [a + b for a, b in zip(self.read.wait, self.write.wait, strict=True)]
        return quantile_ns(both, fraction)

    def service_quantile(self, fraction: float) -> float | None:
        """The service time (ns) of reads and writes together: file behind and slow device."""
        both = [a + b for a, b in zip(self.read.service, self.write.service, strict=True)]
        return quantile_ns(both, fraction)

    def rate(self, limit: str) -> float:
        """The bytes or requests a second that count for the rate *limit*."""
        sides = {"d": (self.read,), "r": (self.write,)}.get(limit[-1], (self.read, self.write))
        if limit.startswith("bps"):
            return sum(side.bytes for side in sides) / self.seconds
        return sum(side.requests for side in sides) / self.seconds


Answer = Mapping[str, Any]
"""What ``x-throttlefs-query-stats`` returned, with histograms."""


class Sampler:
    """Asks for the figures of one image, or of all of a mount."""

    def __init__(self, client: QmpClient, device: str | None) -> None:
        self._client = client
        self._device = device

    def sample(self) -> Answer:
        """The figures now. Raises `ThrottlefsError`."""
        arguments = {} if self._device is None else {"device": self._device}
        answer: Answer = self._client.run("x-throttlefs-query-stats", histograms=True, **arguments)
        return answer


def rows(now: Answer, before: Answer | None = None) -> list[Row]:
    """What each image did between two answers, or since the mount began.

    Since the mount began, rates mean little: `Row.seconds` is 1.
    """
    seconds = 1.0 if before is None else (now["clock-ns"] - before["clock-ns"]) / 1e9
    earlier = {} if before is None else {image["device"]: image for image in before["images"]}
    found = []
    for image in now["images"]:
        old = earlier.get(image["device"], _NOTHING)
        found.append(
            Row(
                device=image["device"],
                handles=image["handles"],
                group=image["group"],
                limits=image["limits"],
                read=_activity(image["read"], old.get("read", _NOTHING)),
                write=_activity(image["write"], old.get("write", _NOTHING)),
                seconds=max(seconds, 1e-9),
            )
        )
    groups = {group["name"]: group for group in now["groups"]}
    members: dict[str, list[Row]] = {}
    for row in found:
        for name in _groups_above(row, groups):
            members.setdefault(name, []).append(row)
    disks = {image["device"]: image.get("disk") for image in now["images"]}
    return [
        replace(
            row,
            tightest=_tightest(row, groups, members),
            disk=disks[row.device] or _disk_above(row, groups),
        )
        for row in found
    ]


def _disk_above(row: Row, groups: Mapping[str, Mapping[str, Any]]) -> Mapping[str, str]:
    """The device of the innermost group around an image that has one."""
    for name in _groups_above(row, groups):
        if groups[name].get("disk"):
            disk: Mapping[str, str] = groups[name]["disk"]
            return disk
    return {}


def _groups_above(row: Row, groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names: list[str] = []
    name = row.group
    while name is not None and name in groups:
        names.append(name)
        name = groups[name]["parent"]
    return names


def _tightest(
    row: Row, groups: Mapping[str, Mapping[str, Any]], members: Mapping[str, list[Row]]
) -> Use | None:
    uses = _uses(row.limits, [row], None)
    for name in _groups_above(row, groups):
        uses += _uses(groups[name]["limits"], members[name], name)
    return max(uses, key=lambda use: use.share, default=None)


def _uses(limits: Mapping[str, float], rows: list[Row], group: str | None) -> list[Use]:
    return [
        Use(name, limits[name], sum(row.rate(name) for row in rows) / limits[name], group)
        for name in RATES
        if limits.get(name)
    ]


_NOTHING: Final[Mapping[str, Any]] = {}


def _activity(now: Mapping[str, Any], before: Mapping[str, Any]) -> Activity:
    def added(name: str) -> int:
        # The image may have been dropped in between, so its counters began again.
        return max(0, int(now[name]) - int(before.get(name, 0)))

    return Activity(
        requests=added("requests"),
        bytes=added("bytes"),
        errors=added("errors"),
        delayed=added("delayed"),
        wait_ns=added("wait-ns"),
        service_ns=added("service-ns"),
        waiting=now["waiting"],
        waiting_most=now["waiting-most"],
        wait=_added(now["wait-histogram"], before.get("wait-histogram", {})),
        service=_added(now["service-histogram"], before.get("service-histogram", {})),
    )


def _added(now: Mapping[str, int], before: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(since(_dense(now), _dense(before)))


def _dense(buckets: Mapping[str, int]) -> list[int]:
    histogram = [0] * BUCKET_COUNT
    for bucket, count in buckets.items():
        histogram[int(bucket)] = count
    return histogram
