"""The ``-o`` options of a mount: limits, a device, options of throttlefs, FUSE and mount(8)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from . import suggest
from .device import (
    DEVICE_NAMES,
    NO_DEVICE,
    Device,
    check_group_device,
    device_name,
    example_of,
    format_setting,
    option_key,
    parse_setting,
)
from .limits import (
    DEFAULT_WEIGHT,
    LIMIT_NAMES,
    NO_LIMITS,
    Limits,
    LimitsError,
    canonical_name,
    format_limit,
    parse_limit,
)
from .mountflags import FLAG_NAMES, MountFlags, drops_value, for_libfuse, is_comment, why_refused
from .option_values import (
    CACHE_MODES,
    DISCARD_COSTS,
    ENGINES,
    SERVERS,
    SWITCHES,
    VALUES,
    OptionError,
)
from .profiles import Library, split_settings
from .shared import ON_LOST, OnLost, SharedStore, StoreAddress
from .units import quoted
from .volatile import (
    FSYNC_FAILURES,
    ORDERS_OF_NAMES,
    SECTORS,
    VOLATILE_DIR,
    why_not_volatile,
)


@dataclass(frozen=True, slots=True)
class MountOptions:
    """All options of ``-o``, with defaults for those not given; made by `parse_options`."""

    limits: Limits = NO_LIMITS
    """The default limits: those of `group` if there is one, else of each image."""
    group: str | None = None
    weight: int = DEFAULT_WEIGHT
    device: Device = NO_DEVICE
    """The default device: that of `group` if there is one, else of each image."""
    beside_profile: Mapping[str, str] = field(default_factory=dict, compare=False)
    """What is given beside a profile, as it is written; `with_profile` puts it into effect."""
    config: str | None = None
    """The path of the configuration file, as given."""
    fault_log: str | None = None
    """The path of the fault log, as given."""
    attr_timeout: float = 1.0
    """Seconds."""
    entry_timeout: float = 1.0
    """Seconds."""
    nonempty: bool = False
    auto_cache: bool = False
    no_mmap: bool = False
    cache: str = CACHE_MODES[0]
    """One of `CACHE_MODES`."""
    engine: str = ENGINES[0]
    """One of `ENGINES`."""
    server: str = SERVERS[0]
    """One of `SERVERS`."""
    discard: str = DISCARD_COSTS[0]
    """One of `DISCARD_COSTS`."""
    max_inflight: int = 256 << 20
    """Bytes."""
    max_background: int = 10_000
    """Requests."""
    shared: StoreAddress | None = None
    """Where the limits of `group` are shared with other hosts."""
    password_file: str | None = None
    on_lost: str = ON_LOST[0]
    """One of `ON_LOST`."""
    metrics: str | None = None
    """HOST:PORT; `option_values.split_address` takes it apart."""
    volatile: bool = False
    """Whether what was not flushed is lost in a power cut; the next five belong to that."""
    volatile_dir: str = VOLATILE_DIR
    """The directory of the undo log, as given."""
    sector: int = int(SECTORS[0])
    """Bytes that a power cut loses or keeps as a whole."""
    names: str = ORDERS_OF_NAMES[0]
    """One of `ORDERS_OF_NAMES`."""
    auto_da_alloc: bool = True
    """Whether rename over a file, and close after truncation, have the data written first."""
    fsync_failure: str = FSYNC_FAILURES[0]
    """One of `FSYNC_FAILURES`."""
    fsname: str | None = None
    """The source for mount(8) to show, any text; None for SRC."""
    flags: tuple[str, ...] = ()
    """The flags of FUSE and mount(8) that hold, in the order given; none contradicts another."""
    given: frozenset[str] = frozenset()
    """Canonical names of the options with a value that were given; ``bps=0`` counts as given."""

    @property
    def shared_store(self) -> SharedStore | None:
        """How the limits of `group` are shared, None if they are not."""
        if self.shared is None:
            return None
        return SharedStore(self.shared, self.password_file, OnLost(self.on_lost))

    @property
    def read_only(self) -> bool:
        """Whether ``ro`` holds."""
        return "ro" in self.flags

    @property
    def noatime(self) -> bool:
        """Whether reading must not move the access time of a file (O_NOATIME, where allowed)."""
        return "noatime" in self.flags

    @property
    def nodiratime(self) -> bool:
        """Whether reading must not move the access time of a directory; ``noatime`` implies it."""
        return self.noatime or "nodiratime" in self.flags

    @property
    def allow_other(self) -> bool:
        """Whether users beside the mounting one may use the mount."""
        return "allow_other" in self.flags

    @property
    def allow_root(self) -> bool:
        """Whether root, but no third user, may use the mount."""
        return "allow_root" in self.flags

    @property
    def auto_unmount(self) -> bool:
        """Whether fusermount3 keeps running, to unmount if the daemon dies."""
        return "auto_unmount" in self.flags

    @property
    def limits_given(self) -> bool:
        """Whether ``-o`` has any limit, even ``bps=0``, or a profile, which has all."""
        if self.device.profile:
            return True
        return self.limits != NO_LIMITS or not self.given.isdisjoint(LIMIT_NAMES)

    @property
    def device_given(self) -> bool:
        """Whether ``-o`` has any setting of a device, even ``latency=0``."""
        return self.device != NO_DEVICE or not self.given.isdisjoint(DEVICE_NAMES)

    @property
    def weight_given(self) -> bool:
        """Whether ``-o`` has a weight, even the default one."""
        return self.weight != DEFAULT_WEIGHT or "weight" in self.given

    def fuse_options(self) -> list[str]:
        """The options for libfuse, each for a ``-o`` of its own, but ``fsname`` and ``subtype``.

        No two contradict each other, so their order does not matter (pyfuse3 takes a set).
        """
        return ["default_permissions", *for_libfuse(self.flags)]

    def with_profile(self, library: Library) -> MountOptions:
        """These options with the limits and the device of the profile that they name, if any.

        Raises `ProfileError` if there is no such profile, and `LimitsError` if what is given beside
        it does not hold together with it.
        """
        name = self.device.profile
        if not name:
            return self
        limits, device = split_settings(library.with_given(name, self.beside_profile))
        return replace(self, limits=limits, device=device.changed(profile=name))

    def __str__(self) -> str:
        """An option string that `parse_options` reads back as equal options."""
        items = [f"{name}={escape(value)}" for name, value in self._settings()]
        items += [
            f"{name}={escape(_shown(getattr(self, name)))}" for name in VALUES if name in self.given
        ]
        items += [name for name in SWITCHES if getattr(self, name)]
        return ",".join([*items, *self.flags])

    def _settings(self) -> Iterable[tuple[str, str]]:
        """The limits and the settings of a device that were given."""
        if self.device.profile:
            yield "profile", self.device.profile
            yield from self.beside_profile.items()
            return
        for name in LIMIT_NAMES:
            if name in self.given:
                yield name, format_limit(name, getattr(self.limits, name))
        for name in DEVICE_NAMES:
            if name in self.given:
                yield name, format_setting(name, getattr(self.device, name))


def parse_options(strings: Iterable[str]) -> MountOptions:
    r"""The options of all ``-o`` strings, in order; of two that contradict, the later wins.

    Commas separate items; ``\,`` is a comma within one and ``\\`` a backslash. Empty items are
    ignored, and so are those that only mount(8) or fstab(5) use.

    Raises `OptionError`, even for an item that a later one replaces.
    """
    items = _Items()
    for string in strings:
        for item in _split(string):
            items.add(item)
    return items.options()


def as_option(name: str) -> str | None:
    """How ``-o`` spells an option that users call *name*; None if there is none.

    "bps" and "bps-total" stay as they are, "allow-other" becomes "allow_other", "rate" "bps".
    """
    for spelling in (name, name.replace("-", "_")):
        if canonical_name(spelling) or device_name(spelling) or _is_mount_option(spelling):
            return spelling
    return suggest.of_another_tool(name)


def why_not_in_flight(name: str) -> str | None:
    """Why a change of limits in flight cannot name *name*; None if ``-o`` has no such option."""
    if not _is_mount_option(name):
        return None
    return (
        f"{name} cannot change in flight: it is an option of throttlefs mount;"
        f" unmount and mount again with it"
    )


def _is_mount_option(name: str) -> bool:
    """Whether *name* is an option of ``-o`` other than a limit."""
    return option_key(name) in VALUES or name in SWITCHES or name in FLAG_NAMES


def ascii_name(name: str) -> str:
    """*name* in printable ASCII, with other bytes as %XX: pyfuse3 takes nothing else."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F else f"%{byte:02X}" for byte in os.fsencode(name)
    )


def escape(value: str) -> str:
    r"""*value* with ``,`` as ``\,`` and ``\`` as ``\\``, which libfuse understands as well."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


def _split(string: str) -> list[str]:
    # Before any other character a backslash stands for itself: paths may contain one.
    items = re.findall(r"(?:\\[\\,]|[^,])+", string)
    return [re.sub(r"\\([\\,])", r"\1", item) for item in items]


class _Items:
    """The items seen so far."""

    def __init__(self) -> None:
        # By canonical name: the name and the value as they are written.
        self._limits: dict[str, tuple[str, str]] = {}
        self._device: dict[str, tuple[str, str]] = {}
        self._fields: dict[str, Any] = {}
        self._flags = MountFlags()

    def add(self, item: str) -> None:
        name, equals, value = item.partition("=")
        limit, setting = canonical_name(name), device_name(name)
        try:
            if limit is not None:
                _need(name, value, _example(limit))
                parse_limit(name, value)
                self._limits[limit] = (name, value)
            elif setting is not None:
                _need(name, value, example_of(setting))
                parse_setting(name, value)
                self._device[setting] = (name, value)
            elif equals:
                self._add_value(name, value)
            else:
                self._add_word(name)
        except LimitsError as error:
            raise OptionError(error.option, error.message) from None

    def _add_value(self, name: str, value: str) -> None:
        key = option_key(name)
        if key in VALUES:
            parse, example = VALUES[key]
            _need(name, value, example)
            self._fields[key] = parse(name, value)
        elif drops_value(name):
            if name in FLAG_NAMES:
                self._flags.add(name)
        elif name in SWITCHES or name in FLAG_NAMES:
            raise OptionError(name, f"{name}={quoted(value)}: {name} takes no value")
        elif not is_comment(name):
            raise _unknown(name)

    def _add_word(self, name: str) -> None:
        if name in SWITCHES:
            self._fields[name] = True
        elif name in FLAG_NAMES:
            self._flags.add(name)
        elif option_key(name) in VALUES:
            _need(name, "", VALUES[option_key(name)][1])
        elif not (is_comment(name) or drops_value(name)):
            raise _unknown(name)

    def options(self) -> MountOptions:
        limits, device, beside = NO_LIMITS, NO_DEVICE, dict[str, str]()
        given = dict((*self._limits.values(), *self._device.values()))
        profile = parse_setting("profile", self._device.get("profile", ("", "0"))[1])
        try:
            if profile:
                device = Device(profile=profile)
                beside = {name: value for name, value in given.items() if name != "profile"}
            else:
                limits, device = split_settings(given)
            if self._fields.get("group") and not self._fields.get("config"):
                check_group_device(limits, device)
        except LimitsError as error:
            raise OptionError(error.option, error.message) from None
        fields = {name: value for name, value in self._fields.items() if name != "subtype"}
        for name, needed in (
            ("shared", "group"),
            ("password_file", "shared"),
            ("on_lost", "shared"),
        ):
            if name in fields and needed not in fields:
                _, example = VALUES[needed]
                raise OptionError(name, f"{name} needs {needed}: add e.g. {needed}={example}")
        flags = self._flags.words()
        refused = why_not_volatile(fields, flags)
        if refused is not None:
            raise OptionError(*refused)
        return MountOptions(
            limits=limits,
            device=device,
            beside_profile=beside,
            flags=flags,
            given=frozenset(self._limits).union(self._device, fields).difference(SWITCHES),
            **fields,
        )


def _need(name: str, value: str, example: str) -> None:
    if not value:
        raise OptionError(name, f"{name} needs a value, e.g. {name}={example}")


def _example(limit: str) -> str:
    if limit.endswith("_max_length"):
        return "60"
    return "3000" if limit.startswith("iops") and limit != "iops_size" else "1M"


def _unknown(name: str) -> OptionError:
    reason = why_refused(name)
    if reason is not None:
        return OptionError(name, f"option {quoted(name)} cannot be used: {reason}")
    known = (*suggest.LIMIT_CANDIDATES, *DEVICE_NAMES, *VALUES, *SWITCHES, *FLAG_NAMES)
    return OptionError(name, suggest.unknown("option", name, known))


def _shown(value: str | float) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    # repr() of a float may have an exponent, which no option takes.
    if not isinstance(value, float):
        return str(value)
    text = format(Decimal(repr(value)), "f")
    return text.removeprefix("0") if text.startswith("0.") else text  # no longer than it was given
