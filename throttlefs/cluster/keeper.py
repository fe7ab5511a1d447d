"""The rules by which a daemon keeps its part of a shared limit: no I/O, and the clock is handed in.

A daemon uses what its last answer granted, for as long as the lease lasts that began when it *sent*
the call. It renews the lease in good time, and early if

- something asks while it holds nothing, or more than it holds;
- the store hints that others wait for what it has, or that there is more for it;
- a grant made its rates smaller, which counts for the others once it is confirmed;
- it has become idle. Then it sets its rates to 0 first.

At most one call is under way. If a lease is over, and calls have failed for as long as a lease
lasts, the store is *lost*: the daemon goes by `OnLost` until it answers again.

Instants are ns of CLOCK_BOOTTIME.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from throttlefs.settings.limits import Limits
from throttlefs.settings.shared import OnLost
from throttlefs.throttle import NO_DEMAND, NOTHING, Demand, Rates

from .messages import Answer, Call, whole_rates
from .server_clock import ServerClock

_MS: Final = 1_000_000
LEASE_NS: Final = 999 * _MS
"""A little less than the store counts: clocks may run apart by 500 ppm."""

CALL_NS: Final = 150 * _MS
"""After which a call counts as failed; its answer is not used."""

IDLE_AFTER_NS: Final = 25 * _MS
_IDLE_PERIOD_NS: Final = 3_300 * _MS
_SETTLING_NS: Final = 400 * _MS
"""The period until the part for times without the store has settled: below the store's silence."""

_RETRY_NS: Final = 200 * _MS
_ASK_AGAIN_NS: Final = 100 * _MS
_IDLE_SILENCE_NS: Final = 4_000 * _MS
"""For how long calls must have failed before a daemon that holds nothing takes the store for lost.

The store then knows, by its silence, that idle daemons may be at work.
"""

_EARLY_A_SECOND: Final = 10
_EARLY_AT_ONCE: Final = 20
_NEWCOMER: Final = 0.01
"""The part of the limits for a daemon that the store never answered."""

_REMEMBERED_NS: Final = _IDLE_PERIOD_NS + 300 * _MS
"""For how long the store keeps the part of a daemon that holds nothing, even after a loss."""

FOREVER: Final = 1 << 62


class Shared(Protocol):
    """The group on this host."""

    @property
    def limits(self) -> Limits:
        """The limits of all hosts together, as they were last set here."""

    @property
    def used(self) -> Sequence[float]:
        """See `Call.used`."""

    def set_limits(self, limits: Limits) -> None:
        """Another host has changed the limits of all."""

    def hold(self, rates: Rates, until: int) -> None:
        """Let the members use *rates* until the instant *until*."""

    def measure(self) -> Demand:
        """What the members ask for."""

    def weight(self) -> int:
        """The weights of all members."""

    def is_idle(self, after_ns: int) -> bool:
        """Whether nothing waits, nothing went for *after_ns*, and nothing is owed."""

    def is_held_up(self) -> bool:
        """Whether something waits for more than is held."""


class State(Enum):
    """How a daemon stands with the store."""

    STARTING = "starting"
    LEASED = "leased"
    IDLE = "idle"
    OVER = "over"
    """The lease is over; the store has not answered since, and is not yet taken for lost."""
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is to know about a share, for people."""

    state: State = State.STARTING
    since: int = 0
    """When the state began; leases that follow each other are one state."""
    using: Rates = NOTHING
    fallback: float = 0.0
    version: int = 0
    hosts: int = 0
    active: int = 0
    heard: int | None = None
    """When the store last answered."""
    recovering_until: int = 0


class Keeper:
    """Keeps the share of one *group* on this host.

    *changed* is called with the old and the new state. Call `tick` at `wake_at` and after anything
    that happens, then send what `next_call` returns.
    """

    def __init__(
        self,
        group: Shared,
        daemon: str,
        name: str,
        on_lost: OnLost,
        now: int,
        changed: Callable[[State, State], None] = lambda before, after: None,
    ) -> None:
        self._group = group
        self._id = daemon
        self._name = name
        self._on_lost = on_lost
        self._changed = changed
        self._clock = ServerClock()
        self._limits: Limits | None = None  # those of `_version`, None before the first answer
        self._version = 0
        self._serial = 0
        self._sequence = 0
        self._state = State.STARTING
        self._since = now
        self._using = NOTHING
        self._last = NOTHING  # what the last lease granted
        self._until = 0
        self._fallback = 0.0
        self._known_until = now  # until when the store remembers it, whatever it hears
        self._demand = NO_DEMAND
        self._sent: int | None = None  # when the call under way was sent
        self._early = False
        self._next = now
        self._budget = float(_EARLY_AT_ONCE)
        self._budget_at = now
        self._failing_since: int | None = None  # when the first of the calls that failed was sent
        self._last_failed = 0  # when the last of them was sent
        self._hosts = self._active = 0
        self._heard: int | None = None
        self._recovering_until = 0
        group.hold(NOTHING, 0)

    @property
    def standing(self) -> Standing:
        """How things stand."""
        return Standing(
            state=self._state,
            since=self._since,
            using=self._using,
            fallback=self._fallback,
            version=self._version,
            hosts=self._hosts,
            active=self._active,
            heard=self._heard,
            recovering_until=self._recovering_until,
        )

    @property
    def limits(self) -> Limits | None:
        """The limits that all hosts share, None before the first answer."""
        return self._limits

    # What happens.

    def hinted(self) -> None:
        """The store says that a call now would help somebody."""
        self._early = True

    def wanted(self, direction: int) -> None:
        """Something asks in *direction* that the lease does not let pass."""
        if self._state is not State.LOST and not any(self._demand[direction].growing):
            self._early = True

    def tick(self, now: int) -> None:
        """Look at the lease, and at whether the group is idle."""
        if self._state is State.LEASED and now >= self._until:
            self._last, self._using = self._using, NOTHING
            self._enter(State.OVER, now)
            self._early = True
        if self._is_changed():
            self._early = True
        if self._state is not State.LEASED or self._sent is not None:
            return
        if self._group.is_idle(IDLE_AFTER_NS):
            if self._may_call_early(now):
                self._hold(NOTHING, 0)
                self._enter(State.IDLE, now)
                self._early = True
        elif not any(any(flow.growing) for flow in self._demand) and self._group.is_held_up():
            self._early = True

    def next_call(self, now: int) -> Call | None:
        """The call to send now, None if there is none to send."""
        if self._sent is not None:
            return None
        if now < self._next:
            if not (self._early and self._may_call_early(now)):
                return None
            self._budget -= 1
        self._early = False
        self._sent = now
        self._sequence += 1
        self._next = now + _RETRY_NS
        idle = self._state is State.IDLE and self._group.is_idle(0)
        self._demand = NO_DEMAND if idle else self._group.measure()
        return Call(
            id=self._id,
            sequence=self._sequence,
            serial=self._serial,
            clock=self._clock.view(now),
            version=self._version,
            limits=self._group.limits,
            changes=self._is_changed(),
            weight=self._group.weight(),
            fallback=self._fallback,
            using=self._using,
            demand=self._demand,
            used=tuple(self._group.used),
            name=self._name,
            on_lost=self._on_lost.value,
        )

    def answered(self, answer: Answer, now: int) -> None:
        """The store has answered the call under way."""
        sent, self._sent = self._sent, None
        if sent is None or now - sent > CALL_NS:
            self._fail(sent, now)
            return
        self._failing_since = None
        self._heard = now
        self._clock.note(answer.now, sent, now)
        self._serial = max(self._serial, answer.serial)
        self._hosts, self._active = answer.hosts, answer.active
        self._recovering_until = now + answer.recovering_us * 1000 if answer.recovering_us else 0
        settled = 0 < answer.fallback == self._fallback and not answer.recovering_us
        self._fallback = answer.fallback
        self._take_limits(answer)
        if self._demand == NO_DEMAND and self._using == NOTHING and self._group.is_idle(0):
            self._hold(NOTHING, 0)
            self._enter(State.IDLE, now)
            self._known_until = sent + _REMEMBERED_NS
            self._next = sent + (_IDLE_PERIOD_NS if settled else _SETTLING_NS)
            return
        self._hold(answer.granted, sent + LEASE_NS)
        self._known_until = self._until
        self._enter(State.LEASED, now)
        self._next = sent + answer.period_us * 1000
        if not any(answer.granted) and any(whole_rates(self._group.limits)):
            self._next = sent + _ASK_AGAIN_NS
        if answer.must_give:
            self._early = True

    def failed(self, now: int) -> None:
        """The call under way has failed, or taken too long."""
        sent, self._sent = self._sent, None
        self._fail(sent, now)

    def wake_at(self, now: int) -> int:
        """When to call `tick` next, if nothing happens before."""
        if self._sent is not None:
            return min(self._sent + CALL_NS, self._until if self._is_leased() else FOREVER)
        instant = self._next
        if self._early:
            instant = min(instant, self._early_at(now))
        if self._is_leased():
            instant = min(instant, self._until, now + IDLE_AFTER_NS)
        return instant

    # The rules.

    def _is_leased(self) -> bool:
        return self._state is State.LEASED

    def _is_changed(self) -> bool:
        """Whether other limits were set on this host."""
        return self._limits is not None and self._group.limits != self._limits

    def _take_limits(self, answer: Answer) -> None:
        self._version = answer.version
        if answer.limits is None:
            return
        changed, self._limits = self._is_changed(), answer.limits
        if not changed:
            self._group.set_limits(answer.limits)

    def _fail(self, sent: int | None, now: int) -> None:
        if sent is None or now - sent > 2 * CALL_NS:
            return  # this process was stopped meanwhile, which says nothing about the store
        if self._failing_since is None or sent - self._last_failed > 2 * _RETRY_NS:
            self._failing_since = sent
        self._last_failed = sent
        failing_for = sent - self._failing_since
        if self._state is State.STARTING:
            self._lose(sent, now)
        elif self._state is State.OVER:
            # All leases that others may have had are over as well, if nobody hears the store.
            if sent >= self._until and failing_for >= LEASE_NS:
                self._lose(sent, now)
        elif self._state is State.IDLE:
            if failing_for >= _IDLE_SILENCE_NS and not self._group.is_idle(0):
                self._lose(sent, now)
        elif self._state is State.LOST:
            self._hold(self._using, sent + LEASE_NS)

    def _lose(self, sent: int, now: int) -> None:
        whole = whole_rates(self._group.limits)
        assert self._failing_since is not None
        if self._failing_since >= self._known_until or not self._fallback:
            # New, or stopped meanwhile: the store may have given its part to others.
            self._fallback = _NEWCOMER
        if self._on_lost is OnLost.SHARE:
            rates = tuple(self._fallback * rate for rate in whole)
        elif self._on_lost is OnLost.OPEN:
            rates = whole
        elif self._on_lost is OnLost.KEEP:
            rates = self._last if self._state is State.OVER else NOTHING
        else:
            rates = NOTHING
        # Not for ever: a process that is stopped meanwhile asks first whether the store is back.
        self._hold(rates, sent + LEASE_NS)
        self._enter(State.LOST, now)

    def _hold(self, rates: Rates, until: int) -> None:
        self._using, self._until = rates, until
        self._group.hold(rates, until)

    def _enter(self, state: State, now: int) -> None:
        if state is not self._state:
            before, self._state, self._since = self._state, state, now
            self._changed(before, state)

    def _may_call_early(self, now: int) -> bool:
        self._budget = min(
            _EARLY_AT_ONCE, self._budget + (now - self._budget_at) * _EARLY_A_SECOND / 1e9
        )
        self._budget_at = now
        return self._budget >= 1

    def _early_at(self, now: int) -> int:
        if self._may_call_early(now):
            return now
        return now + int((1 - self._budget) * 1e9 / _EARLY_A_SECOND) + 1
