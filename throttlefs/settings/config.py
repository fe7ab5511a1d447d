"""The configuration file: limits by path, and groups, in TOML.

::

    [defaults]                  # for every image; what -o says comes before it
    bps = "10M"

    [[image]]                   # the first table whose path matches is the image's
    path = "db/*.qcow2"         # a pattern on the path in the mount, see globs.py
    iops = 500                  # limits of its own, by any name that -o takes
    latency = "5ms"             # settings of a device of its own, as -o takes them
    group = "db"                # "" for none
    weight = 200

    [group.db]
    bps = "50M"                 # shared by the images of the group
    weight = 100
    parent = "tenant"

    [group.tenant]
    bps = "80M"
    shared = "valkey://store.example/0/tenant-a"   # with other hosts, see shared.py
    password_file = "/etc/throttlefs.password"
    on_lost = "share"

    [[fault]]                   # what fails; see faults.py
    path = "db/*.wal"
    op = "flush"
    error = "EIO"

    [[change]]                  # what changes for a time; see scenario.py
    bps = "100K"
    at = "10s"
    lasting = "5s"

    [profile.cellar]            # see profiles.py; -o and every table above take profile = "cellar"
    base = "hdd-7200"
    latency_flush = "12ms"

`throttlefs.policy.policy` says what follows from this for one image.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from . import suggest
from .config_table import ConfigError, ConfigValueError, Table, key_text, printable_name
from .device import Device, device_name
from .fault_words import FaultError
from .faults import Fault, read_rules
from .globs import Glob
from .globset import GlobSet
from .limits import (
    DEFAULT_WEIGHT,
    MAX_GROUP_DEPTH,
    Limits,
    LimitsError,
    canonical_name,
    check_group_name,
)
from .profiles import Library, Profile, ProfileError, read_profiles, shipped
from .scenario import ScenarioError, TimedChange, read_changes
from .shared import SHARED_KEYS, SharedStore
from .units import quoted

_PATH_MAX: Final = 4096
"""Bytes; the longest path that a system call takes (``linux/limits.h``)."""

_TOP_KEYS: Final = ("defaults", "image", "group", "profile", "fault", "change")


@dataclass(frozen=True, slots=True)
class Defaults:
    """``[defaults]``; None stands for a key that it lacks."""

    limits: Limits | None = None
    group: str | None = None
    weight: int | None = None
    device: Device | None = None


@dataclass(frozen=True, slots=True)
class ImageRule:
    """One ``[[image]]`` table; None stands for a key that it lacks."""

    glob: Glob
    limits: Limits | None = None
    """The image's own; a table that has any limit has all of them."""
    group: str | None = None
    """A key of `Config.groups`, or "" for no group."""
    weight: int | None = None
    device: Device | None = None
    """The image's own; a table that has any setting of a device has all of them."""


@dataclass(frozen=True, slots=True)
class GroupRule:
    """One ``[group.NAME]`` table."""

    limits: Limits | None = None
    """None if the table has no limit, not even one of 0."""
    weight: int = DEFAULT_WEIGHT
    """The group's share in its parent."""
    parent: str | None = None
    """A key of `Config.groups`."""
    device: Device | None = None
    """The device that its images share; None if the table has no setting of one."""
    shared: SharedStore | None = None
    """Where its limits are shared with other hosts."""


@dataclass(frozen=True, slots=True)
class Config:
    """A valid configuration: all groups that it names exist, and their parents form no cycle."""

    defaults: Defaults = Defaults()
    images: tuple[ImageRule, ...] = ()
    groups: Mapping[str, GroupRule] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    changes: tuple[TimedChange, ...] = ()
    own_profiles: Mapping[str, Profile] = field(default_factory=dict)
    """Those of the file; `profiles` has the shipped ones as well."""
    _globs: GlobSet = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_globs", GlobSet([rule.glob for rule in self.images]))

    @property
    def profiles(self) -> Library:
        """All profiles that there are."""
        return shipped().extended(self.own_profiles)

    def rule_for(self, *paths: bytes) -> ImageRule | None:
        """The first rule that matches any of *paths*, the names of one file."""
        if not self.images:
            return None
        numbers = [number for path in paths if (number := self._number_for(path)) is not None]
        return self.images[min(numbers)] if numbers else None

    def _number_for(self, path: bytes) -> int | None:
        """Which rule is the first that matches *path*, relative to the mount, in any encoding.

        If *path* is longer than PATH_MAX, only the directories within its first PATH_MAX bytes and
        the name of the file count. So nobody can make a path that takes long to match.
        """
        path = path.removeprefix(b"/")
        if len(path) > _PATH_MAX:
            directories, slash, _ = path[:_PATH_MAX].rpartition(b"/")
            path = directories + slash + path.rpartition(b"/")[2]
        return self._globs.first(path.decode("utf-8", "surrogateescape"))


NO_CONFIG: Final = Config()


def decode_config(content: bytes, name: str) -> Config:
    """The configuration in a file's *content*; *name* is the file's, for messages.

    Raises `ConfigError`.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{printable_name(name)}: line {line} is not UTF-8") from None
    return parse_config(text.removeprefix("\ufeff"), name)


def parse_config(text: str, name: str) -> Config:
    """The configuration in *text*; *name* is the file's, for messages. Raises `ConfigError`."""
    file = printable_name(name)
    try:
        top = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError has the line. The others are an int too long and tables nested too deep.
        reason = (
            "nested too deep" if isinstance(error, RecursionError) else printable_name(str(error))
        )
        raise ConfigError(f"{file}: is not valid TOML: {reason}") from None
    for key in top:
        if key not in _TOP_KEYS:
            raise ConfigError(f"{file}: {_unknown_at_top(key)}")
    profiles, library = _read_library(file, top.get("profile", {}))
    groups = _read_groups(file, top.get("group", {}), library)
    images = _read_images(file, top.get("image", []), groups, library)
    defaults = top.get("defaults", {})
    if not isinstance(defaults, dict):
        raise ConfigError(f"{file}: defaults is not a table: write [defaults]")
    table = Table(f"{file}: [defaults]", defaults, ("group", "weight"), library)
    try:
        faults = read_rules(top.get("fault", []))
        changes = read_changes(top.get("change", []))
    except (FaultError, ScenarioError) as error:
        raise ConfigError(f"{file}: {error}") from None
    return Config(
        Defaults(
            table.limits(), table.group("group", groups) or None, table.weight(), table.device()
        ),
        images,
        groups,
        faults,
        changes,
        own_profiles=profiles,
    )


def _read_library(file: str, tables: Any) -> tuple[dict[str, Profile], Callable[[], Library]]:
    """The file's own profiles, and a function that gives all profiles."""
    try:
        profiles = read_profiles(tables)
        # Made when it is first needed, for most files name no profile. It checks all of them.
        library = cache(lambda: shipped().extended(profiles))
        if profiles:
            library()
    except ProfileError as error:
        raise ConfigValueError(f"{file}: {error}") from None
    return profiles, library


def _unknown_at_top(key: str) -> str:
    if canonical_name(key) or device_name(key) or key in ("weight", "parent", "path"):
        return f"{key} stands outside a table: put it below [defaults], [[image]] or [group.NAME]"
    return suggest.unknown("table", key, _TOP_KEYS)


def _read_images(
    file: str, tables: Any, groups: Mapping[str, GroupRule], library: Callable[[], Library]
) -> tuple[ImageRule, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{file}: image is not an array of tables: write [[image]]")
    rules: list[ImageRule] = []
    numbers: dict[Glob, int] = {}
    for number, values in enumerate(tables, 1):
        path = values.get("path")
        label = f"[[image]] number {number}"
        if isinstance(path, str):
            label += f" (path {quoted(path)})"
        table = Table(f"{file}: {label}", values, ("path", "group", "weight"), library)
        glob = table.glob()
        if glob in numbers:
            raise table.error(
                "path", f"number {numbers[glob]} has the same and matches first: leave one out"
            )
        numbers[glob] = number
        rules.append(
            ImageRule(
                glob,
                table.limits(),
                table.group("group", groups),
                table.weight(),
                table.device(),
            )
        )
    return tuple(rules)


def _read_groups(file: str, values: Any, library: Callable[[], Library]) -> dict[str, GroupRule]:
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: group is not a table of tables: write [group.NAME]")
    tables: dict[str, Table] = {}
    for name, content in values.items():
        where = f"{file}: [group.{key_text(name)}]"
        if not isinstance(content, dict):
            raise ConfigError(
                f"{file}: [group]: {key_text(name)} is not a table: each group has its own, "
                "[group.NAME]"
            )
        tables[name] = Table(where, content, ("weight", "parent", *SHARED_KEYS), library)
        try:
            check_group_name("name", name)
        except LimitsError as error:
            raise ConfigError(f"{where}: {error}") from None
    groups = {
        name: GroupRule(
            limits=table.limits(),
            weight=table.weight() or DEFAULT_WEIGHT,
            parent=table.group("parent", tables) or None,
            device=table.device(),
            shared=table.shared(),
        )
        for name, table in tables.items()
    }
    _refuse_cycles(groups, tables)
    _refuse_depth(groups, tables)
    return groups


def _refuse_cycles(groups: Mapping[str, GroupRule], tables: Mapping[str, Table]) -> None:
    harmless: set[str] = set()
    for start in groups:
        trail: dict[str, None] = {}  # ordered, and quick to search
        name: str | None = start
        while name is not None and name not in harmless:
            if name in trail:
                chain = list(trail)
                cycle = [*chain[chain.index(name) :], name]
                raise tables[name].error(
                    "parent",
                    f"a group cannot be above itself: {_joined(' -> ', cycle)}",
                )
            trail[name] = None
            name = groups[name].parent
        harmless.update(trail)


def _refuse_depth(groups: Mapping[str, GroupRule], tables: Mapping[str, Table]) -> None:
    for start in groups:
        name: str | None = start
        for _ in range(MAX_GROUP_DEPTH):
            name = None if name is None else groups[name].parent
        if name is not None:
            raise tables[start].error(
                "parent", f"more than {MAX_GROUP_DEPTH} groups would be one inside the other"
            )


def _joined(between: str, names: list[str], most: int = 12) -> str:
    shown = [key_text(name) for name in names]
    if len(shown) > most:
        shown = [*shown[: most - 2], "...", shown[-1]]
    return between.join(shown)
