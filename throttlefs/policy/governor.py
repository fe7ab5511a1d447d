"""Who is held to what: tells the throttle what ``-o``, the config file and live changes say.

For an image the latest word counts: the mount's default, the first matching table of the file,
a live change. What is said of an image is decided when it is first met and again on reload,
which restores exactly what ``-o`` and the file say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from throttlefs.host.files import FileKey
from throttlefs.throttle import NO_GROUP, Image, Throttle

from .policy import GroupPolicy, ImagePolicy, Policy

_FEW = 100
"""Images released before their paths are cleared out."""


class Governor:
    """Applies a `Policy` to a `Throttle` and keeps the paths of the images it has met.

    A path is relative to the mount, in bytes, and the one under which the image was last opened.
    """

    def __init__(self, throttle: Throttle, policy: Policy) -> None:
        self.throttle = throttle
        self.policy = policy
        self.paths: dict[FileKey, bytes] = {}
        self._changed: set[FileKey] = set()  # of which a live change said something
        self._released = 0  # since paths were last cleared out
        self._apply_groups()
        self._apply_default()

    def image(self, key: FileKey, path: bytes) -> Image:
        """The image of the file *key*, opened at *path*; first met, its table is looked up."""
        new = not self.throttle.knows(key)
        image = self.throttle.image(key)
        if new:
            self._apply_rule(image, path)
        self.paths[key] = path
        return image

    def release(self, key: FileKey) -> None:
        """Nobody has the image open any more. What it owes is remembered until it is paid."""
        if key in self._changed:
            return
        self.throttle.forget(key, keep_settings=False)
        self._released += 1
        if self._released > len(self.paths) // 2 + _FEW:
            # The throttle drops an image when it has paid, so now and then it is asked.
            self._released = 0
            knows = self.throttle.knows
            self.paths = {known: path for known, path in self.paths.items() if knows(known)}

    def changed(self, key: FileKey) -> None:
        """Note that a live change said something of the image, which is to outlive its handles."""
        self._changed.add(key)

    def is_changed(self, key: FileKey) -> bool:
        """Whether a live change said something of the image."""
        return key in self._changed

    def set_default(self, default: ImagePolicy) -> None:
        """Hold every image of which nothing else is said to *default*, until a reload.

        Raises `UnknownGroupError`.
        """
        self.throttle.set_default(default.limits, group=default.group, weight=default.weight)
        self.policy = replace(self.policy, default=default)

    def removed(self, key: FileKey) -> None:
        """The file is gone for good: what was said of it is not for the next of its number."""
        self._changed.discard(key)
        self.release(key)

    def reload(self, policy: Policy, current_path: Callable[[FileKey], bytes | None]) -> None:
        """Restore what *policy* says, for every group and image; debts and requests stay.

        *current_path* gives the path of an image that the kernel still knows, which may have
        been renamed since it was met.
        """
        with self.throttle.changes():  # nothing goes while a group is between two parents
            old_groups = {group.name for group in self.throttle.groups()}
            self.policy = policy
            self._changed.clear()
            self._apply_groups()
            self._apply_default()
            for image in self.throttle.images():
                key: FileKey = image.key  # type: ignore[assignment]
                path = current_path(key) or self.paths.get(key)
                if path is not None:
                    self.paths[key] = path
                    self._apply_rule(image, path)
            self._remove_groups(old_groups - policy.groups.keys())

    def _apply_rule(self, image: Image, path: bytes) -> None:
        rule = self.policy.config.rule_for(path)
        said = self.policy.for_path(path)
        # Only what the table says is said of the image; for the rest the default may change.
        says_limits = rule is not None and (rule.limits is not None or bool(rule.group))
        says_group = rule is not None and rule.group is not None
        says_weight = rule is not None and rule.weight is not None
        wanted = (
            said.limits if says_limits else None,
            (said.group or NO_GROUP) if says_group else None,
            said.weight if says_weight else None,
        )
        if wanted != (image.own_limits, image.own_group, image.own_weight):
            limits, group, weight = wanted
            with self.throttle.changes():
                image.set_limits(limits)
                image.set_group(group)
                image.set_weight(weight)

    def _apply_default(self) -> None:
        default = self.policy.default
        self.throttle.set_default(default.limits, group=default.group, weight=default.weight)

    def _apply_groups(self) -> None:
        throttle, groups = self.throttle, self.policy.groups
        known = {group.name for group in throttle.groups()}
        for name in known & groups.keys():
            throttle.set_group_parent(name, None)  # or the new parents could pass for a cycle
        for name in _parents_first(groups):
            said = groups[name]
            if name in known:
                throttle.set_group_limits(name, said.limits)
                throttle.set_group_weight(name, said.weight)
                throttle.set_group_parent(name, said.parent)
            else:
                throttle.create_group(name, said.limits, weight=said.weight, parent=said.parent)

    def _remove_groups(self, names: Iterable[str]) -> None:
        for name in names:
            self.throttle.set_group_parent(name, None)
        for name in names:
            self.throttle.remove_group(name)


def _parents_first(groups: Mapping[str, GroupPolicy]) -> list[str]:
    """The names of *groups*, each after its parent."""
    ordered: dict[str, None] = {}

    def add(name: str) -> None:
        parent = groups[name].parent
        if parent is not None and parent not in ordered:
            add(parent)
        ordered[name] = None

    for name in groups:
        add(name)
    return list(ordered)
