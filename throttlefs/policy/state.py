"""What holds for an image, a group or the default, by the names that users know."""

from __future__ import annotations

from throttlefs.settings.device import DEVICE_NAMES
from throttlefs.settings.limits import LIMIT_NAMES
from throttlefs.settings.shared import SharedStore
from throttlefs.settings.units import Rate
from throttlefs.throttle import Group, Image, ImagePolicy

from .policy import GroupPolicy

State = dict[str, Rate | str]
"""The limits that are not 0 or at their default, the settings of a device as text, ``group`` or
``parent``, and ``weight``."""


def image_state(image: Image) -> State:
    """What holds for *image*: its own limits, its group and its weight in it."""
    group = {"group": image.parent.name} if image.parent is not None else {}
    return {**_set_for(image), **group, "weight": image.weight}


def group_state(group: Group) -> State:
    """What holds for *group*: its limits, its parent and its weight in it."""
    parent = {"parent": group.parent.name} if group.parent is not None else {}
    return {**_set_for(group), **parent, "weight": group.weight}


def policy_state(policy: ImagePolicy) -> State:
    """What holds for an image that *policy* is for."""
    group = {"group": policy.group} if policy.group is not None else {}
    settings = {**policy.limits.as_dict(), **policy.device.as_text()}
    return {**settings, **group, "weight": policy.weight}


def _set_for(node: Image | Group) -> State:
    return {**node.limits.as_dict(), **node.device_settings.as_text()}


def group_policy(group: Group, shared: SharedStore | None = None) -> GroupPolicy:
    """What *group*, whose limits are *shared* there, is held to."""
    parent = None if group.parent is None else group.parent.name
    return GroupPolicy(group.limits, group.weight, parent, group.device_settings, shared)


def limits_of(state: State) -> dict[str, Rate]:
    """The limits in *state*, by canonical name in their usual order."""
    return {name: state[name] for name in LIMIT_NAMES if name in state}  # type: ignore[misc]


def device_of(state: State) -> dict[str, str]:
    """The settings of a device in *state* as text, by canonical name in their usual order."""
    return {name: str(state[name]) for name in DEVICE_NAMES if name in state}
