"""A group whose limits other hosts share, and what its members ask of them.

`Group.account` and the others are called for each request of a member, so only a group that is
shared pays for the counting here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from throttlefs.settings.limits import Limits

from .group import Group
from .leaf import Leaf
from .meter import DIRECTIONS
from .node import NEVER, Node
from .shared_meter import SharedMeter

_WINDOW_NS: Final = 50_000_000
"""How long the demand is looked at before it is looked at anew."""

_SHORTEST_NS: Final = 20_000_000
"""What has come in less time than this counts as if it had taken so long."""

_NOTICED_NS: Final = 100_000
"""A member that waited less than this for its turn was not held up: timers are that late."""

_HEADROOM: Final = 1.2
"""What a member that is not held up asks for, in what it uses."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What the members ask for in one direction, as a function of how full the limits are.

    A fill of f gives each member f x its weight of its scarcest limit. Members that are held up ask
    for ``growing`` x f; the others for ``steady``, and for ``steady`` x f / ``full_at`` below a
    fill of ``full_at``. Both are pairs: bytes and requests a second (of ``iops_size``, if there is
    one).
    """

    growing: tuple[float, float] = (0.0, 0.0)
    steady: tuple[float, float] = (0.0, 0.0)
    full_at: float = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked for."""
        return not (any(self.growing) or any(self.steady))


Demand = tuple[Flow, Flow]
"""What is asked for in reads and in writes."""

NO_DEMAND: Final[Demand] = (Flow(), Flow())


class _Tally:
    """What one member did in one direction in this window; ``size`` is a usual one, in bytes."""

    __slots__ = ("bytes", "last_bytes", "last_units", "more", "requests", "size", "waited")

    def __init__(self) -> None:
        self.bytes = self.requests = self.waited = self.size = 0
        self.more = 0.0  # what large requests count beyond one each, by iops_size
        self.last_bytes = self.last_units = 0.0  # rates of the window before

    @property
    def held_up(self) -> bool:
        """Whether most of its requests had to wait for their turn."""
        return 0 < self.requests <= 2 * self.waited

    @property
    def units(self) -> float:
        """The requests, as they count by iops_size."""
        return self.requests + self.more

    def next_window(self, took_ns: int) -> None:
        self.last_bytes = self.bytes * 1e9 / took_ns
        self.last_units = self.units * 1e9 / took_ns
        self.bytes = self.requests = self.waited = 0
        self.more = 0.0


class SharedGroup(Group):
    """A group that holds a part of limits which several hosts share.

    ``on_demand`` is called with the direction when something begins to wait that the lease does not
    let pass, and ``on_change`` when other limits are set.
    """

    __slots__ = (
        "_iops_size",
        "_tallies",
        "_used_before",
        "_window_since",
        "meter",
        "on_change",
        "on_demand",
    )

    meter: SharedMeter

    def __init__(self, name: str, lease_clock: Callable[[], int]) -> None:
        super().__init__(name)
        self.meter = SharedMeter(lease_clock)
        self.buckets = self.meter.buckets
        self.on_demand: Callable[[int], None] = _do_nothing
        self.on_change: Callable[[], None] = _do_nothing
        self._used_before = [0.0, 0.0, 0.0, 0.0]  # what no tally counts any more
        self._tallies: dict[Node, tuple[_Tally, _Tally]] = {}
        self._window_since = 0
        self._iops_size = NEVER  # bytes; no request is as large where there is no iops_size

    def change_limits(self, limits: Limits, now: int) -> None:
        """Share other *limits* from now on."""
        super().change_limits(limits, now)
        self._iops_size = limits.iops_size or NEVER
        self.on_change()

    def own_due_at(self, direction: int, now: int) -> int:
        """See `Node.own_due_at`; a turn that is pending waits for the lease all the same."""
        return NEVER if self.meter.is_over(direction) else super().own_due_at(direction, now)

    def charge(self, direction: int, nbytes: int, now: int, late: int = 0) -> None:
        """See `Node.charge`; what this host left is not made up for, others may have had it."""
        super().charge(direction, nbytes, now)

    # What the members do.

    def remove(self, node: Node) -> None:
        """Let *node* go."""
        super().remove(node)
        self._close(self._tallies.pop(node, ()))

    def enlist(self, member: Node, direction: int, instant: int) -> None:
        """*member* has something waiting: look at it at *instant* (ns) or before."""
        super().enlist(member, direction, instant)
        if member not in self._tallies:
            self._tallies[member] = (_Tally(), _Tally())
        if self.meter.is_over(direction):
            self.on_demand(direction)

    def note_turn(self, member: Node, direction: int, now: int) -> None:
        """Note whether *member*, which is about to go, was held up here."""
        if now - member.places[direction].due_since > _NOTICED_NS:
            self._tally(member, direction).waited += 1
        super().note_turn(member, direction, now)

    def account(
        self, member: Node, direction: int, nbytes: int, now: int, service: int = 0
    ) -> None:
        """Count a request of *member* that goes at *now*, with its *service* (fs) by a device."""
        # For each request: so it counts by hand, and what can wait is reckoned in `used`.
        tallies = self._tallies.get(member)
        tally = self._tally(member, direction) if tallies is None else tallies[direction]
        tally.bytes += nbytes
        tally.requests += 1
        if nbytes > self._iops_size:
            tally.more += nbytes / self._iops_size - 1
        Group.account(self, member, direction, nbytes, now, service)

    def refund(self, member: Node, direction: int, nbytes: int, done: int | None, now: int) -> None:
        """Count only *done* bytes of a request of *member* that was counted as *nbytes*.

        None: do not count it.
        """
        tally = self._tally(member, direction)
        units = self._units(nbytes) - (0 if done is None else self._units(done))
        tally.bytes -= nbytes - (done or 0)
        tally.more -= units
        super().refund(member, direction, nbytes, done, now)

    def _tally(self, member: Node, direction: int) -> _Tally:
        tallies = self._tallies.get(member)
        if tallies is None:
            tallies = self._tallies[member] = (_Tally(), _Tally())
        return tallies[direction]

    def _units(self, nbytes: int) -> float:
        size = self.meter.limits.iops_size
        return nbytes / size if size and nbytes > size else 1

    @property
    def used(self) -> list[float]:
        """All that went: bytes read, bytes written, requests read and written, by iops_size."""
        used = list(self._used_before)
        for tallies in self._tallies.values():
            _add(tallies, used)
        return used

    def _close(self, tallies: Sequence[_Tally]) -> None:
        """Keep what *tallies* have counted so far."""
        _add(tallies, self._used_before)

    # What they ask for.

    def last_active(self) -> int:
        """The instant (ns) at which a request last went."""
        return max(self._last_release)

    def is_idle(self, now: int, after_ns: int) -> bool:
        """Whether nothing waits, nothing went for *after_ns*, and nothing is owed."""
        if any(self.waiting) or now - self.last_active() < after_ns:
            return False
        return self.meter.owed_until() <= now

    def is_held_up(self, now: int) -> bool:
        """Whether something waits at *now* (ns) for more than is held."""
        return any(
            self.waiting[direction] and self._lacks(direction, now) for direction in DIRECTIONS
        )

    def _lacks(self, direction: int, now: int) -> bool:
        if self.meter.is_over(direction) or self.meter.is_used_up(direction):
            return True
        return self.meter.owes_for_long(direction, now) and any(
            self._is_held_up(member, direction, now, over=False) for member in self.members
        )

    def weight_of_members(self) -> int:
        """The weights of all members together; at least one member's usual one."""
        return max(sum(member.weight for member in self.members), 100)

    def measure(self, now: int) -> Demand:
        """What the members ask for at *now* (ns), by what they did recently."""
        took = now - self._window_since
        read, write = (self._flow(direction, took, now) for direction in DIRECTIONS)
        if took >= _WINDOW_NS:
            self._window_since = now
            for member, tallies in list(self._tallies.items()):
                self._close(tallies)
                for tally in tallies:
                    tally.next_window(took)
                if not (any(member.waiting) or any(tally.last_units for tally in tallies)):
                    del self._tallies[member]
        return read, write

    def _flow(self, direction: int, took: int, now: int) -> Flow:
        growing, steady, full_at = [0.0, 0.0], [0.0, 0.0], 0.0
        over = self.meter.is_over(direction)
        used_up = over or self.meter.is_used_up(direction)
        is_short = used_up or self.meter.owes_for_long(direction, now)
        seconds = max(took, _SHORTEST_NS) / 1e9
        for member, tallies in self._tallies.items():
            tally = tallies[direction]
            waits = member.waiting[direction] > 0
            if tally.requests:
                tally.size = max(tally.bytes // tally.requests, 1)
            elif waits and not tally.size:
                tally.size = _size_of_first(member, direction)
            if not tally.size:
                continue
            cost = self._cost(direction, tally.size)
            if not cost:
                continue
            units = self._units(tally.size)
            # That it had to wait before says little while there is time to spare: timers are late.
            if (is_short and self._is_held_up(member, direction, now, over)) or (
                used_up and tally.held_up
            ):
                growing[0] += member.weight * tally.size / cost
                growing[1] += member.weight * units / cost
                continue
            rates = (
                _HEADROOM * max(tally.bytes / seconds, tally.last_bytes, 0.0),
                _HEADROOM * max(tally.units / seconds, tally.last_units, 0.0),
            )
            steady[0] += rates[0]
            steady[1] += rates[1]
            full_at = max(full_at, rates[0] / tally.size * cost / member.weight)
        return Flow((growing[0], growing[1]), (steady[0], steady[1]), full_at)

    def _is_held_up(self, member: Node, direction: int, now: int, over: bool) -> bool:
        """Whether *member* has something waiting that only this group, or one above it, holds."""
        if not member.waiting[direction]:
            return False
        due = member.due_at(direction, now)
        return due is not None and (over or due <= now)

    def _cost(self, direction: int, nbytes: int) -> float:
        """The time (s) that a request takes of the scarcest limit of all hosts together."""
        limits, units = self.meter.limits, self._units(nbytes)
        cost = max(_time(limits.bps, nbytes), _time(limits.iops, units))
        if not cost:
            bps, iops = (
                (limits.bps_wr, limits.iops_wr) if direction else (limits.bps_rd, limits.iops_rd)
            )
            cost = max(_time(bps, nbytes), _time(iops, units))
        return cost


def _add(tallies: Sequence[_Tally], used: list[float]) -> None:
    for direction, tally in enumerate(tallies):
        used[direction] += tally.bytes
        used[2 + direction] += tally.units


def _time(rate: object, amount: float) -> float:
    return amount / float(rate) if rate else 0.0  # type: ignore[arg-type]


def _size_of_first(node: Node, direction: int) -> int:
    """The size (bytes) of some request that waits in *node*."""
    while isinstance(node, Group):
        node = next(member for member in node.members if member.waiting[direction])
    assert isinstance(node, Leaf)
    return node.first(direction).nbytes


def _do_nothing(*_: object) -> None:
    pass
