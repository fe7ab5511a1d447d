"""One table of the configuration file, read key by key; errors say where it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from . import suggest
from .device import DEVICE_NAMES, Device, DeviceError, device_name, option_key, parse_setting
from .globs import Glob, GlobError
from .limits import Limits, LimitsError, canonical_name, check_weight
from .profiles import Library, ProfileError
from .shared import SharedError, SharedStore, read_store
from .units import quoted


class ConfigError(ValueError):
    """A configuration that cannot be used; one line with file, table, key and the cure."""

    exit_status = 1
    """That of a command that is given the file."""


class ConfigValueError(ConfigError):
    """A setting of a device, or a profile, that cannot be used, as in ``-o``."""

    exit_status = 2


class Table:
    """The keys of one table, each read and checked on demand; errors say *where* it stands.

    *library* gives the profiles that it may name.
    """

    def __init__(
        self,
        where: str,
        values: dict[str, Any],
        known: tuple[str, ...],
        library: Callable[[], Library],
    ) -> None:
        self._where = where
        self._library = library
        self._values = values
        for key in values:
            if option_key(key) in known or canonical_name(key) or device_name(key):
                continue
            candidates = (*known, *suggest.LIMIT_CANDIDATES, *DEVICE_NAMES)
            raise ConfigError(f"{where}: " + suggest.unknown("key", key, candidates))

    def error(self, key: str, message: str) -> ConfigError:
        """An error that names the table, *key* and the cure."""
        return ConfigError(f"{self._where}: {key}: {message}")

    def limits(self) -> Limits | None:
        """The limits, those of its profile too; None if it has none. Raises `ConfigError`."""
        settings = self._settings
        given = {key: value for key, value in settings.items() if canonical_name(key)}
        try:
            return Limits.parse(given) if given or "profile" in settings else None
        except LimitsError as error:
            raise ConfigError(f"{self._where}: {error}") from None

    def device(self) -> Device | None:
        """The settings of a device, likewise. Raises `ConfigError`."""
        given = {key: value for key, value in self._settings.items() if device_name(key)}
        try:
            return Device.parse(given) if given else None
        except DeviceError as error:
            raise ConfigValueError(f"{self._where}: {error}") from None

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """The limits and the settings of a device, with those of the profile that it names."""
        given = {
            key: value
            for key, value in self._values.items()
            if canonical_name(key) or device_name(key)
        }
        if "profile" not in given:
            return given
        try:
            name = parse_setting("profile", given.pop("profile"))
            return {**self._library().with_given(name, given), "profile": name} if name else given
        except (DeviceError, ProfileError) as error:
            raise ConfigValueError(f"{self._where}: {error}") from None
        except LimitsError as error:
            raise ConfigError(f"{self._where}: {error}") from None

    def weight(self) -> int | None:
        """The weight, None if the key is missing. Raises `ConfigError`."""
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
            hint = (
                f"did you mean {quoted(best)}?" if best else f"add a table [group.{key_text(name)}]"
            )
            raise self.error(key, f"there is no group {quoted(name)}; {hint}")
        return name

    def glob(self) -> Glob:
        """The pattern of the key ``path``. Raises `ConfigError`."""
        if "path" not in self._values:
            raise self.error("path", 'is missing: add one, e.g. path = "*.qcow2"')
        path = self._values["path"]
        if not isinstance(path, str):
            raise self.error("path", f'{quoted(path)} is not a string, e.g. "*.qcow2"')
        try:
            return Glob(path)
        except GlobError as error:
            raise self.error("path", str(error)) from None


def key_text(name: str) -> str:
    """*name* as a key in TOML, on one short line."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) else quoted(name)


def printable_name(text: str) -> str:
    """*text*, which may come from a user, on one short line of a message."""
    return text if text.isprintable() else quoted(text, longest=200)
