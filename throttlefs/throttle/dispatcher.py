"""Lets waiting requests go when they are due: the scheduler with a clock, an alarm and waiters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import trio

from throttlefs import waiting

from .alarm import Alarm
from .leaf import Leaf
from .request import Request
from .scheduler import NEVER, Scheduler
from .station import ON_THE_WAY_NS, Ticket
from .wakeups import Wakeups


class Dispatcher:
    """Queues requests, and wakes their owners when the scheduler lets them go.

    *clock* gives ns and never goes back; *alarm* runs on the same clock; *early_ns* is for the
    scheduler. An owner is what
    `waiting.current` returned. Call everything from the thread of the loop that the owners run in.

    A session loop watches `fileno` and calls `poll`; without one, `run` does the same in a task.
    """

    def __init__(self, clock: Callable[[], int], alarm: Alarm, early_ns: int = 0) -> None:
        self.clock = clock
        self.scheduler = Scheduler(early_ns)
        self._alarm = alarm
        self._wakeups = Wakeups(self.scheduler)
        self.plan = self._wakeups.plan
        """See `Wakeups.plan`; a session loop calls it before it sleeps."""
        self._alarm_at = NEVER
        self._changes = 0

    # Requests.

    def enqueue(self, leaf: Leaf, request: Request) -> None:
        """Let *request*, whose owner is the caller, wait.

        A request that turns out to be due goes at once: it does not wait afterwards, and its
        owner is not woken.
        """
        now = self.clock()
        scheduler = self.scheduler
        scheduler.enqueue(leaf, request, now)
        if scheduler.next_due <= now:
            self._release(now, arriving=request)
        elif self._wakeups.lead_ns is None:
            self._set_alarm()

    def withdraw(self, request: Request) -> None:
        """Take *request*, which waits, out of its queue; it is not charged."""
        self.scheduler.withdraw(request, self.clock())
        self._set_alarm()

    # Devices.

    def enqueue_flush(self, leaf: Leaf, ticket: Ticket) -> None:
        """Let a flush, whose owner is the caller, wait for a place of the device."""
        self.scheduler.enqueue_flush(leaf, ticket, self.clock())

    async def finish(self, ticket: Ticket) -> None:
        """Wait until the device is done with *ticket*, as the backing is.

        If that is cancelled, nobody waits any more, but the device works on to the end.
        """
        if not self.scheduler.finish(ticket, self.clock()):
            ticket.owner = waiting.current()
            self._set_alarm()

            def abort(_: object) -> trio.lowlevel.Abort:
                ticket.owner = None
                return trio.lowlevel.Abort.SUCCEEDED

            await waiting.wait(abort)
        else:
            self._after_change()

    def abandon(self, ticket: Ticket) -> None:
        """Note that nobody waits for *ticket* any more."""
        self.scheduler.abandon(ticket, self.clock())
        self._after_change()

    def refund(self, leaf: Leaf, direction: int, nbytes: int, done: int | None) -> None:
        """Charge a request that went as *nbytes* for only the *done* bytes that it moved.

        None: it was withdrawn after all, and counts for nothing.
        """
        self.scheduler.refund(leaf, direction, nbytes, done, self.clock())
        self._after_change()

    def release_all(self, leaves: Iterable[Leaf]) -> None:
        """Let everything go that waits in *leaves*, in order of arrival; it is not charged."""
        now = self.clock()
        for request in self.scheduler.release_all(leaves, now):
            waiting.wake(request.owner, now - request.arrived)
        self._set_alarm()

    def _release(self, now: int, arriving: Request | None = None) -> None:
        for request in self.scheduler.release_due(now):
            if request is not arriving:
                waiting.wake(request.owner, now - request.arrived)
        if self._wakeups.lead_ns is None:  # else the loop calls `before_sleep`
            self._set_alarm()

    # Changes.

    @contextmanager
    def changes(self) -> Iterator[None]:
        """Make several changes at once: nothing goes before the last of them is made.

        Otherwise a waiting request might slip through a state in between. For example, an image
        may have lost its own limits and may not be in its group yet. Do not wait for anything in
        such a block.
        """
        self._changes += 1
        try:
            yield
        finally:
            self._changes -= 1
            self._after_change()

    def _after_change(self) -> None:
        if not self._changes:
            self.poll()
            self._set_alarm()

    # Time.

    def poll(self) -> None:
        """Let everything go that is due now; costs next to nothing if nothing is due."""
        if self.scheduler.next_due < NEVER:
            now = self.clock()
            if self.scheduler.next_due <= now:
                self._release(now)

    def fileno(self) -> int:
        """The alarm's descriptor: it becomes readable when `poll` has something to do."""
        return self._alarm.fileno()

    def pace(self, lead_ns: int, wake_ns: int) -> None:
        """Know that the loop takes *wake_ns* to wake up, and is to wake up *lead_ns* early.

        The program that is answered takes as long.
        """
        self._wakeups.lead_ns = lead_ns
        self.scheduler.early_ns = ON_THE_WAY_NS + wake_ns

    def be_prompt(self) -> None:
        """Read and let go requests as soon as may be, because others measure how long they wait."""
        self._wakeups.is_prompt = True

    def listens_again(self, now: int) -> None:
        """Note that the loop was hushed until *now*; see `Wakeups.listens_again`."""
        self._wakeups.listens_again(now)

    def slept(self, wake_ns: int) -> None:
        """Note that what is read now has been waiting for *wake_ns* while the loop woke up."""
        self.scheduler.traffic.unread_ns = wake_ns

    def before_sleep(self) -> None:
        """Set the alarm as it was planned."""
        instant = self._wakeups.at
        if instant != self._alarm_at:
            self._set(instant)

    async def run(self) -> None:
        """Let requests go when they are due, until cancelled."""
        while True:
            await self._alarm.wait()
            self._alarm_at = NEVER
            self.poll()
            self._set_alarm()

    def _set_alarm(self) -> None:
        self._wakeups.find()
        self.before_sleep()

    def _set(self, instant: int) -> None:
        if instant != NEVER:
            self._alarm.set(instant)
        elif self._alarm_at > self.clock():  # one that has gone off costs nothing more
            self._alarm.set(None)
        self._alarm_at = instant
