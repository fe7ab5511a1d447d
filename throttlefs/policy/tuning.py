"""Changes limits in flight: reads a change, and makes all of it or none.

A change of an image has limits, a group and a weight; each may be missing. As in QEMU the limits
are the group's if it names a group, else the image's own. All of it is checked first: after a
`ThrottlefsError` nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from throttlefs.errors import ThrottlefsError
from throttlefs.host.files import FileKey
from throttlefs.settings.limits import (
    DEFAULT_WEIGHT,
    LIMIT_NAMES,
    MAX_GROUP_DEPTH,
    NO_LIMITS,
    RATES,
    Limits,
    LimitsError,
    check_group_name,
    check_weight,
    option_key,
    parse_limit,
)
from throttlefs.settings.options import why_not_in_flight
from throttlefs.settings.suggest import LIMIT_CANDIDATES, nearest, unknown
from throttlefs.settings.units import Rate, quoted
from throttlefs.throttle import (
    NO_GROUP,
    NO_OVERRIDE,
    Group,
    GroupCycleError,
    Image,
    ImagePolicy,
    Override,
    ThrottleError,
)

from .governor import Governor
from .policy import GroupPolicy

_GROUPS_SHOWN = 10
"""The most names of groups in a message."""


class TuningError(ThrottlefsError):
    """A change that cannot be made; the message is one line that names the culprit."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of an image, the default or a group; None for everything that stays."""

    limits: Mapping[str, Rate] = field(default_factory=dict)
    """New values by canonical name."""
    all_limits: bool = False
    """Whether limits that `limits` lacks are lifted."""
    off: bool = False
    """Lift every limit, also those of the group, by leaving it."""
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
        others: dict[str, Any] = {}
        known = ("weight", "parent") if of_group else ("weight", "group")
        try:
            for name, value in values:
                key = option_key(name)
                if key in limits or key in others:
                    raise TuningError(f"{name} is given twice")
                if key in LIMIT_NAMES:
                    limits[key] = parse_limit(name, value)
                elif key not in known:
                    raise TuningError(_why_unknown(name, known, of_group))
                elif key == "weight":
                    others[key] = check_weight(name, value)
                else:
                    others[key] = NO_GROUP if value == NO_GROUP else check_group_name(name, value)
        except LimitsError as exc:
            raise TuningError(str(exc)) from None
        return cls(limits, off=off, **others)

    def applied_to(self, limits: Limits) -> Limits:
        """*limits* after the change. Raises `TuningError`."""
        base = NO_LIMITS if self.off or self.all_limits else limits
        fields = dict(self.limits)
        for rate in RATES:
            # Lifting a rate also lifts its burst, which is not valid without it.
            if fields.get(rate) == 0:
                fields.setdefault(f"{rate}_max", 0)
            if fields.get(f"{rate}_max") == 0:
                fields.setdefault(f"{rate}_max_length", 1)
        if any(fields.get(rate) == 0 for rate in RATES[3:]) and not any(
            fields.get(rate, getattr(base, rate)) for rate in RATES[3:]
        ):
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
        limits = self.applied_to(held.limits) if self.limits else None
        return Override(limits, None, self.weight).over(before)

    def group_after(self, policy: GroupPolicy) -> GroupPolicy:
        """The *policy* of a group after the change, but for its parent. Raises `TuningError`."""
        limits = self.applied_to(policy.limits) if self.limits else policy.limits
        return replace(policy, limits=limits, weight=self.weight or policy.weight)


State = dict[str, Rate | str]
"""The limits that are not 0 or at their default, ``group`` or ``parent``, and ``weight``."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The result of a change for one image, the default or one group."""

    kind: str
    """``default``, ``image`` or ``group``."""
    name: bytes
    """The path of an image or the name of a group, in UTF-8."""
    before: State
    after: State


class Tuner:
    """Applies changes to the images, groups and default of *governor*.

    *is_open* tells whether somebody has the image open.
    """

    def __init__(self, governor: Governor, is_open: Callable[[FileKey], bool]) -> None:
        self._governor = governor
        self._throttle = governor.throttle
        self._is_open = is_open

    def change_image(self, key: FileKey, path: bytes, change: Change) -> list[Changed]:
        """Change the image of the file *key* at *path*. Raises `TuningError`."""
        with _Transaction(self._governor) as plan:
            image = self._governor.image(key, path)
            try:
                plan.image(image, change)
            except TuningError:
                if not self._is_open(key):
                    self._governor.release(key)
                raise
        return plan.done

    def change_default(self, change: Change, *, every_image: bool = False) -> list[Changed]:
        """Change the default, which holds for images without an override.

        *every_image*: also change known images that have one. Raises `TuningError`.
        """
        with _Transaction(self._governor) as plan:
            plan.default(change)
            for image in self._throttle.images() if every_image else ():
                if image.override != NO_OVERRIDE:
                    plan.image(image, change)
        return plan.done

    def change_group(self, name: str, change: Change, *, create: bool = True) -> list[Changed]:
        """Change the group *name*; if there is none, make it, or refuse without *create*.

        Raises `TuningError`.
        """
        try:
            check_group_name("group", name)
        except LimitsError as exc:
            raise TuningError(str(exc)) from None
        if not create:
            existing_group(self._governor, name)
        with _Transaction(self._governor) as plan:
            plan.group(name, change)
        return plan.done

    def state_of(self, key: FileKey, path: bytes) -> State:
        """What holds for the image of the file *key*, or would hold if it were opened."""
        if not self._throttle.knows(key):
            return policy_state(self._governor.policy.for_path(path))
        image = self._throttle.image(key)
        if not self._is_open(key):
            self._governor.release(key)
        return image_state(image)

    def default_state(self) -> State:
        """What holds for an image without an override."""
        return policy_state(self._governor.policy.default)

    def remove_group(self, name: str) -> None:
        """Remove a group that has no members. Raises `TuningError`."""
        if name in self._governor.policy.groups:
            raise TuningError(
                f"group {quoted(name)} is named by -o or the configuration file: remove it there"
            )
        try:
            self._throttle.remove_group(existing_group(self._governor, name).name)
        except ThrottleError as exc:
            raise TuningError(str(exc)) from None


def image_state(image: Image) -> State:
    """What holds for *image*: its own limits, its group and its weight in it."""
    group = {"group": image.parent.name} if image.parent is not None else {}
    return {**image.meter.limits.as_dict(), **group, "weight": image.weight}


def group_state(group: Group) -> State:
    """What holds for *group*: its limits, its parent and its weight in it."""
    parent = {"parent": group.parent.name} if group.parent is not None else {}
    return {**group.meter.limits.as_dict(), **parent, "weight": group.weight}


def group_policy(group: Group) -> GroupPolicy:
    """What *group* is held to."""
    parent = None if group.parent is None else group.parent.name
    return GroupPolicy(group.meter.limits, group.weight, parent)


def policy_state(policy: ImagePolicy) -> State:
    """What holds for an image that *policy* is for."""
    group = {"group": policy.group} if policy.group is not None else {}
    return {**policy.limits.as_dict(), **group, "weight": policy.weight}


def limits_of(state: State) -> dict[str, Rate]:
    """The limits in *state*, by canonical name in their usual order."""
    return {name: state[name] for name in LIMIT_NAMES if name in state}  # type: ignore[misc]


def existing_group(governor: Governor, name: str) -> Group:
    """The group *name*. Raises `TuningError` if there is none."""
    names = {group.name: group for group in governor.throttle.groups()}
    if name not in names:
        best = nearest(name, names)
        if best is not None:
            hint = f"; did you mean {quoted(best)}?"
        elif names:
            some = sorted(names)[:_GROUPS_SHOWN]
            more = ", ..." if len(names) > len(some) else ""
            hint = f"; the groups are {', '.join(map(quoted, some))}{more}."
        else:
            hint = ", nor any other."
        raise TuningError(
            f"there is no group {quoted(name)}{hint} To make one: throttlefs set --group NAME"
            " --create"
        )
    return names[name]


def _why_unknown(name: str, known: Iterable[str], of_group: bool) -> str:
    """Why a change cannot have *name*, and which names it can have."""
    if name == "parent":
        return "parent is for groups: give it with throttlefs set --group NAME"
    if name == "group" and of_group:
        return "a group is in no group: its parent is the group around it"
    return why_not_in_flight(name) or unknown("limit", name, (*known, *LIMIT_CANDIDATES))


def _levels(group: Group) -> int:
    """How many groups are one inside the other, from *group* inwards."""
    return 1 + max((_levels(one) for one in group.members if isinstance(one, Group)), default=0)


class _Transaction:
    """Collects the checked steps of a change, and makes all of them at its end."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor
        self._throttle = governor.throttle
        self._steps: list[Callable[[], None]] = []
        self._groups: set[str] = set()  # names of groups that have their step
        self.done: list[Changed] = []

    def __enter__(self) -> _Transaction:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is None:
            with self._throttle.changes():  # no request goes between two steps
                for step in self._steps:
                    step()
        self._steps.clear()  # they hold us

    def image(self, image: Image, change: Change) -> None:
        """Change the override of *image*."""
        override = self._override(image.meter.limits, change).over(image.override)
        key: FileKey = image.key  # type: ignore[assignment]

        def step() -> None:
            before = image_state(image)
            self._throttle.set_override(image, override)
            self._governor.changed(key)
            path = self._governor.paths.get(key, b"")
            self._note("image", path, before, image_state(image))

        self._steps.append(step)

    def default(self, change: Change) -> None:
        """Change the mount's default."""
        default = self._governor.policy.default
        new = self._override(default.limits, change).applied_to(default)

        def step() -> None:
            self._governor.set_default(new)
            self._note("default", b"", policy_state(default), policy_state(new))

        self._steps.append(step)

    def group(self, name: str, change: Change) -> None:
        """Change the group *name*, or make it."""
        if name in self._groups:
            return
        self._groups.add(name)
        group = next((g for g in self._throttle.groups() if g.name == name), None)
        limits = change.applied_to(NO_LIMITS if group is None else group.meter.limits)
        parent = existing_group(self._governor, change.parent) if change.parent else None
        levels = 1 if group is None else _levels(group)
        above = parent
        while above is not None:
            if above is group:
                raise TuningError(str(GroupCycleError(name, change.parent or "")))
            levels += 1
            above = above.parent
        if parent is not None and levels > MAX_GROUP_DEPTH:
            raise TuningError(
                f"parent: more than {MAX_GROUP_DEPTH} groups would be one inside the other"
            )

        def step() -> None:
            throttle = self._throttle
            before: State = {"weight": DEFAULT_WEIGHT} if group is None else group_state(group)
            changed = throttle.create_group(name) if group is None else group
            throttle.set_group_limits(name, limits)
            if change.weight is not None:
                throttle.set_group_weight(name, change.weight)
            if change.parent is not None:
                throttle.set_group_parent(name, change.parent or None)
            self._note("group", name.encode(), before, group_state(changed))

        self._steps.append(step)

    def _override(self, limits: Limits, change: Change) -> Override:
        """The override that *change* makes for an image with its own *limits*."""
        group = NO_GROUP if change.off and change.group is None else change.group
        return Override(self._own_limits(limits, change), group, change.weight)

    def _own_limits(self, limits: Limits, change: Change) -> Limits | None:
        """The image's own limits after *change*; None if it leaves them alone."""
        if change.group and change.limits:
            # As in QEMU and in -o, the limits are the group's then.
            self.group(change.group, replace(change, weight=None, parent=None, off=False))
            return NO_LIMITS
        if change.group:
            existing_group(self._governor, change.group)
        if change.off or change.limits or change.all_limits:
            return change.applied_to(limits)
        return None

    def _note(self, kind: str, name: bytes, before: State, after: State) -> None:
        self.done.append(Changed(kind, name, before, after))
