"""The limiter of a mount: its images and groups, and the one task that lets requests go."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush

from throttlefs import waiting
from throttlefs.settings.limits import DEFAULT_WEIGHT, MAX_WEIGHT, Limits

from .alarm import Alarm
from .errors import (
    GroupCycleError,
    GroupExistsError,
    GroupInUseError,
    UnknownGroupError,
    WeightError,
)
from .group import Group
from .image import Image
from .leaf import Request
from .meter import DIRECTIONS
from .node import Node
from .scheduler import NEVER, Scheduler


class Throttle:
    """All images of a mount and the groups that they are in.

    Every image is held to the default until something is said of it. *clock* gives ns and never
    goes back; *alarm* runs on the same clock. Everything is to be called from the trio thread.
    """

    def __init__(
        self,
        default: Limits = Limits(),  # noqa: B008  (frozen)
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        alarm: Alarm,
    ) -> None:
        self.clock = clock
        self.scheduler = Scheduler()
        self.default_limits = default
        self.default_group: str | None = None
        self.default_weight = DEFAULT_WEIGHT
        self.gates_open = False
        self.alarm_lead = 0
        """ns by which the alarm goes off early, for a loop that looks at the clock from then on."""
        self._alarm = alarm
        self._alarm_at = NEVER
        self._changes = 0
        self._images: dict[Hashable, Image] = {}
        self._groups: dict[str, Group] = {}
        # Groups that were removed and owe something, which one of the same name will owe.
        self._removed: dict[str, Group] = {}
        # Images that nobody has open but that owe something, by the instant they no longer do.
        self._forgotten: list[tuple[int, int, Image]] = []
        self._forgotten_count = 0

    # Images.

    def image(self, key: Hashable) -> Image:
        """The image *key*, made on first use; it follows the default until told otherwise."""
        image = self._images.get(key)
        if image is None:
            image = self._images[key] = Image(self, key)
            self.apply(image)
        image.forgotten = False
        return image

    def knows(self, key: Hashable) -> bool:
        """Whether anything is known of the image *key*, open or not."""
        return key in self._images

    def images(self) -> Iterator[Image]:
        """All images that something is known of, open or not."""
        return iter(list(self._images.values()))

    def forget(self, key: Hashable, *, keep_settings: bool = True) -> None:
        """Nobody has the image *key* open: drop it, as soon as it owes nothing.

        What was said of it (limits, group, weight) is a reason to keep it unless *keep_settings*
        is false, for a caller that would say the same again.
        """
        now = self.clock()
        self._drop_forgotten(now)
        image = self._images.get(key)
        if image is None:
            return
        said = (image.own_limits, image.own_group, image.own_weight)
        if keep_settings and any(word is not None for word in said):
            return
        image.forgotten = True
        self._remember_until_paid(image, now)

    def _remember_until_paid(self, image: Image, now: int) -> None:
        image.settle()
        until = image.meter.owed_until()
        if until <= now and not any(image.waiting):
            del self._images[image.key]
            if image.parent is not None:
                self.scheduler.change_parent(image, None, now)
            return
        if not image.remembered:  # however often it is closed meanwhile
            image.remembered = True
            self._forgotten_count += 1
            heappush(self._forgotten, (max(until, now + 1), self._forgotten_count, image))

    def _drop_forgotten(self, now: int) -> None:
        while self._forgotten and self._forgotten[0][0] <= now:
            image = heappop(self._forgotten)[2]
            image.remembered = False
            if image.forgotten and self._images.get(image.key) is image:
                self._remember_until_paid(image, now)

    # Requests.

    def enqueue(self, image: Image, request: Request) -> None:
        """Let *request*, whose owner is the current task, wait; for `Image.admit` only."""
        now = self.clock()
        scheduler = self.scheduler
        scheduler.enqueue(image, request, now)
        if scheduler.next_due <= now:
            self._release(now, arriving=request)
        elif scheduler.next_due < self._alarm_at:
            self._set_alarm()

    def refund(self, image: Image, direction: int, nbytes: int, done: int) -> None:
        """Charge no more than the *done* bytes that were moved; for `Image.refund` only."""
        self.scheduler.refund(image, direction, nbytes, done, self.clock())
        self._after_change()

    def withdraw(self, request: Request) -> None:
        """Let *request* leave its queue uncharged; for `Image.admit` only."""
        self.scheduler.withdraw(request, self.clock())
        self._set_alarm()

    def release_due(self) -> None:
        """Let everything go that is due now; next to nothing to do when nothing is."""
        if self.scheduler.next_due < NEVER:
            now = self.clock()
            if self.scheduler.next_due <= now:
                self._release(now)

    poll = release_due

    def next_due(self) -> int:
        """The instant (ns) before which `poll` has nothing to do."""
        return self.scheduler.next_due

    def fileno(self) -> int:
        """The alarm's descriptor: readable when `poll` has something to do.

        Whoever watches it and calls `poll` needs no `run`.
        """
        return self._alarm.fileno()

    def before_sleep(self) -> None:
        """Nothing to do: the alarm is set whenever what is due next changes."""

    def lead_alarm(self, lead_ns: int) -> None:
        """Let the alarm go off *lead_ns* early, for a loop that watches the clock from then on."""
        self.alarm_lead = lead_ns
        self._alarm_at = NEVER
        self._set_alarm()

    async def run(self) -> None:
        """Let requests go when they are due, until cancelled."""
        while True:
            await self._alarm.wait()
            self._alarm_at = NEVER
            self.release_due()
            self._set_alarm()

    def _release(self, now: int, arriving: Request | None = None) -> None:
        for request in self.scheduler.release_due(now):
            if request is not arriving:
                waiting.wake(request.owner, now - request.arrived)
        self._set_alarm()

    def _set_alarm(self) -> None:
        instant = self.scheduler.next_due
        if instant != self._alarm_at:
            self._alarm_at = instant
            self._alarm.set(None if instant == NEVER else instant - self.alarm_lead)

    # Draining.

    def open_gates(self) -> None:
        """Let everything go that waits, and let nothing wait until the gates are closed."""
        self.gates_open = True
        now = self.clock()
        for image in self._images.values():
            image.free = [True, True]
        for request in self.scheduler.release_all(self._images.values(), now):
            waiting.wake(request.owner, now - request.arrived)
        self._set_alarm()

    def close_gates(self) -> None:
        """Hold requests to the limits again; what went in between was not charged."""
        self.gates_open = False
        for image in self._images.values():
            self._refresh_free(image)

    # Limits.

    def set_default(
        self, limits: Limits, *, group: str | None = None, weight: int = DEFAULT_WEIGHT
    ) -> None:
        """Set what holds for every image of which nothing else is said, from now on.

        Raises `UnknownGroupError` and `WeightError`.
        """
        if group is not None:
            self.group(group)
        self.check_weight(weight)
        self.default_limits = limits
        self.default_group = group
        self.default_weight = weight
        for image in self._images.values():
            self._apply(image)
        self._after_change()

    def apply(self, image: Image) -> None:
        """Hold *image* to what was said of it, else to the default."""
        self._apply(image)
        self._after_change()

    def _apply(self, image: Image) -> None:
        image.settle()
        now = self.clock()
        limits = image.own_limits if image.own_limits is not None else self.default_limits
        name = image.own_group if image.own_group is not None else self.default_group
        weight = image.own_weight if image.own_weight is not None else self.default_weight
        if weight != image.weight:
            self.scheduler.change_weight(image, weight, now)
        self.scheduler.change_parent(image, self.group(name) if name else None, now)
        if limits != image.meter.limits:
            self.scheduler.change_limits(image, limits, now)
        self._refresh_free(image)

    @contextmanager
    def changes(self) -> Iterator[None]:
        """Make several changes at once: nothing goes before the last of them is made.

        Otherwise what waits might slip through a state in between, such as an image that has lost
        its own limits and is not yet in its group. Do not wait for anything in such a block.
        """
        self._changes += 1
        try:
            yield
        finally:
            self._changes -= 1
            self._after_change()

    def _after_change(self) -> None:
        if not self._changes:
            self.release_due()
            self._set_alarm()

    def _refresh_free(self, node: Node) -> None:
        if isinstance(node, Group):
            for member in node.members:
                self._refresh_free(member)
        elif isinstance(node, Image):
            path = node.find_path()
            node.free = [
                self.gates_open or not any(above.meter.buckets[direction] for above in path)
                for direction in DIRECTIONS
            ]

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
        limits: Limits = Limits(),  # noqa: B008  (frozen)
        *,
        weight: int = DEFAULT_WEIGHT,
        parent: str | None = None,
    ) -> Group:
        """Make a group; images become members by `Image.set_group` or by the default.

        Raises `GroupExistsError`, `UnknownGroupError` (the parent) and `WeightError`.
        """
        if name in self._groups:
            raise GroupExistsError(name)
        self.check_weight(weight)
        above = self.group(parent) if parent is not None else None
        now = self.clock()
        self._drop_removed(now)
        group = self._removed.pop(name) if name in self._removed else Group(name)
        group.weight = weight
        self.scheduler.change_parent(group, above, now)
        self.scheduler.change_limits(group, limits, now)
        self._groups[name] = group
        return group

    def set_group_limits(self, name: str, limits: Limits) -> None:
        """Hold the group to *limits* from now on. Raises `UnknownGroupError`."""
        group = self.group(name)
        self.scheduler.change_limits(group, limits, self.clock())
        self._refresh_free(group)
        self._after_change()

    def set_group_weight(self, name: str, weight: int) -> None:
        """Set its weight among the members of its parent.

        Raises `UnknownGroupError` and `WeightError`.
        """
        group = self.group(name)
        self.check_weight(weight)
        self.scheduler.change_weight(group, weight, self.clock())
        self._after_change()

    def set_group_parent(self, name: str, parent: str | None) -> None:
        """Put the group inside another one, or on its own.

        Raises `UnknownGroupError` and `GroupCycleError`.
        """
        group = self.group(name)
        above = self.group(parent) if parent is not None else None
        if above is not None and group in above.find_path():
            raise GroupCycleError(name, above.name)
        self.scheduler.change_parent(group, above, self.clock())
        self._refresh_free(group)
        self._after_change()

    def remove_group(self, name: str) -> None:
        """Remove a group without members; made again, it owes what it owed.

        Raises `UnknownGroupError` and `GroupInUseError`.
        """
        group = self.group(name)
        if name == self.default_group:
            raise GroupInUseError(name, "it is the mount's default")
        if group.members:
            raise GroupInUseError(name, f"it has {len(group.members)} members")
        for image in self._images.values():
            if image.own_group == name:
                raise GroupInUseError(name, "an image is told to be in it")
        now = self.clock()
        self.scheduler.change_parent(group, None, now)
        del self._groups[name]
        self._drop_removed(now)
        self._removed[name] = group

    def _drop_removed(self, now: int) -> None:
        for name in [name for name, group in self._removed.items() if not group.owes(now)]:
            del self._removed[name]

    @staticmethod
    def check_weight(weight: int) -> None:
        """Raise `WeightError` unless *weight* is a whole number from 1 to 10,000."""
        if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= MAX_WEIGHT:
            raise WeightError(weight)
