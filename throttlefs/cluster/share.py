"""A group of the limiter as the keeper of its share sees it."""

from __future__ import annotations

from collections.abc import Sequence

from throttlefs.settings.limits import Limits
from throttlefs.throttle import Demand, Rates, SharedGroup, Throttle


class GroupShare:
    """The shared *group* of *throttle*; see `keeper.Shared`."""

    def __init__(self, throttle: Throttle, group: SharedGroup) -> None:
        self._throttle = throttle
        self._group = group

    @property
    def limits(self) -> Limits:
        """The limits of all hosts together, as they were last set here."""
        return self._group.meter.limits

    @property
    def used(self) -> Sequence[float]:
        """Bytes read, bytes written, requests read and written so far."""
        return self._group.used

    def set_limits(self, limits: Limits) -> None:
        """Another host has changed the limits of all."""
        self._throttle.set_group_limits(self._group.name, limits)

    def hold(self, rates: Rates, until: int) -> None:
        """Let the members use *rates* until the instant *until*."""
        self._throttle.hold_group(self._group, rates, until)

    def measure(self) -> Demand:
        """What the members ask for."""
        return self._group.measure(self._throttle.clock())

    def weight(self) -> int:
        """The weights of all members."""
        return self._group.weight_of_members()

    def is_idle(self, after_ns: int) -> bool:
        """Whether nothing waits, nothing went for *after_ns*, and nothing is owed."""
        return self._group.is_idle(self._throttle.clock(), after_ns)

    def is_held_up(self) -> bool:
        """Whether something waits for more than is held."""
        return self._group.is_held_up(self._throttle.clock())
