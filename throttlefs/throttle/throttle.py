"""The limiter of a mount: its images and groups, and the limits that each is held to."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from heapq import heappop, heappush

from throttlefs.settings.device import NO_DEVICE, Device
from throttlefs.settings.limits import DEFAULT_WEIGHT, NO_LIMITS, SMALLEST_DISK, Limits

from .alarm import Alarm
from .dispatcher import Dispatcher
from .errors import GroupCycleError, GroupExistsError, GroupInUseError, UnknownGroupError
from .group import Group
from .image import Image
from .image_policy import NO_OVERRIDE, ImagePolicy, Override
from .meter import DIRECTIONS
from .node import Node
from .shared_group import SharedGroup
from .shared_meter import Rates
from .station import Model

boottime_ns = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
"""CLOCK_BOOTTIME, in ns: monotonic, and it counts on while the machine sleeps."""


class Throttle:
    """All images of a mount and the groups that they are in.

    Every image is held to ``default`` until it gets an override. Weights are valid ones, as
    `check_weight` returns them. ``gates_open`` says that nothing is held to anything. *clock* and
    *alarm* are for the ``dispatcher``, which lets the requests go. *new_model* makes the devices,
    whose requests are answered *early_ns* before their end (see `Scheduler`). The leases of shared
    groups end by *lease_clock* (ns), which counts on while the machine sleeps.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        alarm: Alarm,
        new_model: Callable[[Device], Model] | None = None,
        early_ns: int = 0,
        lease_clock: Callable[[], int] = boottime_ns,
    ) -> None:
        self.clock = clock
        self.lease_clock = lease_clock
        self.dispatcher = Dispatcher(clock, alarm, early_ns)
        self.default = ImagePolicy()
        self.gates_open = False
        self._new_model = new_model
        self._scheduler = self.dispatcher.scheduler
        self._images: dict[Hashable, Image] = {}
        self._groups: dict[str, Group] = {}
        # Groups that were removed and owe something; a new group of the same name owes it.
        self._removed: dict[str, Group] = {}
        # Images that nobody has open and that owe something, by the instant at which all is paid.
        self._forgotten: list[tuple[int, int, Image]] = []
        self._forgotten_count = 0

    def changes(self) -> AbstractContextManager[None]:
        """Make several changes at once: nothing goes before the last of them is made."""
        return self.dispatcher.changes()

    # Images.

    def image(self, key: Hashable) -> Image:
        """The image *key*, made on first use; it follows the default until it gets an override."""
        image = self._images.get(key)
        if image is None:
            image = self._images[key] = Image(self.dispatcher, key, self._hold)
            self._hold(image)
        image.forgotten = False
        return image

    def knows(self, key: Hashable) -> bool:
        """Whether there is an image *key*, open or not."""
        return key in self._images

    def resized(self, key: Hashable, size: int) -> None:
        """Note that the file *key* has *size* bytes now, by which its rates may grow."""
        image = self._images.get(key)
        if image is not None:
            image.note_size(size)

    def images(self) -> Iterator[Image]:
        """All images that there are, open or not."""
        return iter(list(self._images.values()))

    def forget(self, key: Hashable, *, keep_settings: bool = True) -> None:
        """Drop the image *key*, which nobody has open, as soon as it owes nothing.

        An image with an override is kept. *keep_settings* false drops it too; then the caller sets
        the override again when the image is opened.
        """
        now = self.clock()
        self._drop_forgotten(now)
        image = self._images.get(key)
        if image is None or (keep_settings and image.override != NO_OVERRIDE):
            return
        image.forgotten = True
        self._drop_when_paid(image, now)

    def _drop_when_paid(self, image: Image, now: int) -> None:
        image.settle()
        until = image.meter.owed_until()
        if until <= now and not any(image.waiting):
            del self._images[image.key]
            if image.parent is not None:
                self._scheduler.change_parent(image, None, now)
            image.path = ()  # it held the image itself, which nothing else does any more
            return
        if not image.listed:  # it is listed once, however often it is closed
            image.listed = True
            self._forgotten_count += 1
            heappush(self._forgotten, (max(until, now + 1), self._forgotten_count, image))

    def _drop_forgotten(self, now: int) -> None:
        while self._forgotten and self._forgotten[0][0] <= now:
            image = heappop(self._forgotten)[2]
            image.listed = False
            if image.forgotten and self._images.get(image.key) is image:
                self._drop_when_paid(image, now)

    # What images are held to.

    def set_default(self, default: ImagePolicy) -> None:
        """Hold every image to *default* from now on, except where its override says otherwise.

        Raises `UnknownGroupError`.
        """
        if default.group is not None:
            self.group(default.group)
        self.default = default
        with self.changes():
            for image in self._images.values():
                self._hold(image)

    def set_override(self, image: Image, override: Override) -> None:
        """Hold *image* to *override* from now on, and to the default where that has None.

        Raises `UnknownGroupError`.
        """
        if override.group:
            self.group(override.group)
        image.override = override
        self._hold(image)

    def _hold(self, image: Image) -> None:
        """Hold *image* to its override and the default."""
        image.settle()
        policy = image.override.applied_to(self.default)
        group = None if policy.group is None else self.group(policy.group)
        if group is None and image.parent is None and not any(image.waiting):
            self._apply(image, policy, None)  # nothing that waits can notice
            return
        with self.changes():
            self._apply(image, policy, group)

    def _apply(self, image: Image, policy: ImagePolicy, group: Group | None) -> None:
        now = self.clock()
        if policy.weight != image.weight:
            self._scheduler.change_weight(image, policy.weight, now)
        self._scheduler.change_parent(image, group, now)
        self._set_device(image, policy.device, now)
        self._set_limits(image, policy.limits, now)
        self._refresh_unlimited(image)

    def _set_limits(self, node: Node, limits: Limits, now: int) -> None:
        """Hold *node* to *limits*, of which rates may grow with the size of its disk."""
        node.limits = limits
        size = node.device_settings.size
        if not size and isinstance(node, Image):
            size = max(node.size, SMALLEST_DISK)
        in_force = limits.at(size)
        if in_force is not node.meter.limits and in_force != node.meter.limits:
            self._scheduler.change_limits(node, in_force, now)

    def _set_device(self, node: Node, device: Device, now: int) -> None:
        """Give *node* the *device*; one that takes no time and no places is none."""
        before = node.device_settings
        node.device_settings = device
        if device is before or device == before:
            return
        model = None
        if device.is_slow and self._new_model is not None:
            if node.device is None:
                model = self._new_model(device)
            else:
                model = node.device.model
                model.change(device)
        if model is not None or node.device is not None:
            self._scheduler.change_device(node, model, now)

    def _refresh_unlimited(self, node: Node) -> None:
        if isinstance(node, Group):
            for member in node.members:
                self._refresh_unlimited(member)
        elif isinstance(node, Image):
            path = node.find_path()
            node.unlimited = [
                self.gates_open
                or not (node.station or any(above.meter.buckets[direction] for above in path))
                for direction in DIRECTIONS
            ]

    # Draining.

    def open_gates(self) -> None:
        """Let everything go that waits, and let nothing wait until the gates are closed."""
        self.gates_open = self._scheduler.gates_open = True
        for image in self._images.values():
            image.unlimited = [True, True]
        self.dispatcher.release_all(self._images.values())

    def close_gates(self) -> None:
        """Hold requests to the limits again; requests that went in between were not charged."""
        self.gates_open = self._scheduler.gates_open = False
        for image in self._images.values():
            self._refresh_unlimited(image)

    # Groups.

    def group(self, name: str) -> Group:
        """The group *name*. Raises `UnknownGroupError`."""
        try:
            return self._groups[name]
        except KeyError:
            raise UnknownGroupError(name) from None

    def groups(self) -> Iterator[Group]:
        """All groups."""
        return iter(list(self._groups.values()))

    def create_group(
        self,
        name: str,
        limits: Limits = NO_LIMITS,
        *,
        weight: int = DEFAULT_WEIGHT,
        parent: str | None = None,
        device: Device = NO_DEVICE,
        shared: bool = False,
    ) -> Group:
        """Make a group; images become members by their override or by the default.

        One that is *shared* with other hosts lets nothing pass before `hold_group` is called.
        Raises `GroupExistsError` and `UnknownGroupError` (the parent).
        """
        if name in self._groups:
            raise GroupExistsError(name)
        above = self.group(parent) if parent is not None else None
        now = self.clock()
        self._drop_removed(now)
        if shared:
            self.dispatcher.be_prompt()
        group = self._removed.pop(name, None)
        if group is None or isinstance(group, SharedGroup) is not shared:
            group = SharedGroup(name, self.lease_clock) if shared else Group(name)
        group.weight = weight
        self._scheduler.change_parent(group, above, now)
        self._set_device(group, device, now)
        self._set_limits(group, limits, now)
        self._groups[name] = group
        return group

    def set_group_limits(self, name: str, limits: Limits) -> None:
        """Hold the group to *limits* from now on. Raises `UnknownGroupError`."""
        group = self.group(name)
        with self.changes():
            self._set_limits(group, limits, self.clock())
            self._refresh_unlimited(group)

    def set_group_device(self, name: str, device: Device) -> None:
        """Give the images of the group another device to share. Raises `UnknownGroupError`."""
        group = self.group(name)
        with self.changes():
            now = self.clock()
            self._set_device(group, device, now)
            self._set_limits(group, group.limits, now)
            self._refresh_unlimited(group)

    def hold_group(self, group: SharedGroup, rates: Rates, until: int) -> None:
        """Let *group* use *rates* of what it shares, until *until* (ns of the lease clock)."""
        with self.changes():
            now = self.clock()
            group.meter.hold(rates, until, now)
            self._scheduler.look_again(group, now)

    def set_group_weight(self, name: str, weight: int) -> None:
        """Set its weight among the members of its parent. Raises `UnknownGroupError`."""
        group = self.group(name)
        with self.changes():
            self._scheduler.change_weight(group, weight, self.clock())

    def set_group_parent(self, name: str, parent: str | None) -> None:
        """Put the group inside another one, or on its own.

        Raises `UnknownGroupError` and `GroupCycleError`.
        """
        group = self.group(name)
        above = self.group(parent) if parent is not None else None
        if above is not None and group in above.find_path():
            raise GroupCycleError(name, above.name)
        with self.changes():
            self._scheduler.change_parent(group, above, self.clock())
            self._refresh_unlimited(group)

    def remove_group(self, name: str) -> None:
        """Remove a group without members; if it is made again, it owes what it owed.

        Raises `UnknownGroupError` and `GroupInUseError`.
        """
        group = self.group(name)
        if name == self.default.group:
            raise GroupInUseError(name, "it is the mount's default")
        if group.members:
            count = len(group.members)
            raise GroupInUseError(
                name, "it has 1 member" if count == 1 else f"it has {count} members"
            )
        for image in self._images.values():
            if image.override.group == name:
                raise GroupInUseError(name, "an image has it as its group")
        now = self.clock()
        self._scheduler.change_parent(group, None, now)
        del self._groups[name]
        self._drop_removed(now)
        self._removed[name] = group

    def _drop_removed(self, now: int) -> None:
        for name in [name for name, group in self._removed.items() if not group.owes(now)]:
            del self._removed[name]
