"""What an image is held to: the default, and the override of one image alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from throttlefs.settings.device import NO_DEVICE, Device
from throttlefs.settings.limits import DEFAULT_WEIGHT, NO_LIMITS, Limits

NO_GROUP: Final = ""
"""For `Override.group`: in no group, whatever the default is."""


@dataclass(frozen=True, slots=True)
class ImagePolicy:
    """The limits, group, weight and device that hold for an image."""

    limits: Limits = NO_LIMITS
    """The image's own limits; those of its group hold as well."""
    group: str | None = None
    """The name of its group, None if it is in none."""
    weight: int = DEFAULT_WEIGHT
    """Its weight among the members of its group; a valid one, as `check_weight` returns it."""
    device: Device = NO_DEVICE
    """The device that the image has to itself."""


@dataclass(frozen=True, slots=True)
class Override:
    """What was set for one image; None where it follows the default."""

    limits: Limits | None = None
    group: str | None = None
    """The name of a group, or `NO_GROUP`."""
    weight: int | None = None
    device: Device | None = None

    def applied_to(self, default: ImagePolicy) -> ImagePolicy:
        """What holds for the image if *default* holds for all others."""
        if self is NO_OVERRIDE:
            return default
        return ImagePolicy(
            limits=default.limits if self.limits is None else self.limits,
            group=default.group if self.group is None else self.group or None,
            weight=default.weight if self.weight is None else self.weight,
            device=default.device if self.device is None else self.device,
        )

    def over(self, earlier: Override) -> Override:
        """The override that results if this one is set after *earlier*."""
        return Override(
            limits=earlier.limits if self.limits is None else self.limits,
            group=earlier.group if self.group is None else self.group,
            weight=earlier.weight if self.weight is None else self.weight,
            device=earlier.device if self.device is None else self.device,
        )


NO_OVERRIDE: Final = Override()
"""The image follows the default in everything."""
