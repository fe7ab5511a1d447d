"""Puts changes over what images, groups and the default are held to, and takes them off again.

What was before is kept and restored. Who is changed live meanwhile keeps that change.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from throttlefs.host.files import FileKey
from throttlefs.settings.globset import GlobSet
from throttlefs.settings.scenario import TimedChange
from throttlefs.throttle import NO_OVERRIDE, Group, Image, ImagePolicy, Override

from .change import Change, TuningError
from .governor import Governor
from .policy import GroupPolicy
from .state import group_policy
from .tuning import existing_group

log = logging.getLogger("throttlefs")

T = TypeVar("T")


class Overlay:
    """A `TimedChange` whose values have been read. Raises `TuningError` if they cannot be."""

    def __init__(self, source: TimedChange) -> None:
        self.source = source
        self.group = source.group
        self._globs = GlobSet(source.globs) if source.globs else None
        self._has_failed = False
        self._change = Change.parse(source.values.items(), of_group=source.group is not None)
        if self._change.parent is not None or self._change.group is not None:
            raise TuningError("a group or a parent cannot change for a time")
        if self._change.profile:
            raise TuningError("a profile cannot change for a time: give the settings that change")

    @property
    def is_default(self) -> bool:
        """Whether it is for the default of the mount."""
        return self.group is None and self._globs is None

    def takes(self, path: bytes) -> bool:
        """Whether it is for the image at *path*."""
        return self._globs is not None and self._globs.first(os.fsdecode(path)) is not None

    def over_image(self, override: Override, default: ImagePolicy) -> Override:
        """*override* of an image with the change. Raises `TuningError` if that cannot be."""
        return self._change.override(override, default)

    def over_default(self, default: ImagePolicy) -> ImagePolicy:
        """*default* with the change. Raises `TuningError` if that cannot be."""
        return self._change.override(NO_OVERRIDE, default).applied_to(default)

    def over_group(self, policy: GroupPolicy) -> GroupPolicy:
        """*policy* with the change. Raises `TuningError` if that cannot be."""
        return self._change.group_after(policy)

    def tried(self, make: Callable[[T], T], before: T) -> T:
        """What *make* makes of *before*; *before* if it cannot be, which the log says once."""
        try:
            return make(before)
        except TuningError as exc:
            if not self._has_failed:
                self._has_failed = True
                log.warning("%s cannot hold: %s", self.source, exc)
            return before


class Overlays:
    """The overlays that hold now, in their order, on what *governor* governs."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor
        self._throttle = governor.throttle
        self._active: list[Overlay] = []
        # What was before all overlays, and what it is with them.
        self._images: dict[FileKey, tuple[Override, Override]] = {}
        self._groups: dict[str, tuple[GroupPolicy, GroupPolicy]] = {}
        self._default: tuple[ImagePolicy, ImagePolicy] | None = None

    def check(self, overlays: Iterable[Overlay]) -> None:
        """Raise `TuningError` if one of *overlays* cannot hold as things are now."""
        governor = self._governor
        for overlay in overlays:
            if overlay.group is not None:
                overlay.over_group(group_policy(existing_group(governor, overlay.group)))
            elif overlay.is_default:
                overlay.over_default(governor.policy.default)
            else:
                for image in self._throttle.images():
                    if overlay.takes(self._path(image)):
                        overlay.over_image(image.override, governor.policy.default)

    def set_active(self, overlays: Iterable[Overlay]) -> None:
        """Let exactly *overlays* hold."""
        self._active = list(overlays)
        self._governor.over = self._over_image if self._active else None
        with self._throttle.changes():
            self._apply()

    def around(self, reload: Callable[[], None]) -> None:
        """Let *reload* restore what is below, and put the overlays over that."""
        with self._throttle.changes():
            reload()
            self._default = None
            self._groups.clear()
            self._apply()

    def _apply(self) -> None:
        governor = self._governor
        now = governor.policy.default
        before = self._default[0] if self._default and self._default[1] == now else now
        new = before
        for overlay in self._active:
            if overlay.is_default:
                new = overlay.tried(overlay.over_default, new)
        if new != now:
            governor.set_default(new)
        self._default = None if new == before else (before, new)
        for group in self._throttle.groups():
            self._apply_to_group(group)
        for image in self._throttle.images():
            key: FileKey = image.key  # type: ignore[assignment]
            kept = self._images.get(key)
            below = kept[0] if kept and kept[1] == image.override else image.override
            override = self._over_image(image, below)
            if override != image.override:
                self._throttle.set_override(image, override)

    def _over_image(self, image: Image, before: Override) -> Override:
        """The override for *image*, which would have *before* without overlays."""
        key: FileKey = image.key  # type: ignore[assignment]
        path, default = self._path(image), self._governor.policy.default
        new = before
        for overlay in self._active:
            if overlay.takes(path):
                new = overlay.tried(partial(overlay.over_image, default=default), new)
        self._images.pop(key, None)
        if new != before:
            self._images[key] = before, new
        return new

    def _apply_to_group(self, group: Group) -> None:
        now = group_policy(group)
        kept = self._groups.pop(group.name, None)
        before = kept[0] if kept and kept[1] == now else now
        new = before
        for overlay in self._active:
            if overlay.group == group.name:
                new = overlay.tried(overlay.over_group, new)
        if new != now:
            self._governor.set_group(group.name, new)
        if new != before:
            self._groups[group.name] = before, new

    def _path(self, image: Image) -> bytes:
        return self._governor.paths.get(image.key, b"")  # type: ignore[call-overload,no-any-return]
