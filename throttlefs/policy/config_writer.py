"""Writes the limits in force as a configuration file, which `settings.config` reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from throttlefs.settings.config import ImageRule
from throttlefs.settings.device import Device
from throttlefs.settings.faults import Fault
from throttlefs.settings.globs import literal
from throttlefs.settings.limits import DEFAULT_WEIGHT, Limits, format_limit
from throttlefs.settings.shared import OnLost, SharedStore
from throttlefs.settings.toml_text import toml_key, toml_string
from throttlefs.settings.units import Rate
from throttlefs.throttle import ImagePolicy, Override

from .policy import GroupPolicy

_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]+)?")


def write_config(
    default: ImagePolicy,
    groups: Mapping[str, GroupPolicy],
    overrides: Iterable[tuple[bytes, Override]],
    rules: Iterable[ImageRule],
    faults: Iterable[Fault] = (),
) -> str:
    """The text of a configuration file with these limits and fault rules.

    *overrides* are those of single images, by path. They come before *rules*, which match later.
    """
    tables = []
    lines = _limits(default.limits) + _device(default.device)
    lines += _name("group", default.group)
    if default.weight != DEFAULT_WEIGHT:
        lines.append(f"weight = {default.weight}")
    if lines:
        tables.append(["[defaults]", *lines])
    by_pattern: list[tuple[str, Override | ImageRule]] = [
        *((literal(path), override) for path, override in overrides),
        *((rule.glob.text, rule) for rule in rules),
    ]
    written: set[str] = set()
    for pattern, override in by_pattern:
        # The first of equal patterns decides, and a file must not have the others.
        if pattern not in written:
            written.add(pattern)
            lines = _override(override)
            tables.append(["[[image]]", f"path = {toml_string(pattern)}", *lines])
    for name, group in groups.items():
        lines = _limits(group.limits) + _device(group.device)
        if group.weight != DEFAULT_WEIGHT:
            lines.append(f"weight = {group.weight}")
        lines += _name("parent", group.parent)
        lines += _store(group.shared)
        tables.append([f"[group.{toml_key(name)}]", *lines])
    for fault in faults:
        lines = [f"{name} = {_toml(value)}" for name, value in fault.as_dict().items()]
        tables.append(["[[fault]]", *lines])
    return "\n".join("\n".join([*table, ""]) for table in tables)


def _override(override: Override | ImageRule) -> list[str]:
    lines = []
    # A table for "no limits" must name a limit, and one for "no device" a setting of it.
    if override.limits is not None:
        lines += _limits(override.limits) or ["bps = 0"]
    if override.device is not None:
        # The comment with the profile's name does not count.
        settings = override.device.changed(profile="").as_dict()
        lines += _device(override.device) + ([] if settings else ['latency = "0"'])
    lines += _name("group", override.group)
    if override.weight is not None:
        lines.append(f"weight = {override.weight}")
    return lines


def _device(device: Device) -> list[str]:
    # With the name, what was lifted since would be read from the profile again.
    settings = device.changed(profile="").as_text()
    named = [f"# profile {toml_string(device.profile)}, changed or not"] if device.profile else []
    return named + [f"{name} = {_bare(value)}" for name, value in settings.items()]


def _bare(text: str) -> str:
    return text if _NUMBER.fullmatch(text) else toml_string(text)


def _limits(limits: Limits) -> list[str]:
    return [f"{name} = {_value(name, value)}" for name, value in limits.as_dict().items()]


def _value(name: str, value: Rate) -> str:
    return _bare(format_limit(name, value))


def _name(key: str, name: str | None) -> list[str]:
    return [] if name is None else [f"{key} = {toml_string(name)}"]


def _toml(value: object) -> str:
    """*value*, of a fault rule, in TOML."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return toml_string(value) if isinstance(value, str) else json.dumps(value)


def _store(store: SharedStore | None) -> list[str]:
    if store is None:
        return []
    lines = [f"shared = {toml_string(str(store.address))}"]
    lines += _name("password_file", store.password_file)
    if store.on_lost is not OnLost.SHARE:
        lines += _name("on_lost", store.on_lost.value)
    return lines
