"""Profiles: named sets of limits and settings of a device, shipped or from the configuration file.

::

    [profile.my-disk]
    base = "hdd-7200"           # what is not said here is as in this profile
    latency_flush = "12ms"      # any limit or setting of a device, as in [[image]]
    summary = "the disk in the cellar"

    [[profile.my-disk.source]]  # where figures come from; shown, and nothing else
    of = ["latency_flush"]
    origin = "pg_test_fsync"
    date = 2026-11-25

The shipped ones have the same form. What is given beside a profile, or in a profile that has it as
its base, wins (`overlaid`).
"""

from __future__ import annotations

import datetime
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from . import suggest
from .device import DEVICE_NAMES, LATENCIES, Device, device_name, parse_setting
from .limits import LIMIT_NAMES, RATES, Limits, LimitsError, canonical_name, parse_limit
from .units import quoted

Value = str | int | float
"""A value as people write it, or a number."""

LONGEST_CHAIN: Final = 32
"""The most profiles in a row of which each is the base of the one before."""

SOURCE_KINDS: Final = {
    "vendor": "the maker's own documentation",
    "secondary": "somebody else's copy or account of the maker's documentation",
    "measured": "somebody measured it",
    "derived": "computed from other figures, or assumed, as the note says",
    "unchecked": "the source could not be read",
}
"""What the kinds of a source mean."""

_SHIPPED: Final = os.path.join(os.path.dirname(__file__), "shipped")
_OTHER_KEYS: Final = ("base", "summary", "source")
_SOURCE_KEYS: Final = ("of", "kind", "origin", "url", "date", "note")


class ProfileError(ValueError):
    """A profile that cannot be used, or is not there; one line that names it and the cure."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where some figures of a profile come from."""

    of: tuple[str, ...]
    """Canonical names of settings."""
    kind: str
    """A key of `SOURCE_KINDS`."""
    origin: str
    url: str
    date: str
    """The day on which it was read or measured, as 2026-11-25."""
    note: str


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile as it is written."""

    name: str
    values: Mapping[str, Value] = field(default_factory=dict)
    """Its own settings by canonical name, without those of its base."""
    base: str | None = None
    summary: str = ""
    sources: tuple[Source, ...] = ()


def setting_name(name: str) -> str | None:
    """The canonical name of the limit or the setting of a device *name*; None if it is neither."""
    return canonical_name(name) or device_name(name)


def overlaid(below: Mapping[str, Value], above: Mapping[str, Value]) -> dict[str, Value]:
    """*below* with what *above* says instead; keys are canonical names.

    Beside the values of the same name this replaces what could not hold together with *above*:

    - a rate replaces one that grows with the size, and the other way round;
    - a rate replaces a burst that is below it, and a rate of 0 any burst;
    - ``latency`` replaces those of reads, writes and flushes.
    """
    result = dict(below)
    for name in above:
        for family in _replaced_by(name, above[name], below):
            result.pop(family, None)
    if "latency" in above:
        for name in LATENCIES:
            result.pop(name, None)
    result.update(above)
    if "iops_size" not in above and not any(_counts(name, result[name]) for name in result):
        result.pop("iops_size", None)
    return result


def _replaced_by(name: str, value: Value, below: Mapping[str, Value]) -> Iterable[str]:
    """What of *below* the setting *name* replaces beside itself."""
    rate = next((rate for rate in RATES if name in (rate, f"{rate}_per_gib")), None)
    if rate is None:
        return
    if name == rate:
        yield from (f"{rate}_per_gib", f"{rate}_at_least", f"{rate}_at_most")
        burst = f"{rate}_max"
        if burst in below and (_is_none(value) or _rate(rate, value) > _rate(rate, below[burst])):
            yield from (burst, f"{burst}_length")
    else:
        yield rate


def _counts(name: str, value: Value) -> bool:
    """Whether *name* is a limit on requests, which ``iops_size`` needs."""
    rate = name.removesuffix("_per_gib")
    return rate in RATES[3:] and not _is_none(value)


def _is_none(value: Value) -> bool:
    return value in (0, "0")


def _rate(name: str, value: Value) -> Any:
    return parse_limit(name, value)


class Library:
    """Profiles by name. Each has a base that is there, and none is its own base."""

    def __init__(self, profiles: Mapping[str, Profile]) -> None:
        self._profiles = dict(profiles)

    @property
    def names(self) -> list[str]:
        """The names of all profiles, in the order of their files."""
        return list(self._profiles)

    def profile(self, name: str) -> Profile:
        """The profile *name* as it is written. Raises `ProfileError` that has the nearest name."""
        found = self._profiles.get(name)
        if found is None:
            message = suggest.unknown("profile", name, self._profiles)
            cure = "" if "did you mean" in message else "; throttlefs profile list has all"
            raise ProfileError(message + cure)
        return found

    def chain(self, name: str) -> list[Profile]:
        """The profile *name*, its base, the base of that, and so on.

        Raises `ProfileError` if one is unknown, if one is its own base, and for a long chain.
        """
        found = [self.profile(name)]
        while (base := found[-1].base) is not None:
            if any(profile.name == base for profile in found):
                names = [profile.name for profile in found]
                circle = " -> ".join([*names[names.index(base) :], base])
                raise ProfileError(f"profile {quoted(base)} includes itself: {circle}")
            if len(found) == LONGEST_CHAIN:
                raise ProfileError(
                    f"profile {quoted(name)}: its base has a base, and so on, for more than"
                    f" {LONGEST_CHAIN} profiles"
                )
            try:
                found.append(self.profile(base))
            except ProfileError as error:
                raise ProfileError(f"profile {quoted(found[-1].name)}: base: {error}") from None
        return found

    def settings(self, name: str) -> dict[str, Value]:
        """What the profile *name* says, with what it has from its base, by canonical name.

        Raises `ProfileError` as `chain` does.
        """
        values: dict[str, Value] = {}
        for profile in reversed(self.chain(name)):
            values = overlaid(values, profile.values)
        return values

    def with_given(self, name: str, given: Mapping[str, Value]) -> dict[str, Value]:
        """The settings of the profile *name* with those *given* beside it, which win.

        The keys of *given* may be any synonyms; where one is not replaced it keeps its spelling.
        """
        below = self.settings(name)
        above = {setting_name(spelled) or spelled: value for spelled, value in given.items()}
        spelling = {setting_name(spelled) or spelled: spelled for spelled in given}
        both = overlaid(below, above)
        return {spelling.get(key, key): value for key, value in both.items()}

    def extended(self, more: Mapping[str, Profile]) -> Library:
        """This library and *more*, whose profiles win over those of the same name.

        Raises `ProfileError` if the settings of one of *more* do not hold together.
        """
        library = Library({**self._profiles, **more})
        for name in more:
            library.check(name)
        return library

    def check(self, name: str) -> None:
        """Raise `ProfileError` if the settings of the profile *name* do not hold together."""
        try:
            split_settings(self.settings(name))
        except LimitsError as error:
            raise ProfileError(f"profile {quoted(name)}: {error}") from None


def split_settings(values: Mapping[str, Value]) -> tuple[Limits, Device]:
    """The limits and the device that *values* say, by any names. Raises `LimitsError`."""
    limits = {name: value for name, value in values.items() if canonical_name(name)}
    device = {name: value for name, value in values.items() if not canonical_name(name)}
    return Limits.parse(limits), Device.parse(device)


def read_profiles(tables: Any) -> dict[str, Profile]:
    """The profiles in *tables*, the value of the key ``profile`` of a TOML file.

    Each is read alone: `Library.extended` checks bases, and that values hold together. Raises
    `ProfileError` whose message begins with the table and the key.
    """
    if not isinstance(tables, dict):
        raise ProfileError("profile is not a table of tables: write [profile.NAME]")
    profiles = {}
    for name, values in tables.items():
        where = f"[profile.{name}]" if name.isprintable() else f"[profile.{quoted(name)}]"
        if not isinstance(values, dict):
            raise ProfileError(f"[profile]: {quoted(name)} is not a table: write [profile.NAME]")
        try:
            check_profile_name(name)
        except ProfileError as error:
            raise ProfileError(f"{where}: {error}") from None
        profiles[name] = _read_profile(name, where, values)
    return profiles


def check_profile_name(name: str) -> None:
    """Raise `ProfileError` if *name* cannot be that of a profile."""
    if not name or not name.isprintable() or "," in name:
        raise ProfileError("a profile's name has no comma, and is not empty")


def _read_profile(name: str, where: str, values: Mapping[str, Any]) -> Profile:
    settings: dict[str, Value] = {}
    for key, value in values.items():
        canonical = setting_name(key)
        if canonical is None:
            if key not in _OTHER_KEYS:
                known = (*_OTHER_KEYS, *LIMIT_NAMES, *DEVICE_NAMES)
                raise ProfileError(f"{where}: {suggest.unknown('key', key, known)}")
        elif canonical == "profile":
            raise ProfileError(f"{where}: profile: what a profile is built on is called base here")
        elif canonical in settings:
            raise ProfileError(f"{where}: {key} and {canonical} are the same: give one of them")
        else:
            settings[canonical] = value
            try:
                split_one(key, value)
            except LimitsError as error:
                raise ProfileError(f"{where}: {error}") from None
    base, summary = values.get("base"), values.get("summary", "")
    if base is not None and not isinstance(base, str):
        raise ProfileError(f"{where}: base: {quoted(base)} is not the name of a profile")
    if not isinstance(summary, str):
        raise ProfileError(f"{where}: summary: {quoted(summary)} is not text")
    return Profile(name, settings, base, summary, _read_sources(where, values.get("source", [])))


def split_one(name: str, value: Value) -> None:
    """Raise `LimitsError` if *value* cannot be read as that of the setting *name*."""
    (parse_limit if canonical_name(name) else parse_setting)(name, value)


def _read_sources(where: str, tables: Any) -> tuple[Source, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ProfileError(
            f"{where}: source is not an array of tables: write [[profile.NAME.source]]"
        )
    sources = []
    for table in tables:
        for key in table:
            if key not in _SOURCE_KEYS:
                raise ProfileError(f"{where}: source: {suggest.unknown('key', key, _SOURCE_KEYS)}")
        of, kind, day = table.get("of", []), table.get("kind", "measured"), table.get("date", "")
        if not isinstance(of, list) or not all(setting_name(str(name)) for name in of):
            raise ProfileError(f"{where}: source: of: {quoted(of)} is not a list of settings")
        if not isinstance(kind, str) or kind not in SOURCE_KINDS:
            raise ProfileError(
                f"{where}: source: kind: {quoted(kind)} is none of {', '.join(SOURCE_KINDS)}"
            )
        if isinstance(day, datetime.date):
            day = day.isoformat()[:10]
        texts = [table.get("origin", ""), table.get("url", ""), day, table.get("note", "")]
        if not all(isinstance(text, str) for text in texts):
            raise ProfileError(f"{where}: source: origin, url, date and note are text")
        names = tuple(setting_name(name) or name for name in of)
        sources.append(Source(names, kind, *(text.strip() for text in texts)))
    return tuple(sources)


@cache
def shipped() -> Library:
    """The profiles that come with throttlefs; their files are read at the first call."""
    profiles: dict[str, Profile] = {}
    for name in sorted(os.listdir(_SHIPPED)):
        if name.endswith(".toml"):
            with open(os.path.join(_SHIPPED, name), "rb") as file:
                profiles.update(read_profiles(tomllib.load(file)["profile"]))
    return Library(profiles)
