"""Who says what: the limits, group and weight of each image, from ``-o`` and the file.

For an image without a table of its own the default holds. Of limits, group and weight each comes
from ``-o`` or, if that is silent, from ``[defaults]``. Limits and a group in ``-o`` belong
together: as with QEMU's ``throttling.group`` the limits are the group's, and the images have none
of their own.

The first ``[[image]]`` table that matches is the later word:

- its limits, if it has any, are all of the image's own limits; if it names a group and has none,
  the group's limits take the place of the default ones; else the default ones stay;
- its group takes the place of the default group, and ``group = ""`` is none;
- its weight takes the place of the default weight.

In the same way the limits of ``[group.NAME]``, if it has any, take the place of those that ``-o``
gives to a group of that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from throttlefs.settings.config import NO_CONFIG, Config
from throttlefs.settings.limits import DEFAULT_WEIGHT, NO_LIMITS, Limits
from throttlefs.settings.options import MountOptions


@dataclass(frozen=True, slots=True)
class ImagePolicy:
    """What holds for an image."""

    limits: Limits = NO_LIMITS
    """Its own, beside those of its group."""
    group: str | None = None
    """A key of `Policy.groups`."""
    weight: int = DEFAULT_WEIGHT
    """Its share in its group."""


@dataclass(frozen=True, slots=True)
class GroupPolicy:
    """What holds for a group."""

    limits: Limits = NO_LIMITS
    weight: int = DEFAULT_WEIGHT
    """Its share in its parent."""
    parent: str | None = None
    """A key of `Policy.groups`; parents form no cycle."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What ``-o`` and the file say together; made by `make_policy`.

    `dataclasses.replace` with another `default` is what a change of the mount's default comes to.
    """

    default: ImagePolicy = ImagePolicy()
    """For an image that no table matches."""
    groups: Mapping[str, GroupPolicy] = field(default_factory=dict)
    """All groups that the file or ``-o`` name, by name."""
    config: Config = NO_CONFIG

    def for_path(self, path: bytes) -> ImagePolicy:
        """What holds for the image at *path*, relative to the mount, in any encoding."""
        rule = self.config.rule_for(path)
        if rule is None:
            return self.default
        if rule.limits is not None:
            limits = rule.limits
        else:
            limits = NO_LIMITS if rule.group else self.default.limits
        return ImagePolicy(
            limits=limits,
            group=self.default.group if rule.group is None else rule.group or None,
            weight=self.default.weight if rule.weight is None else rule.weight,
        )


def make_policy(options: MountOptions, config: Config = NO_CONFIG) -> Policy:
    """The policy of a mount with *options* and *config*."""
    groups = {
        name: GroupPolicy(rule.limits or NO_LIMITS, rule.weight, rule.parent)
        for name, rule in config.groups.items()
    }
    limits = options.limits if options.limits_given else config.defaults.limits
    if options.group is not None:
        rule = config.groups.get(options.group)
        if rule is None:
            groups[options.group] = GroupPolicy(options.limits)
        elif rule.limits is None:
            groups[options.group] = GroupPolicy(options.limits, rule.weight, rule.parent)
        if options.limits_given:
            limits = None
    weight = options.weight if options.weight_given else config.defaults.weight
    return Policy(
        default=ImagePolicy(
            limits=limits or NO_LIMITS,
            group=options.group if options.group is not None else config.defaults.group,
            weight=weight or DEFAULT_WEIGHT,
        ),
        groups=groups,
        config=config,
    )
