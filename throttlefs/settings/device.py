"""What a disk behind the limiter pretends to be: the settings of a device, and all their names.

A device answers each request late, works on so many at once, and may have a head that moves.
Rates that grow with the size of the disk are limits; `limits` has them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from . import units
from .limit_names import QEMU_GROUP_NAME, canonical_name
from .limits import Limits, LimitsError
from .named_values import not_at_default, read_values
from .units import quoted

Durations = tuple[int, ...]
"""Times in ns that do not fall, as "200us/2ms/10ms" says them; () for none."""

LATENCIES: Final = ("latency", "latency_rd", "latency_wr", "latency_flush")

DEVICE_HELP: Final[Mapping[str, str]] = {
    "profile": "the limits and the device of a real disk; throttlefs profile list has all",
    "latency": "how long a request takes, e.g. 5ms, or p50/p99/p99.9, e.g. 200us/2ms/10ms",
    "latency_rd": "as latency, for reads",
    "latency_wr": "as latency, for writes",
    "latency_flush": "as latency, for fsync and what O_DSYNC adds to a write",
    "queue_depth": "how many requests the device works on at once; the others wait",
    "seek": "a head: time to the next track/over the whole disk, e.g. 1ms/18ms",
    "rpm": "a head: turns of the disk in a minute, e.g. 7200",
    "size": "bytes of the disk, for seeks and rates per GiB (default: the image's own)",
    "seed": "a whole number; with the same one the random latencies are the same",
}
"""What each setting means, in one line, by canonical name in the usual order."""

DEVICE_NAMES: Final = tuple(DEVICE_HELP)
"""The canonical names of all settings of a device, which are the fields of `Device`."""

_EXAMPLES: Final = {
    "profile": "hdd-7200",
    **dict.fromkeys(LATENCIES, "5ms"),
    "queue_depth": "32",
    "seek": "1ms/18ms",
    "rpm": "7200",
    "size": "100G",
    "seed": "1",
}

_WHOLE: Final = {"queue_depth": 65_535, "rpm": 1_000_000, "seed": units.MAX_VALUE}
"""The settings that are whole numbers without a unit, with the largest value of each."""

LONGEST_LATENCY: Final = 3600 * 10**9
"""ns"""

_SYNONYMS: Final = {"latency_read": "latency_rd", "latency_write": "latency_wr"}


class DeviceError(LimitsError):
    """A setting of a device that cannot be used; see `LimitsError`."""


def device_name(name: str) -> str | None:
    """The name in `DEVICE_NAMES` that *name* means, or None if it names no setting of a device.

    Dashes count as underscores; ``latency_read`` and ``latency_write`` are known as well.
    """
    plain = name.replace("-", "_")
    plain = _SYNONYMS.get(plain, plain)
    return plain if plain in DEVICE_HELP else None


def option_key(name: str) -> str:
    """The one key of all synonyms of *name*.

    That is the canonical name of a limit or of a setting of a device, "group" for QEMU's
    ``throttling.group``, and *name* itself for anything else.
    """
    canonical = canonical_name(name) or device_name(name)
    return canonical or ("group" if name == QEMU_GROUP_NAME else name)


def example_of(name: str) -> str:
    """A value for the setting *name* (canonical) as a user might write it."""
    return _EXAMPLES[name]


def parse_setting(name: str, value: str | int | float) -> Any:
    """The value of the setting *name* (any synonym), as `Device` holds it.

    *value* is text, or a number where the setting has no unit. 0 stands for none. Raises
    `DeviceError` that names *name* and *value*.
    """
    canonical = device_name(name)
    try:
        if canonical in LATENCIES:
            return _parse_durations(value, 3, "percentiles must not fall")
        if canonical == "seek":
            return _parse_durations(value, 2, "a longer way must not take less time")
        if canonical == "size":
            return units.parse_bytes(value)
        if canonical == "profile":
            return _parse_name(value)
        if canonical is not None:
            # Some programs write every number of JSON as a float.
            whole = int(value) if isinstance(value, float) and value.is_integer() else value
            return units.parse_whole(whole, 0, _WHOLE[canonical])
    except units.UnitError as error:
        raise DeviceError(name, f"{name}: {error}") from None
    raise DeviceError(name, f"{quoted(name)} is not the name of a setting of a device")


def format_setting(name: str, value: Any) -> str:
    """*value* of the setting *name* (canonical) as `parse_setting` reads it back exactly."""
    if name == "profile":
        return str(value)
    if name in LATENCIES or name == "seek":
        return "/".join(map(units.format_duration, value)) or "0"
    return units.format_bytes(value) if name == "size" else str(value)


def _parse_durations(value: str | int | float, most: int, rule: str) -> Durations:
    parts: list[Any] = value.split("/") if isinstance(value, str) else [value]
    if len(parts) > most:
        raise units.UnitError(f"{quoted(value)} has more than {most} times")
    times = tuple(map(units.parse_duration, parts))
    if list(times) != sorted(times):
        raise units.UnitError(f"{quoted(value)}: {rule}")
    if times[-1] > LONGEST_LATENCY:
        raise units.UnitError(f"{quoted(value)} is too long; the longest time is 1h")
    return times if times[-1] else ()


def _parse_name(value: object) -> str:
    if value in ("0", 0) and not isinstance(value, bool):
        return ""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise units.UnitError(f"{quoted(value)} is not the name of a profile")
    return value


@dataclass(frozen=True, slots=True)
class Device:
    """The settings of one device; 0, () and None mean none.

    Times are in ns, the size is in bytes. A latency has the median, the 99th and the 99.9th
    percentile; without the later ones no request takes longer than the last. ``latency`` holds for
    reads, writes and flushes that have none of their own. ``seek`` has the time to the next track
    and the time over the whole disk. Values are as `parse_setting` returns them.

    ``profile`` only says which profile the settings, and the limits beside them, come from; "" is
    none. `throttlefs.settings.profiles` has what that means.
    """

    profile: str = ""
    latency: Durations = ()
    latency_rd: Durations = ()
    latency_wr: Durations = ()
    latency_flush: Durations = ()
    queue_depth: int = 0
    seek: Durations = ()
    rpm: int = 0
    size: int = 0
    seed: int | None = None

    @classmethod
    def parse(cls, values: Mapping[str, str | int | float]) -> Device:
        """A device from names (any synonym) and values as people write them, or as numbers.

        Raises `DeviceError` for an unknown name, an unreadable value and one setting under two
        names.
        """
        parsed, _ = read_values(values, device_name, parse_setting, _given_twice)
        return cls(**parsed)

    @property
    def has_head(self) -> bool:
        """Whether there is a head, which serves one request at a time."""
        return bool(self.seek or self.rpm)

    @property
    def is_slow(self) -> bool:
        """Whether requests take time or wait for places. If not, there is no device."""
        latencies = self.latency, self.latency_rd, self.latency_wr, self.latency_flush
        return bool(self.queue_depth or self.has_head or any(latencies))

    def latency_of(self, name: str) -> Durations:
        """The latency *name*, one of `LATENCIES`, or ``latency`` if it has none of its own."""
        own: Durations = getattr(self, name)
        return own or self.latency

    def changed(self, **fields: Any) -> Device:
        """This device with some settings (canonical names) replaced."""
        return dataclasses.replace(self, **fields)

    def as_dict(self) -> dict[str, Any]:
        """The settings that are not at their default, so that ``Device(**x.as_dict()) == x``."""
        return not_at_default(self)

    def as_text(self) -> dict[str, str]:
        """As `as_dict`, with values as people write them: ``{"latency": "5ms"}``."""
        return {name: format_setting(name, value) for name, value in self.as_dict().items()}

    def __str__(self) -> str:
        """The form of an option string, "latency=5ms,queue_depth=4"; empty if nothing is set."""
        return ",".join(f"{name}={value}" for name, value in self.as_text().items())


def _given_twice(name: str, first: str) -> DeviceError:
    return DeviceError(name, f"{name} and {first} are the same setting: give one")


NO_DEVICE: Final = Device()
"""Nothing stands behind the limiter."""


def check_group_device(limits: Limits, device: Device) -> None:
    """Raise `DeviceError` if these cannot be a group's: a head and rates per GiB need a size."""
    if device.size:
        return
    needs = [name for name in ("seek", "rpm") if getattr(device, name)]
    needs += [name for name in limits.as_dict() if name.endswith("_per_gib")]
    if needs:
        raise DeviceError(
            needs[0],
            f"{needs[0]} needs size, that of the disk on which all images of the group lie: "
            f"add e.g. size={_EXAMPLES['size']}",
        )
