"""Makes the figures of a mount in Prometheus' text format, for ``-o metrics=HOST:PORT``.

The format is that of https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4.
prometheus-client writes it as well, but takes 0.6 ms for an image, and the mount's I/O waits
meanwhile. This module takes a tenth of that. The tests read the text with prometheus-client's
parser.

`throttlefs.daemon.metrics_server` sends it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic_ns
from typing import Final

import trio

from throttlefs import __version__
from throttlefs.cluster.keeper import State
from throttlefs.cluster.member import ShareStatus
from throttlefs.control.images import Images, KnownImage
from throttlefs.control.service import Control
from throttlefs.host.paths import MountPaths
from throttlefs.settings.device import Device
from throttlefs.settings.limits import RATES
from throttlefs.stats import BUCKETS_PER_OCTAVE, DirectionStatistics, ImageStatistics
from throttlefs.throttle import READ, WRITE, Group, Image, Throttle

_SIDES: Final = {"": "total", "_rd": "read", "_wr": "write"}
_OCTAVES: Final = range(10, 36, 2)
"""The histograms' bounds: 2^10 ns (1 us) to 2^34 ns (17 s), each four times the last."""

_TURN_NS: Final = 200_000
"""How long text is made before others get a turn; the limiter makes up for at most 2 ms."""


def metrics_of(control: Control, throttle: Throttle, paths: MountPaths) -> MountMetrics:
    """The metrics of the mount with *control* and *throttle*."""
    shares = control.cluster.statuses
    return MountMetrics(control.images, throttle, paths.source, paths.target, shares)


class MountMetrics:
    """Makes the text of all metrics of a mount."""

    def __init__(
        self,
        images: Images,
        throttle: Throttle,
        source: str,
        target: str,
        shares: Callable[[], Mapping[str, ShareStatus]] = dict,
    ) -> None:
        self._images = images
        self._shares = shares
        self._throttle = throttle
        info = {"version": __version__, "source": source, "target": target}
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in info.items())
        self._info = (
            _header("throttlefs_mount_info", "gauge", "The mount.")
            + f"throttlefs_mount_info{{{labels}}} 1\n"
        )

    async def text(self) -> bytes:
        """The whole text. The mount's I/O gets its turns in between."""
        known = [
            (image, f'image="{_escaped(image.device)}"')
            for image in self._images.known()
            if image.path
        ]
        parts = [self._info, self._groups("bytes", RATES[:3]), self._groups("requests", RATES[3:])]
        parts += map(self._devices_of_groups, _DEVICE_FIGURES)
        parts += self._shared()
        turn_ends = monotonic_ns() + _TURN_NS
        for header, lines in _FAMILIES:
            parts.append(header)
            for image, label in known:
                parts.append(lines(image, label))
                if monotonic_ns() > turn_ends:
                    await trio.lowlevel.checkpoint()
                    turn_ends = monotonic_ns() + _TURN_NS
        return "".join(parts).encode()

    def _groups(self, unit: str, rates: Sequence[str]) -> str:
        name = f"throttlefs_group_limit_{unit}_per_second"
        text = f"Limit that the images of a group share, {unit} a second; absent if there is none."
        groups = self._throttle.groups()
        lines = [
            f'{name}{{group="{_escaped(group.name)}",operation="{_side(rate)}"}} {float(value)}\n'
            for group in groups
            for rate in rates
            if (value := getattr(group.meter.limits, rate))
        ]
        return _header(name, "gauge", text) + "".join(lines)

    def _devices_of_groups(self, figure: str) -> str:
        text = "".join(
            _device_lines(figure, "group_device", group, f'group="{_escaped(group.name)}"')
            for group in self._throttle.groups()
        )
        return _device_header(figure, "group_device", "that the images of a group share") + text

    def _shared(self) -> list[str]:
        """What groups hold of limits that they share with other hosts."""
        shares = {f'group="{_escaped(name)}"': one for name, one in self._shares().items()}
        if not shares:
            return []
        now = self._throttle.lease_clock()
        parts = []
        for unit, at in (("bytes", 0), ("requests", 3)):
            name = f"throttlefs_shared_held_{unit}_per_second"
            parts.append(
                _header(name, "gauge", f"What this host holds of a shared limit, {unit} a second.")
            )
            parts += [
                f'{name}{{{label},operation="{_side(rate)}"}} {share.standing.using[index]!r}\n'
                for label, share in shares.items()
                for index, rate in enumerate(RATES)
                if at <= index < at + 3
                and getattr(self._throttle.group(share.group).meter.limits, rate)
            ]
        for name, text, value in _SHARED:
            parts.append(_header(name, "gauge", text))
            parts += [f"{name}{{{label}}} {value(share, now)}\n" for label, share in shares.items()]
        return parts


_SHARED: Final[tuple[tuple[str, str, Callable[[ShareStatus, int], float]], ...]] = (
    (
        "throttlefs_shared_store_lost",
        "1 while the group does without the store that its limit is shared by.",
        lambda share, _: int(share.standing.state is State.LOST),
    ),
    (
        "throttlefs_shared_hosts",
        "Daemons that share the limit, at the store's last answer.",
        lambda share, _: share.standing.hosts,
    ),
    (
        "throttlefs_shared_answer_age_seconds",
        "Since the store's last answer; NaN before the first.",
        lambda share, now: (
            math.nan if share.standing.heard is None else (now - share.standing.heard) / 1e9
        ),
    ),
)


_DEVICE_FIGURES: Final = {
    "latency_seconds": "Latency of the slow device {}, by quantile.",
    "places": "Requests that the slow device {} works on at once; absent if there is no bound.",
    "serving_requests": "Requests that the slow device {} works on now.",
}


def _device_header(figure: str, kind: str, whose: str) -> str:
    return _header(f"throttlefs_{kind}_{figure}", "gauge", _DEVICE_FIGURES[figure].format(whose))


def _device_lines(figure: str, kind: str, node: Image | Group | None, label: str) -> str:
    """The lines of one figure of the own device of *node*."""
    if node is None or node.device is None:
        return ""
    name = f"throttlefs_{kind}_{figure}"
    if figure == "latency_seconds":
        return "".join(
            f'{name}{{{label},operation="{operation}",quantile="{quantile}"}} {ns / 1e9!r}\n'
            for operation, quantile, ns in _latencies(node.device_settings)
        )
    value = node.device.model.places if figure == "places" else len(node.device.serving)
    return f"{name}{{{label}}} {value}\n" if value or figure != "places" else ""


def _latencies(device: Device) -> Iterable[tuple[str, str, int]]:
    """Operation, quantile and latency (ns) of each point of a device."""
    names = (("read", "latency_rd"), ("write", "latency_wr"), ("flush", "latency_flush"))
    for operation, setting in names:
        points = zip(("0.5", "0.99", "0.999"), device.latency_of(setting), strict=False)
        for quantile, ns in points:
            yield operation, quantile, ns


def _device_family(figure: str) -> tuple[str, Lines]:
    def lines(known: KnownImage, label: str) -> str:
        return _device_lines(figure, "device", known.image, label)

    return _device_header(figure, "device", "of an image"), lines


Lines = Callable[[KnownImage, str], str]
"""The lines of a metric for an image, whose label is given as well."""

_NOTHING: Final = ImageStatistics((0, 0), b"")


def _escaped(value: str) -> str:
    """*value* escaped for the quotes of a label."""
    plain = value.encode("utf-8", "replace").decode("utf-8")
    return plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _header(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _side(rate: str) -> str:
    return _SIDES[rate.removeprefix("bps").removeprefix("iops")]


def _counter(
    name: str, text: str, value: Callable[[DirectionStatistics], int]
) -> tuple[str, Lines]:
    name = f"{name}_total"

    def lines(known: KnownImage, label: str) -> str:
        statistics = known.statistics or _NOTHING
        return (
            f'{name}{{{label},operation="read"}} {value(statistics.read)}\n'
            f'{name}{{{label},operation="write"}} {value(statistics.write)}\n'
        )

    return _header(name, "counter", text), lines


def _gauge(name: str, text: str, value: Callable[[KnownImage, int], int]) -> tuple[str, Lines]:
    def lines(known: KnownImage, label: str) -> str:
        return (
            f'{name}{{{label},operation="read"}} {value(known, READ)}\n'
            f'{name}{{{label},operation="write"}} {value(known, WRITE)}\n'
        )

    return _header(name, "gauge", text), lines


_BOUNDS: Final = tuple(
    (octave * BUCKETS_PER_OCTAVE + 1, f'le="{2**octave / 1e9!r}"') for octave in _OCTAVES
)
"""The bounds of the histograms: how many of our buckets lie below each, and its label."""


def _histogram(
    name: str,
    text: str,
    buckets: Callable[[DirectionStatistics], list[int]],
    total_ns: Callable[[DirectionStatistics], int],
) -> tuple[str, Lines]:
    def one(figures: DirectionStatistics, labels: str) -> Iterable[str]:
        counts = buckets(figures)
        total = sum(counts)
        below = before = 0
        for end, bound in _BOUNDS:
            if below < total:  # most counts are in a few buckets
                below += sum(counts[before:end])
                before = end
            yield f"{name}_bucket{{{labels},{bound}}} {below}\n"
        yield f'{name}_bucket{{{labels},le="+Inf"}} {total}\n'
        yield f"{name}_count{{{labels}}} {total}\n"
        yield f"{name}_sum{{{labels}}} {total_ns(figures) / 1e9!r}\n"

    def lines(known: KnownImage, label: str) -> str:
        statistics = known.statistics or _NOTHING
        return "".join(
            [
                *one(statistics.read, f'{label},operation="read"'),
                *one(statistics.write, f'{label},operation="write"'),
            ]
        )

    return _header(name, "histogram", text), lines


def _limit(unit: str, rates: Sequence[str]) -> tuple[str, Lines]:
    name = f"throttlefs_limit_{unit}_per_second"

    def lines(known: KnownImage, label: str) -> str:
        if known.image is None:
            return ""
        limits = known.image.meter.limits
        return "".join(
            f'{name}{{{label},operation="{_side(rate)}"}} {float(value)}\n'
            for rate in rates
            if (value := getattr(limits, rate))
        )

    text = f"Limit of the image's own, {unit} a second; absent if there is none."
    return _header(name, "gauge", text), lines


def _waiting(known: KnownImage, direction: int) -> int:
    return known.image.waiting[direction] if known.image else 0


def _waiting_most(known: KnownImage, direction: int) -> int:
    statistics = known.statistics or _NOTHING
    figures = statistics.read if direction == READ else statistics.write
    return max(figures.waiting_most, _waiting(known, direction))


_FAMILIES: Final = (
    _counter("throttlefs_requests", "Requests that succeeded.", lambda d: d.requests),
    _counter("throttlefs_transferred_bytes", "Bytes read or written.", lambda d: d.bytes),
    _counter("throttlefs_errors", "Requests that failed.", lambda d: d.errors),
    _counter(
        "throttlefs_delayed_requests", "Requests that had to wait for a limit.", lambda d: d.delayed
    ),
    _histogram(
        "throttlefs_wait_seconds",
        "Time that requests waited for a limit, 0 for most.",
        lambda d: d.wait,
        lambda d: d.wait_ns,
    ),
    _histogram(
        "throttlefs_service_seconds",
        "Time that requests took in the file behind, and in the slow device if there is one.",
        lambda d: d.service,
        lambda d: d.service_ns,
    ),
    _gauge("throttlefs_waiting_requests", "Requests waiting for a limit now.", _waiting),
    _gauge(
        "throttlefs_waiting_requests_max",
        "Requests that waited for a limit at most at a time.",
        _waiting_most,
    ),
    _limit("bytes", RATES[:3]),
    _limit("requests", RATES[3:]),
    *map(_device_family, _DEVICE_FIGURES),
)
"""The header of each metric and its lines for an image."""
