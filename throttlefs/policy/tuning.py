"""Changes limits in flight: makes all of a change or none of it.

A change of an image has limits, settings of a device, a group and a weight; each may be missing. As
in QEMU the limits are the group's if it names a group, else the image's own; so is the device. All
of it is checked first: after a `ThrottlefsError` nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from throttlefs.host.files import FileKey
from throttlefs.settings.device import (
    NO_DEVICE,
    Device,
    format_setting,
)
from throttlefs.settings.limits import (
    DEFAULT_WEIGHT,
    MAX_GROUP_DEPTH,
    NO_LIMITS,
    Limits,
    LimitsError,
    check_group_name,
)
from throttlefs.settings.suggest import nearest
from throttlefs.settings.units import quoted
from throttlefs.throttle import (
    NO_GROUP,
    NO_OVERRIDE,
    Group,
    GroupCycleError,
    Image,
    Override,
    ThrottleError,
)

from .change import Change, TuningError, check_group
from .governor import Governor
from .state import State, group_state, image_state, policy_state

_GROUPS_SHOWN = 10
"""The most names of groups in a message."""


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
        change = self._with_profile(change)
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
        change = self._with_profile(change)
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
        change = self._with_profile(change)
        with _Transaction(self._governor) as plan:
            plan.group(name, change)
        return plan.done

    def _with_profile(self, change: Change) -> Change:
        """*change* with all that the profile says which it sets, if any."""
        if not change.profile:
            return change
        return change.with_profile(self._governor.policy.config.profiles)

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


def _check_size(device: Device | None, image: Image) -> None:
    """Raise `TuningError` if *device* is too small for the file of *image*."""
    if device is not None and 0 < device.size < image.size:
        raise TuningError(
            f"size={format_setting('size', device.size)} is below that of the image, "
            f"{format_setting('size', image.size)}"
        )


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
        override = self._override(image.limits, image.device_settings, change)
        override = override.over(image.override)
        _check_size(override.device, image)
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
        new = self._override(default.limits, default.device, change).applied_to(default)
        for image in self._throttle.images():
            if image.override.device is None:
                _check_size(new.device, image)

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
        limits = change.applied_to(NO_LIMITS if group is None else group.limits)
        device = change.device_after(NO_DEVICE if group is None else group.device_settings)
        check_group(limits, device)
        for image in self._throttle.images():
            if group is not None and image.station is not None and image.station is group.device:
                _check_size(device, image)
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
            throttle.set_group_device(name, device)
            throttle.set_group_limits(name, limits)
            if change.weight is not None:
                throttle.set_group_weight(name, change.weight)
            if change.parent is not None:
                throttle.set_group_parent(name, change.parent or None)
            self._note("group", name.encode(), before, group_state(changed))

        self._steps.append(step)

    def _override(self, limits: Limits, device: Device, change: Change) -> Override:
        """The override that *change* makes for an image with its own *limits* and *device*."""
        group = NO_GROUP if change.off and change.group is None else change.group
        own_device = change.device_after(device) if change.has_device else None
        if change.group and change.device:
            own_device = NO_DEVICE
        return Override(self._own_limits(limits, change), group, change.weight, own_device)

    def _own_limits(self, limits: Limits, change: Change) -> Limits | None:
        """The image's own limits after *change*; None if it leaves them alone."""
        if change.group and (change.limits or change.device):
            # As in QEMU and in -o, the limits are the group's then.
            self.group(change.group, replace(change, weight=None, parent=None, off=False))
            return NO_LIMITS if change.limits or change.off else None
        if change.group:
            existing_group(self._governor, change.group)
        if change.off or change.limits or change.all_limits:
            return change.applied_to(limits)
        return None

    def _note(self, kind: str, name: bytes, before: State, after: State) -> None:
        self.done.append(Changed(kind, name, before, after))
