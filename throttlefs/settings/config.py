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

`throttlefs.policy.policy` says what follows from this for one image.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from . import suggest
from .device import DEVICE_NAMES, Device, DeviceError, device_name, option_key
from .fault_words import FaultError
from .faults import Fault, read_rules
from .globs import Glob, GlobError
from .globset import GlobSet
from .limits import (
    DEFAULT_WEIGHT,
    MAX_GROUP_DEPTH,
    Limits,
    LimitsError,
    canonical_name,
    check_group_name,
    check_weight,
)
from .scenario import ScenarioError, TimedChange, read_changes
from .shared import SHARED_KEYS, SharedError, SharedStore, read_store
from .units import quoted

MAX_CONFIG_SIZE: Final = 16 << 20
"""The largest file that is read, in bytes; some 100,000 tables."""

_PATH_MAX: Final = 4096
"""Bytes; the longest path that a system call takes (``linux/limits.h``)."""

_TOP_KEYS: Final = ("defaults", "image", "group", "fault", "change")


class ConfigError(ValueError):
    """A configuration that cannot be used; one line with file, table, key and the cure."""

    exit_status = 1
    """That of a command that is given the file."""


class ConfigValueError(ConfigError):
    """A setting of a device that cannot be used, as in ``-o``."""

    exit_status = 2


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
    _globs: GlobSet = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_globs", GlobSet([rule.glob for rule in self.images]))

    def rule_for(self, *paths: bytes) -> ImageRule | None:
        """The first rule that matches any of *paths*, the names of one file."""
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
    groups = _read_groups(file, top.get("group", {}))
    images = _read_images(file, top.get("image", []), groups)
    defaults = top.get("defaults", {})
    if not isinstance(defaults, dict):
        raise ConfigError(f"{file}: defaults is not a table: write [defaults]")
    table = _Table(f"{file}: [defaults]", defaults, ("group", "weight"))
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
    )


def _unknown_at_top(key: str) -> str:
    if canonical_name(key) or device_name(key) or key in ("weight", "parent", "path"):
        return f"{key} stands outside a table: put it below [defaults], [[image]] or [group.NAME]"
    return suggest.unknown("table", key, _TOP_KEYS)


def _read_images(file: str, tables: Any, groups: Mapping[str, GroupRule]) -> tuple[ImageRule, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{file}: image is not an array of tables: write [[image]]")
    rules: list[ImageRule] = []
    numbers: dict[Glob, int] = {}
    for number, values in enumerate(tables, 1):
        path = values.get("path")
        label = f"[[image]] number {number}"
        if isinstance(path, str):
            label += f" (path {quoted(path)})"
        table = _Table(f"{file}: {label}", values, ("path", "group", "weight"))
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


def _read_groups(file: str, values: Any) -> dict[str, GroupRule]:
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: group is not a table of tables: write [group.NAME]")
    tables: dict[str, _Table] = {}
    for name, content in values.items():
        where = f"{file}: [group.{_key(name)}]"
        if not isinstance(content, dict):
            raise ConfigError(
                f"{file}: [group]: {_key(name)} is not a table: each group has its own, "
                "[group.NAME]"
            )
        tables[name] = _Table(where, content, ("weight", "parent", *SHARED_KEYS))
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


def _refuse_cycles(groups: Mapping[str, GroupRule], tables: Mapping[str, _Table]) -> None:
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


def _refuse_depth(groups: Mapping[str, GroupRule], tables: Mapping[str, _Table]) -> None:
    for start in groups:
        name: str | None = start
        for _ in range(MAX_GROUP_DEPTH):
            name = None if name is None else groups[name].parent
        if name is not None:
            raise tables[start].error(
                "parent", f"more than {MAX_GROUP_DEPTH} groups would be one inside the other"
            )


class _Table:
    """The keys of one table, each read and checked on demand; errors say where it stands."""

    def __init__(self, where: str, values: dict[str, Any], known: tuple[str, ...]) -> None:
        self._where = where
        self._values = values
        for key in values:
            if option_key(key) in known or canonical_name(key) or device_name(key):
                continue
            candidates = (*known, *suggest.LIMIT_CANDIDATES, *DEVICE_NAMES)
            raise ConfigError(f"{where}: " + suggest.unknown("key", key, candidates))

    def error(self, key: str, message: str) -> ConfigError:
        return ConfigError(f"{self._where}: {key}: {message}")

    def limits(self) -> Limits | None:
        given = {key: value for key, value in self._values.items() if canonical_name(key)}
        try:
            return Limits.parse(given) if given else None
        except LimitsError as error:
            raise ConfigError(f"{self._where}: {error}") from None

    def device(self) -> Device | None:
        given = {key: value for key, value in self._values.items() if device_name(key)}
        try:
            return Device.parse(given) if given else None
        except DeviceError as error:
            raise ConfigValueError(f"{self._where}: {error}") from None

    def weight(self) -> int | None:
        if "weight" not in self._values:
            return None
        try:
            return check_weight("weight", self._values["weight"])
        except LimitsError as error:
            raise ConfigError(f"{self._where}: {error}") from None

    def shared(self) -> SharedStore | None:
        """Where the limits are shared, None if they are not."""
        try:
            return read_store(self._values)
        except SharedError as error:
            raise self.error(error.key, str(error)) from None

    def group(self, key: str, groups: Iterable[str]) -> str | None:
        """The name of an existing group, "" for explicitly none, None if the key is missing."""
        written = [name for name in self._values if option_key(name) == key]
        if not written:
            return None
        key, *others = written
        if others:
            raise self.error(others[0], f"{key} is the same: give one of them")
        name = self._values[key]
        if name == "":
            return ""
        if not isinstance(name, str):
            raise self.error(key, f"{quoted(name)} is not the name of a group")
        if name not in groups:
            best = suggest.nearest(name, groups)
            hint = f"did you mean {quoted(best)}?" if best else f"add a table [group.{_key(name)}]"
            raise self.error(key, f"there is no group {quoted(name)}; {hint}")
        return name

    def glob(self) -> Glob:
        if "path" not in self._values:
            raise self.error("path", 'is missing: add one, e.g. path = "*.qcow2"')
        path = self._values["path"]
        if not isinstance(path, str):
            raise self.error("path", f'{quoted(path)} is not a string, e.g. "*.qcow2"')
        try:
            return Glob(path)
        except GlobError as error:
            raise self.error("path", str(error)) from None


def _key(name: str) -> str:
    """*name* as a key in TOML, on one short line."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) else quoted(name)


def printable_name(text: str) -> str:
    """*text*, which may come from a user, on one short line of a message."""
    return text if text.isprintable() else quoted(text, longest=200)


def _joined(between: str, names: list[str], most: int = 12) -> str:
    shown = [_key(name) for name in names]
    if len(shown) > most:
        shown = [*shown[: most - 2], "...", shown[-1]]
    return between.join(shown)
