"""Decides when the session loop watches the clock, looks for events, sleeps, or yields to trio.

Falling asleep and waking up take some 25 us each, more than a cached request, and a timer wakes a
sleeper 30 to 100 us late. So the loop looks for events instead of sleeping while they come fast,
and watches the clock for the last `lead_ns` before a request is due. Both use a CPU that others may
need. On a single CPU the client could not ask for more meanwhile, so the loop does neither there.

Pure: instants (ns, monotonic) go in, a `Step` comes out. The alarm of the limiter is set to go
off `lead_ns` early; `Pacing` is the one owner of that number.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

MAX_TURN_NS: Final = 1_000_000
"""How long the loop goes on before trio's other tasks get a turn."""

SPIN_NS: Final = 200_000
"""How long the loop looks for the next event before it sleeps, while events come that fast.

At queue depth 1, looking instead of sleeping took cached 4 KiB reads from 15,000 to 35,000 a
second. O_DIRECT writes to a disk that takes 60 us went from 8,500 (no looking) to 10,000 (100 us)
and 10,800.
"""

LEAD_NS: Final = 100_000
"""How long before a request is due the loop wakes up to watch the clock.

Of iops=3000 at queue depth 1 the slowest 1 % took 379 us with 60 us of this, and 363 us with 100
us (at 27 and 40 % of a CPU).
"""

_NOTHING_DUE_NS: Final = 1 << 60
"""ns: longer than the limiter holds anything."""


class Step(Enum):
    """What the loop does next when it has nothing to do."""

    TURN = "give trio's other tasks a turn"
    WATCH = "look for events until `look_until`"
    LOOK = "look for events until `look_until`, then sleep for up to 1 ms, outside of trio"
    NAP = "sleep for up to 1 ms, outside of trio"
    SLEEP = "sleep in trio"


class Pacing:
    """Decides `next_step` by the times of past events and the number of CPUs.

    ``look_until``: the instant until which a step looks for events.
    """

    def __init__(self, cpus: float) -> None:
        self.lead_ns = 0
        self.look_until = 0
        self._spin_ns = 0
        self._turn_ends = 0
        self._last_event = 0
        self._began = 0  # when the present step was chosen
        self._until_due = 0
        # How long nothing had happened before the last event: first while the limiter held nothing,
        # second while it held requests.
        self._gaps = [MAX_TURN_NS, MAX_TURN_NS]
        self.set_cpus(cpus)

    def __repr__(self) -> str:
        return f"<Pacing lead={self.lead_ns} spin={self._spin_ns} gaps={self._gaps}>"

    def set_cpus(self, cpus: float) -> None:
        """The process may use *cpus* CPUs: by affinity, and by quota, which may be a fraction.

        Below two the loop never keeps the CPU from the programs that it waits for. The caller must
        set the alarm anew with the new `lead_ns`.
        """
        alone = cpus < 2
        self._spin_ns = 0 if alone else SPIN_NS
        self.lead_ns = 0 if alone else LEAD_NS

    def turn_is_over(self, now: int) -> bool:
        """Whether trio's other tasks get a turn now, although there is work to do."""
        return now > self._turn_ends

    def turn_was_given(self, now: int) -> None:
        """trio's other tasks have run, until *now*."""
        self._turn_ends = now + MAX_TURN_NS

    def next_step(self, now: int, due: int, threads_work: bool = False) -> Step:
        """What to do at *now*: there is no work, and the limiter's next request is *due*.

        *due* may have passed, and is far away if the limiter holds nothing. *threads_work*: whether
        a thread of this process is at work, which needs Python's lock to finish.
        """
        self._began = now
        until_due = self._until_due = due - now
        turn_is_over = now > self._turn_ends
        if until_due <= self.lead_ns and not (turn_is_over and until_due < -MAX_TURN_NS):
            # The alarm has gone off or is about to, and its event does not come a second time.
            self.look_until = due
            return Step.WATCH
        if turn_is_over:
            # Now, while nothing is due, and not between waking up and the request that is due then.
            return Step.TURN
        if now - self._last_event > MAX_TURN_NS:
            return Step.SLEEP
        if not threads_work and self._gaps[until_due < _NOTHING_DUE_NS] < self._spin_ns:
            self.look_until = now + self._spin_ns
            return Step.LOOK
        return Step.NAP

    def woke(self, now: int) -> None:
        """Note that the step is over at *now*, because something happened."""
        self._last_event = now
        gap = now - self._began
        # The alarm is expected, so it says nothing about how fast other events come.
        expected = gap >= self._until_due - self.lead_ns
        self._gaps[self._until_due < _NOTHING_DUE_NS] = MAX_TURN_NS if expected else gap
