"""When a loop that serves the limiter is to wake up, and whether it need listen before that.

To fall asleep and wake up costs a daemon more than all else that it does for a request, for what
it does then it does with cold caches. So

- the alarm goes off early for a request that nobody waits behind, by the time that it takes to
  wake up: its owner sees how late it goes;
- a backlog is let wait for a moment, so that several of its requests go at once: the slack keeps
  the rate, and who waits in a queue does not see a part of what he waits anyway;
- while nothing that may come could go before the alarm, the loop need not listen (`is_hushed`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .node import NEVER
from .traffic import QUIET_NS

if TYPE_CHECKING:
    from .scheduler import Scheduler

PATIENCE_NS: Final = 1_000_000
"""The longest that a backlog is let wait, and no more than a quarter of what its requests wait."""

MOST_HUSHED_NS: Final = 2_000_000
"""The longest that the loop does not listen: so late another request may be heard."""

_LEAST_NS: Final = 50_000
"""The loop is not hushed for less than this."""


class Wakeups:
    """Plans when the loop that serves *scheduler* wakes up.

    ``due`` is the instant (ns) at which something is due, and ``at`` that for the alarm; both are
    `NEVER` for none. Without a loop, ``lead_ns`` is None, and they are the same. A loop that was
    hushed reads requests from ``listen_at`` on. ``arrivals`` is how many began to wait so far.
    ``is_prompt``: a backlog goes when it is due, and the loop always listens.
    """

    __slots__ = (
        "_last_stranger",
        "_none_before",
        "_scheduler",
        "_strangers",
        "_unheard_since",
        "arrivals",
        "at",
        "due",
        "is_hushed",
        "is_prompt",
        "lead_ns",
        "listen_at",
    )

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.lead_ns: int | None = None
        self.is_prompt = False
        self.due = NEVER
        self.at = NEVER
        self.is_hushed = False
        self.listen_at = 0
        self.arrivals = 0
        self._none_before = 0
        self._unheard_since = 0
        self._strangers = 0
        self._last_stranger = 0

    def plan(self, now: int, taken: int = 0) -> Wakeups:
        """Find ``due``, ``at`` and ``is_hushed``, for a loop that has taken so many requests.

        Those that the limiter did not have to think about are strangers. After one the loop goes on
        listening for a while.
        """
        self.find()
        lead, traffic = self.lead_ns, self._scheduler.traffic
        traffic.unread_ns = traffic.hushed_ns = 0
        if lead is None:
            return self
        if taken - traffic.requests != self._strangers:
            self._strangers = taken - traffic.requests
            self._last_stranger = now
        if now - self._last_stranger >= QUIET_NS and not self.is_prompt:
            self._hush(now, lead, traffic.none_before(now))
        if not self.is_hushed:
            self._unheard_since = 0
        elif not self._unheard_since:
            self._unheard_since = now
        return self

    def find(self) -> None:
        """Find ``due`` and ``at`` alone."""
        scheduler, lead = self._scheduler, self.lead_ns
        due = self.due = self.at = scheduler.next_due
        self.arrivals = scheduler.arrivals
        self.is_hushed = False
        if lead is None or due == NEVER:
            return
        first = scheduler.first_root()
        if first is None or first.waiting[0] + first.waiting[1] == 1:
            self.at = due - lead
        elif not self.is_prompt:
            self.at = due + min(first.last_wait >> 2, PATIENCE_NS)

    def _hush(self, now: int, lead: int, none_before: int) -> None:
        if not none_before:
            return
        if self.due == NEVER:
            # What comes is read when it may go, so it need not even be queued.
            at, self.listen_at = none_before - lead, none_before
        else:
            at = self.listen_at = self.at
        if _LEAST_NS < at - now <= MOST_HUSHED_NS:
            self.at = at
            self.is_hushed = True
            self._none_before = none_before

    def listens_again(self, now: int) -> None:
        """Note that the loop was hushed until *now*; the next `plan` is after what it reads then.

        Who asked meanwhile has been waiting, and counts as if he had asked at once. If the loop
        woke up late, he loses as little of his rate as if he had waited in a queue.
        """
        traffic = self._scheduler.traffic
        if traffic.root is not None:
            traffic.was_late(traffic.root, now - self._none_before, now)
        traffic.unread_ns = traffic.hushed_ns = now - self._unheard_since
        self._unheard_since = 0
