"""Applies ``-o``, the config file and live changes to the throttle.

An image follows the mount's default. The first table of the file that matches its path overrides
the default, and a live change overrides both. The table is looked up at each open, when a file is
renamed through the mount, and on reload, which restores exactly what ``-o`` and the file say.

A file that is open by several names (hard links, or a rename in SRC) is held to the table that
comes first in the file, whichever name it matches. So the order of opening decides nothing: an
administrator puts the stricter tables first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from throttlefs.errors import ThrottlefsError
from throttlefs.host.files import FileKey
from throttlefs.settings.units import quoted
from throttlefs.throttle import Image, ImagePolicy, Override, Throttle

from .policy import GroupPolicy, Policy

_FEW = 100
"""How many images are released before their paths are cleared out."""


class Governor:
    """Applies a `Policy` to a `Throttle` and keeps the paths of the images it has met.

    A path is relative to the mount, in bytes, and the one under which the image was last opened.
    """

    def __init__(self, throttle: Throttle, policy: Policy) -> None:
        self.throttle = throttle
        self.policy = policy
        self.paths: dict[FileKey, bytes] = {}
        self._other_paths: dict[FileKey, set[bytes]] = {}  # more names of files that are open
        self._changed: set[FileKey] = set()  # images that a live change has an override for
        self._open: set[FileKey] = set()
        self._released = 0  # since paths were last cleared out
        self.over: Callable[[Image, Override], Override] | None = None
        """What an image is held to instead of the override of its table; see `Overlays`."""
        self._apply_groups()
        throttle.set_default(policy.default)

    def image(self, key: FileKey, path: bytes) -> Image:
        """The image of the file *key*, opened at *path*."""
        before = self.paths.get(key) if self.throttle.knows(key) else None
        image = self.throttle.image(key)
        if before is not None and before != path and key in self._open:
            self._other_paths.setdefault(key, set()).add(before)
        self._open.add(key)
        self.paths[key] = path
        image.name = os.fsdecode(path)
        self._apply_rule(image)
        return image

    def renamed(self, key: FileKey, path: bytes) -> None:
        """Note that the file *key* has the name *path* now instead of its last one."""
        if key not in self.paths or not self.throttle.knows(key):
            return
        self.paths[key] = path
        self._apply_rule(self.throttle.image(key))

    def release(self, key: FileKey) -> None:
        """Release an image that nobody has open. Its debt is remembered until it is paid."""
        self._open.discard(key)
        self._other_paths.pop(key, None)
        if key in self._changed:
            return
        self.throttle.forget(key, keep_settings=False)
        self._released += 1
        if self._released > len(self.paths) // 2 + _FEW:
            # The throttle drops an image once it has paid, so ask it now and then.
            self._released = 0
            knows = self.throttle.knows
            self.paths = {known: path for known, path in self.paths.items() if knows(known)}

    def changed(self, key: FileKey) -> None:
        """Note that the image has a live change, which outlives its handles."""
        self._changed.add(key)

    def is_changed(self, key: FileKey) -> bool:
        """Whether the image has a live change."""
        return key in self._changed

    def set_default(self, default: ImagePolicy) -> None:
        """Hold every image without an override to *default*, until a reload.

        Raises `UnknownGroupError`.
        """
        self.throttle.set_default(default)
        self.policy = replace(self.policy, default=default)

    def set_group(self, name: str, policy: GroupPolicy) -> None:
        """Hold the group *name*, which must exist, to *policy*; its parent stays."""
        self.throttle.set_group_device(name, policy.device)
        self.throttle.set_group_limits(name, policy.limits)
        self.throttle.set_group_weight(name, policy.weight)

    def removed(self, key: FileKey) -> None:
        """Forget the live changes of a file that is gone for good: another may get its number."""
        self._changed.discard(key)
        self.release(key)

    def reload(self, policy: Policy, current_path: Callable[[FileKey], bytes | None]) -> None:
        """Restore what *policy* says, for every group and image; debts and requests stay.

        *current_path* gives the path of an image that the kernel still knows, which may have
        been renamed since it was met. Raises `ThrottlefsError`, and changes nothing, if another
        group is to be shared with other hosts.
        """
        before, after = self.policy.stores(), policy.stores()
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                raise ThrottlefsError(
                    f"group {quoted(name)}: shared cannot change in flight; unmount and mount again"
                )
        with self.throttle.changes():  # no request goes while a group is between two parents
            old_groups = {group.name for group in self.throttle.groups()}
            self.policy = policy
            self._changed.clear()
            self._apply_groups()
            self.throttle.set_default(policy.default)
            for image in self.throttle.images():
                key: FileKey = image.key  # type: ignore[assignment]
                path = current_path(key) or self.paths.get(key)
                if path is not None:
                    self.paths[key] = path
                    self._apply_rule(image)
            self._remove_groups(old_groups - policy.groups.keys())

    def _apply_rule(self, image: Image) -> None:
        """Give *image* the override of its table, unless it has a live change."""
        key: FileKey = image.key  # type: ignore[assignment]
        if key in self._changed:
            return
        override = self.policy.override_for(self.paths[key], *self._other_paths.get(key, ()))
        if self.over is not None:
            override = self.over(image, override)
        if override is not image.override and override != image.override:
            self.throttle.set_override(image, override)

    def _apply_groups(self) -> None:
        throttle, groups = self.throttle, self.policy.groups
        known = {group.name for group in throttle.groups()}
        for name in known & groups.keys():
            throttle.set_group_parent(name, None)  # or new parents could look like a cycle
        for name in _parents_first(groups):
            policy = groups[name]
            if name in known:
                throttle.set_group_device(name, policy.device)
                if policy.shared is None:
                    throttle.set_group_limits(name, policy.limits)
                # Limits that are shared are those of all hosts: a file only proposes the first.
                throttle.set_group_weight(name, policy.weight)
                throttle.set_group_parent(name, policy.parent)
            else:
                throttle.create_group(
                    name,
                    policy.limits,
                    weight=policy.weight,
                    parent=policy.parent,
                    device=policy.device,
                    shared=policy.shared is not None,
                )

    def _remove_groups(self, names: Iterable[str]) -> None:
        for name in names:
            self.throttle.set_group_parent(name, None)
        for name in names:
            self.throttle.remove_group(name)


def _parents_first(groups: Mapping[str, GroupPolicy]) -> list[str]:
    """The names of *groups*, each after its parent."""
    ordered: dict[str, None] = {}
    for name in groups:
        path: list[str] = []
        above: str | None = name
        while above is not None and above not in ordered:
            path.append(above)
            above = groups[above].parent
        ordered.update(dict.fromkeys(reversed(path)))
    return list(ordered)
