"""Decides when the session loop watches the clock, looks for events, sleeps, or yields to trio.

Falling asleep and waking up take some 25 us each, more than a cached request, and a timer wakes a
sleeper 30 to 100 us late. So the loop looks for events instead of sleeping while they come fast,
and lets the alarm wake it before a request is due, early by what it usually takes. If it wakes up
sooner, it watches the clock for the rest. Looking and watching use a CPU that others may need. So
the loop does not watch for a request that others wait behind, and looks for no events that turn out
to be requests that have to wait. On a single CPU the client could not ask for more meanwhile, so
the loop does neither there.

Pure: instants (ns, monotonic) go in, a `Step` comes out. The alarm of the limiter is set to go
off `lead_ns` before a request that is due alone; `Pacing` is the one owner of that number.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

MAX_TURN_NS: Final = 1_000_000
"""How long the loop goes on before trio's other tasks get a turn."""

MAX_NAP_NS: Final = 2_000_000
"""How long the loop sleeps at most without trio; its other tasks may be that late."""

SPIN_NS: Final = 200_000
"""How long the loop looks for the next event before it sleeps, while events come that fast.

At queue depth 1, looking instead of sleeping took cached 4 KiB reads from 15,000 to 35,000 a
second. O_DIRECT writes to a disk that takes 60 us went from 8,500 (no looking) to 10,000 (100 us)
and 10,800.
"""

NEAR_NS: Final = 10_000
"""The loop does not sleep for less than this: to fall asleep and wake up takes more."""

_STEADY_NS: Final = 2_000
"""A lead is kept while it is no further off than this."""

_NOTHING_DUE_NS: Final = 1 << 60
"""ns: longer than the limiter holds anything."""


class Lateness:
    """Learns how late the alarm wakes the loop, from each time that it did.

    ``usual_ns`` is what `PERCENT` of the wake-ups stay below: it rises by a part of a step for each
    that was later, and falls by the other part for each that was not. So a few that were late by
    milliseconds, because others had the CPU, count no more than any other.
    """

    FIRST_NS: Final = 50_000
    MOST_NS: Final = 100_000
    """So much is reckoned with at most, on a machine that is always late."""
    PERCENT: Final = 75
    """Half of 20,000 wake-ups took 31 us on a quiet machine, 75 % up to 33, 90 % up to 41."""
    _UP_NS: Final = 10 * PERCENT
    _DOWN_NS: Final = 10 * (100 - PERCENT)

    def __init__(self) -> None:
        self.usual_ns = self.FIRST_NS

    def note(self, late_ns: int) -> None:
        """Note that the alarm woke the loop *late_ns* after the instant it was set to."""
        if late_ns > self.usual_ns:
            self.usual_ns = min(self.usual_ns + self._UP_NS, self.MOST_NS)
        else:
            self.usual_ns = max(self.usual_ns - self._DOWN_NS, 0)


class Step(Enum):
    """What the loop does next when it has nothing to do."""

    TURN = "give trio's other tasks a turn"
    WATCH = "look for events until `look_until`"
    LOOK = "look for events until `look_until`, then sleep for up to 2 ms, outside of trio"
    NAP = "sleep for up to 2 ms, outside of trio"
    SLEEP = "sleep in trio"


class Pacing:
    """Decides `next_step` by the times of past events and the number of CPUs.

    ``look_until`` is the instant until which a step looks for events, ``turn_ends`` that after
    which trio's other tasks get a turn although there is work to do. To wake up usually takes
    ``wake_ns``, and the alarm is to go off ``lead_ns`` early.
    """

    def __init__(self, cpus: float) -> None:
        self.wake_ns = 0
        self.lead_ns = 0
        self.look_until = 0
        self._lateness = Lateness()
        self._is_single = False
        self._spin_ns = 0
        self._near_ns = 0
        self.turn_ends = 0
        self._last_event = 0
        self._began = 0  # when the present step was chosen
        self._until_alarm = 0
        self._sleeps = False  # whether the present step sleeps
        self._arrivals = 0
        # How long nothing had happened before the last event: first while the limiter held nothing,
        # second while it held requests.
        self._gaps = [MAX_TURN_NS, MAX_TURN_NS]
        self.set_cpus(cpus)

    def __repr__(self) -> str:
        return f"<Pacing lead={self.lead_ns} spin={self._spin_ns} gaps={self._gaps}>"

    def set_cpus(self, cpus: float) -> None:
        """The process may use *cpus* CPUs: by affinity, and by quota, which may be a fraction.

        Below two the loop never keeps the CPU from the programs that it waits for. The caller must
        tell the limiter the new `lead_ns`.
        """
        self._is_single = cpus < 2
        self._spin_ns = 0 if self._is_single else SPIN_NS
        self._near_ns = 0 if self._is_single else NEAR_NS
        self._take(self._lateness.usual_ns)

    def _take(self, wake_ns: int) -> None:
        self.wake_ns = wake_ns
        self.lead_ns = 0 if self._is_single else wake_ns

    def turn_was_given(self, now: int) -> None:
        """trio's other tasks have run, until *now*."""
        self.turn_ends = now + MAX_TURN_NS

    def next_step(
        self,
        now: int,
        due: int,
        wake_at: int,
        *,
        hushed: bool = False,
        arrivals: int = 0,
        threads_work: Callable[[], bool] = bool,
    ) -> Step:
        """What to do at *now*: there is no work, and the limiter's next request is *due*.

        The alarm goes off at *wake_at*. Both may have passed, and are far away if the limiter holds
        nothing. *hushed*: no request that comes before that could go. *arrivals*: how many requests
        have begun to wait in the limiter so far. *threads_work*: whether a thread of this process
        is at work, which needs Python's lock to finish.
        """
        if arrivals != self._arrivals:
            # The last event brought a request that has to wait, and could have come later.
            self._arrivals = arrivals
            self._gaps[self._until_alarm < _NOTHING_DUE_NS] = MAX_TURN_NS
        self._began = now
        self._sleeps = False
        until_alarm = self._until_alarm = wake_at - now
        turn_is_over = now > self.turn_ends
        if until_alarm <= self._near_ns and not (turn_is_over and due - now < -MAX_TURN_NS):
            # The alarm has gone off or is about to, and its event does not come a second time.
            self.look_until = wake_at if hushed or due < wake_at else due
            return Step.WATCH
        if turn_is_over:
            # Now, while nothing is due, and not between waking up and the request that is due then.
            return Step.TURN
        if now - self._last_event > MAX_TURN_NS:
            self._sleeps = True
            return Step.SLEEP
        if (
            not (hushed or threads_work())
            and self._gaps[until_alarm < _NOTHING_DUE_NS] < self._spin_ns
        ):
            self.look_until = now + self._spin_ns
            return Step.LOOK
        self._sleeps = True
        return Step.NAP

    def woke(self, now: int) -> None:
        """Note that the step is over at *now*, because something happened."""
        self._last_event = now
        gap = now - self._began
        until_alarm = self._until_alarm
        # The alarm is expected, so it says nothing about how fast other events come.
        expected = gap >= until_alarm
        if expected and self._sleeps and until_alarm > 0:
            self._lateness.note(gap - until_alarm)
            usual = self._lateness.usual_ns
            if not -_STEADY_NS < usual - self.wake_ns < _STEADY_NS:
                self._take(usual)
        self._gaps[until_alarm < _NOTHING_DUE_NS] = MAX_TURN_NS if expected else gap
