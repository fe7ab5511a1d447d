"""A change of limits and devices in flight, as it is said: read and checked, and not yet made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from throttlefs.errors import ThrottlefsError
from throttlefs.settings.device import (
    DEVICE_NAMES,
    NO_DEVICE,
    Device,
    check_group_device,
    format_setting,
    option_key,
    parse_setting,
)
from throttlefs.settings.limits import (
    GROWTH,
    LIMIT_NAMES,
    NO_LIMITS,
    RATES,
    Limits,
    LimitsError,
    check_group_name,
    check_weight,
    format_limit,
    parse_limit,
)
from throttlefs.settings.options import why_not_in_flight
from throttlefs.settings.profiles import Library, ProfileError, split_settings
from throttlefs.settings.suggest import LIMIT_CANDIDATES, unknown
from throttlefs.settings.units import Rate
from throttlefs.throttle import NO_GROUP, ImagePolicy, Override

from .policy import GroupPolicy

_REQUEST_RATES = frozenset(name for rate in RATES[3:] for name in (rate, f"{rate}_per_gib"))


class TuningError(ThrottlefsError):
    """A change that cannot be made; the message is one line that names the culprit."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of an image, the default or a group; None for everything that stays."""

    limits: Mapping[str, Rate] = field(default_factory=dict)
    """New values by canonical name."""
    all_limits: bool = False
    """Whether limits that `limits` lacks are lifted."""
    device: Mapping[str, Any] = field(default_factory=dict)
    """New settings of the device by canonical name, as `Device` has them."""
    off: bool = False
    """Lift every limit and take the device away, also those of the group, by leaving it."""
    group: str | None = None
    """`NO_GROUP` for none."""
    weight: int | None = None
    parent: str | None = None
    """The group above a group, `NO_GROUP` for none."""

    @classmethod
    def parse(
        cls, values: Iterable[tuple[str, Any]], *, off: bool = False, of_group: bool = False
    ) -> Change:
        """A change from names (any synonym of a limit) and values, as text or numbers.

        Raises `TuningError` for an unknown name, with the nearest one, and for a wrong value.
        """
        limits: dict[str, Rate] = {}
        device: dict[str, Any] = {}
        others: dict[str, Any] = {}
        known = ("weight", "parent") if of_group else ("weight", "group")
        try:
            for name, value in values:
                key = option_key(name)
                if key in limits or key in device or key in others:
                    raise TuningError(f"{name} is given twice")
                if key in LIMIT_NAMES:
                    limits[key] = parse_limit(name, value)
                elif key in DEVICE_NAMES:
                    device[key] = parse_setting(name, value)
                elif key not in known:
                    raise TuningError(_why_unknown(name, known, of_group))
                elif key == "weight":
                    others[key] = check_weight(name, value)
                else:
                    others[key] = NO_GROUP if value == NO_GROUP else check_group_name(name, value)
        except LimitsError as exc:
            raise TuningError(str(exc)) from None
        return cls(limits, device=device, off=off, **others)

    def applied_to(self, limits: Limits) -> Limits:
        """*limits* after the change. Raises `TuningError`."""
        base = NO_LIMITS if self.off or self.all_limits else limits
        fields = dict(self.limits)

        def has(rate: str) -> bool:
            return any(fields.get(name, getattr(base, name)) for name in (rate, f"{rate}_per_gib"))

        for rate in RATES:
            more, least, most = (rate + suffix for suffix in GROWTH)
            # A rate is set as a whole: one that is given no longer grows, unless that is given too.
            if rate in fields:
                fields.setdefault(more, 0)
            elif fields.get(more):
                fields[rate] = 0
            if fields.get(more) == 0:
                fields.setdefault(least, 0)
                fields.setdefault(most, 0)
            # Lifting a rate also lifts its burst, which is not valid without it.
            if (rate in fields or more in fields) and not has(rate):
                fields.setdefault(f"{rate}_max", 0)
            if fields.get(f"{rate}_max") == 0:
                fields.setdefault(f"{rate}_max_length", 1)
        if not fields.keys().isdisjoint(_REQUEST_RATES) and not any(map(has, RATES[3:])):
            fields.setdefault("iops_size", 0)
        try:
            return base.changed(**fields)
        except LimitsError as exc:
            raise TuningError(str(exc)) from None

    def override(self, before: Override, default: ImagePolicy) -> Override:
        """The override of an image alone that had *before*, while *default* holds for others.

        The change must not name a group. Raises `TuningError`.
        """
        held = before.applied_to(default)
        limits = self.applied_to(held.limits) if self.limits or self.all_limits else None
        device = self.device_after(held.device) if self.has_device else None
        return Override(limits, None, self.weight, device).over(before)

    def group_after(self, policy: GroupPolicy) -> GroupPolicy:
        """The *policy* of a group after the change, but for its parent. Raises `TuningError`."""
        has_limits = bool(self.limits) or self.all_limits
        limits = self.applied_to(policy.limits) if has_limits else policy.limits
        device = self.device_after(policy.device)
        check_group(limits, device)
        return replace(policy, limits=limits, device=device, weight=self.weight or policy.weight)

    def device_after(self, device: Device) -> Device:
        """What *device* is after the change."""
        return (NO_DEVICE if self.off else device).changed(**self.device)

    @property
    def has_device(self) -> bool:
        """Whether it says anything about the device."""
        return self.off or bool(self.device)

    @property
    def profile(self) -> str:
        """The name of the profile that it sets; empty for none."""
        name: str = self.device.get("profile", "")
        return name

    def with_profile(self, library: Library) -> Change:
        """This change with all that its profile says; what it says beside that wins.

        A profile replaces all limits and the whole device. Raises `TuningError`.
        """
        given = {name: format_limit(name, value) for name, value in self.limits.items()}
        for name, value in self.device.items():
            if name != "profile":
                given[name] = format_setting(name, value)
        try:
            limits, device = split_settings(library.with_given(self.profile, given))
        except (ProfileError, LimitsError) as exc:
            raise TuningError(str(exc)) from None
        whole = {name: getattr(device, name) for name in DEVICE_NAMES}
        return replace(
            self,
            limits=limits.as_dict(),
            all_limits=True,
            device={**whole, "profile": self.profile},
        )


def check_group(limits: Limits, device: Device) -> None:
    """Raise `TuningError` if these cannot be a group's."""
    try:
        check_group_device(limits, device)
    except LimitsError as exc:
        raise TuningError(str(exc)) from None


def _why_unknown(name: str, known: Iterable[str], of_group: bool) -> str:
    """Why a change cannot have *name*, and which names it can have."""
    if name == "parent":
        return "parent is for groups: give it with throttlefs set --group NAME"
    if name == "group" and of_group:
        return "a group is in no group: its parent is the group around it"
    return why_not_in_flight(name) or unknown(
        "limit", name, (*known, *LIMIT_CANDIDATES, *DEVICE_NAMES)
    )
