"""When the session loop watches the clock, looks for events, sleeps, or gives trio its turn.

To sleep and be woken takes some 25 us on either side, more than a cached request, and a timer
wakes a sleeper 30 to 100 us late. So the loop looks instead of sleeping while events come fast,
and watches the clock for the last `lead_ns` before a request is due. Both cost a CPU that others
may need: on one CPU the client could not ask for more meanwhile, so neither is done there.

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
"""How long before a request is due the loop wakes up and watches the clock.

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
    """Decides `next_step`, from when things happened and how many CPUs there are.

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
        # How long nothing had happened before the last event: while the limiter held nothing,
        # and while it held requests.
        self._gaps = [MAX_TURN_NS, MAX_TURN_NS]
        self.set_cpus(cpus)

    def __repr__(self) -> str:
        return f"<Pacing lead={self.lead_ns} spin={self._spin_ns} gaps={self._gaps}>"

    def set_cpus(self, cpus: float) -> None:
        """The process may use *cpus* CPUs: by affinity, and by quota, which may be a fraction.

        Below two the loop never takes the CPU from those that are to make things happen. Whoever
        calls this sets the alarm anew with the new `lead_ns`.
        """
        alone = cpus < 2
        self._spin_ns = 0 if alone else SPIN_NS
        self.lead_ns = 0 if alone else LEAD_NS

    def turn_is_over(self, now: int) -> bool:
        """Whether trio's other tasks are to get a turn, though there is work to do."""
        return now > self._turn_ends

    def turn_was_given(self, now: int) -> None:
        """trio's other tasks have run, until *now*."""
        self._turn_ends = now + MAX_TURN_NS

    def next_step(self, now: int, due: int) -> Step:
        """What to do at *now*: there is no work, and the limiter's next request is *due*.

        *due* may have passed, and is far away if the limiter holds nothing.
        """
        self._began = now
        until_due = self._until_due = due - now
        turn_is_over = now > self._turn_ends
        if until_due <= self.lead_ns and not (turn_is_over and until_due < -MAX_TURN_NS):
            # The alarm has gone off, or is about to, and nobody might see it a second time.
            self.look_until = due
            return Step.WATCH
        if turn_is_over:
            # Now, as nothing is due: not between waking up and what it was for.
            return Step.TURN
        if now - self._last_event > MAX_TURN_NS:
            return Step.SLEEP
        if self._gaps[until_due < _NOTHING_DUE_NS] < self._spin_ns:
            self.look_until = now + self._spin_ns
            return Step.LOOK
        return Step.NAP

    def woke(self, now: int) -> None:
        """The step is over at *now*, because something happened."""
        self._last_event = now
        gap = now - self._began
        # The alarm, of which one knows, says nothing about what else may come.
        expected = gap >= self._until_due - self.lead_ns
        self._gaps[self._until_due < _NOTHING_DUE_NS] = MAX_TURN_NS if expected else gap
