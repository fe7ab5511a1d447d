"""Withdraws the requests of programs that are dying: they leave the queue at once, uncharged.

The kernel says by INTERRUPT that a program got a signal. Whether it dies of that, /proc says, which
`TaskReader` reads in a thread of its own. `Owners` decides when to look at whom, and which requests
to withdraw. A withdrawn request gets EINTR.

**Whatever makes a request wait can take part.** It waits by ``throttlefs.waiting.wait`` with a
function that takes the request out of its queue and returns ``Abort.SUCCEEDED``. Then
``waiting.Withdrawn`` is raised where it waits, and passes through the handler, which undoes what it
has charged. The limiter does so (`Image.admit`). What must not be cut short waits with
``waiting.when_done``, as I/O under way does. There is nothing to register.

Nothing is recorded of a request that is served at once, or that waits for its I/O alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping

import trio

from throttlefs.host.task_reader import TaskReader

from .owners import LOOK_NS, MS, NEVER, Owners
from .work import Work


def boot_ns() -> int:
    """ns since boot, the clock by which /proc says when a thread began."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Interrupts:
    """Looks at the owners of what waits, and calls *withdraw* for requests of those that die.

    *waiting* are all requests that wait for something, by their unique numbers. Nobody is looked at
    if /proc does not show our own PID namespace.
    """

    def __init__(
        self,
        waiting: Mapping[int, Work],
        withdraw: Callable[[Work], None],
        reader: TaskReader | None = None,
    ) -> None:
        self._waiting = waiting
        self._withdraw = withdraw
        self._owners = Owners(waiting)
        self._reader = reader or TaskReader()
        self._usable = self._reader.is_usable()
        self._is_deaf = False
        self.doomed: Collection[int] = self._owners.doomed
        """The threads of processes that are known to be dying; it changes as they come and go."""

    def close(self) -> None:
        """Let the threads that read /proc end."""
        self._reader.close()

    def interrupted(self, unique: int) -> None:
        """Note that the kernel has sent INTERRUPT for the request *unique*."""
        if self._usable:
            self._owners.interrupted(unique, boot_ns())
            self._reader.ring()

    def begins_to_wait(self, work: Work) -> None:
        """Note that *work* begins to wait in such a way that it can be withdrawn."""
        work.since = now = boot_ns()
        if self._usable and self._owners.begins_to_wait(work.reply.owner, now):
            # Now, and not in `run`, for the thread may end in a millisecond.
            self._ask(now)
            self._reader.ring()

    def set_deaf(self, is_deaf: bool) -> None:
        """Note whether the loop takes no requests now, and so no INTERRUPT either."""
        if is_deaf is not self._is_deaf:
            self._is_deaf = is_deaf
            self._reader.ring()

    async def run(self, doomed_changed: Callable[[], None]) -> None:
        """Look at owners until cancelled; calls *doomed_changed* if ``doomed`` may have changed."""
        reader = self._reader
        if self._usable:
            reader.start()
        while self._usable:
            self._act()
            doomed_changed()
            with trio.move_on_after(self._pause_s()):
                await trio.lowlevel.wait_readable(reader.fileno())

    def _act(self) -> None:
        """Take in what was seen, withdraw requests, and ask for the looks that are due."""
        owners = self._owners
        for sight in self._reader.answers():
            self._withdraw_all(owners.saw(sight, boot_ns()))
        now = boot_ns()
        if self._is_deaf:
            owners.suspect_all(now)
        self._withdraw_all(owners.sweep(now))
        self._ask(now)

    def _ask(self, now: int) -> None:
        for look in self._owners.looks(now):
            self._reader.ask(look)

    def _withdraw_all(self, uniques: Iterable[int]) -> None:
        for unique in uniques:
            work = self._waiting.get(unique)  # to withdraw one may let another go
            if work is not None:
                self._withdraw(work)

    def _pause_s(self) -> float:
        instant = self._owners.next_look()
        if instant == NEVER and not self._is_deaf:
            return math.inf
        pause = max(instant - boot_ns(), MS)
        return (min(pause, LOOK_NS) if self._is_deaf else pause) / 1e9
