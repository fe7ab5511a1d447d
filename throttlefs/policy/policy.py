"""Joins ``-o`` and the configuration file: limits, device, group and weight of each image.

The default holds for an image without a table of its own. Limits, device, group and weight of the
default each come from ``-o`` or, if that does not name them, from ``[defaults]``. Limits, a device
and a group in ``-o`` belong together: as with QEMU's ``throttling.group`` the limits are the
group's, and the images have none of their own.

The first ``[[image]]`` table that matches overrides the default:

- If it has limits, they are all of the image's own limits. If it has none but names a group, the
  image has no limits of its own, only the group's. Otherwise the default limits hold.
- The same goes for its device.
- Its group replaces the default group; ``group = ""`` is none.
- Its weight replaces the default weight.

In the same way the limits of ``[group.NAME]``, if it has any, replace those that ``-o`` gives to a
group of that name, and its device that of ``-o``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from throttlefs.settings.config import NO_CONFIG, Config, GroupRule
from throttlefs.settings.device import NO_DEVICE, Device
from throttlefs.settings.limits import DEFAULT_WEIGHT, NO_LIMITS, Limits
from throttlefs.settings.options import MountOptions
from throttlefs.settings.shared import SharedStore
from throttlefs.throttle import NO_OVERRIDE, ImagePolicy, Override


@dataclass(frozen=True, slots=True)
class GroupPolicy:
    """The limits, weight, parent and device of a group."""

    limits: Limits = NO_LIMITS
    weight: int = DEFAULT_WEIGHT
    """Its share in its parent."""
    parent: str | None = None
    """A key of `Policy.groups`; parents form no cycle."""
    device: Device = NO_DEVICE
    """The device that its images share."""
    shared: SharedStore | None = None
    """Where its limits are shared with other hosts."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy of ``-o`` and the file; made by `make_policy`.

    To change the mount's default, use `dataclasses.replace` with another `default`.
    """

    default: ImagePolicy = field(default_factory=ImagePolicy)
    """For an image that no table matches. Its group is a key of `groups`."""
    groups: Mapping[str, GroupPolicy] = field(default_factory=dict)
    """All groups that the file or ``-o`` name, by name."""
    config: Config = NO_CONFIG

    def stores(self) -> dict[str, SharedStore]:
        """Where groups share their limits with other hosts, by name."""
        return {
            name: group.shared for name, group in self.groups.items() if group.shared is not None
        }

    def override_for(self, *paths: bytes) -> Override:
        """The table's override for the image with the names *paths*, relative to the mount.

        The names may be in any encoding. The table that comes first in the file decides.
        """
        rule = self.config.rule_for(*paths)
        if rule is None:
            return NO_OVERRIDE
        limits, device = rule.limits, rule.device
        if limits is None and rule.group:
            limits = NO_LIMITS
        if device is None and rule.group:
            device = NO_DEVICE
        return Override(limits, rule.group, rule.weight, device)

    def for_path(self, path: bytes) -> ImagePolicy:
        """What holds for the image at *path*, relative to the mount, in any encoding."""
        return self.override_for(path).applied_to(self.default)


def make_policy(options: MountOptions, config: Config = NO_CONFIG) -> Policy:
    """The policy of a mount with *options* and *config*.

    Raises `ProfileError` or `LimitsError` for a profile in *options* that cannot be used.
    """
    options = options.with_profile(config.profiles) if options.device.profile else options
    groups = {
        name: GroupPolicy(
            rule.limits or NO_LIMITS,
            rule.weight,
            rule.parent,
            rule.device or NO_DEVICE,
            rule.shared,
        )
        for name, rule in config.groups.items()
    }
    limits = options.limits if options.limits_given else config.defaults.limits
    device = options.device if options.device_given else config.defaults.device
    if options.group is not None:
        rule = config.groups.get(options.group, GroupRule())
        groups[options.group] = GroupPolicy(
            options.limits if rule.limits is None else rule.limits,
            rule.weight,
            rule.parent,
            options.device if rule.device is None else rule.device,
            options.shared_store or rule.shared,
        )
        if options.limits_given:
            limits = None
        if options.device_given:
            device = None
    weight = options.weight if options.weight_given else config.defaults.weight
    return Policy(
        default=ImagePolicy(
            limits=limits or NO_LIMITS,
            group=options.group if options.group is not None else config.defaults.group,
            weight=weight or DEFAULT_WEIGHT,
            device=device or NO_DEVICE,
        ),
        groups=groups,
        config=config,
    )
