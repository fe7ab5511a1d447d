"""Decides which blocking calls may run, fairly among their owners, with room for others.

A call may be stuck for a long time: a lease in SRC delays an open(2) for 45 s, a dead server for
ever. So stuck calls do not count, up to a bound, and nobody gets the last places.

The module neither waits nor reads a clock: the caller passes instants, in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Call = TypeVar("Call", bound=Hashable)

_PRIVILEGED = (None, 0)
"""Owners without a share: the daemon itself and root."""

_RESERVE = 8
"""One in so many of the most places is for privileged owners only: a person may be many users."""


class _Owner(Generic[Call]):
    """The calls of one owner."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Call] = deque()
        self.running = 0


class FairQueue(Generic[Call]):
    """Calls that wait and calls that run.

    There are *places* for calls. A call that has been running for *stuck_after* seconds needs no
    place, until *most* calls run. Owners take turns. An owner with a running call gets neither the
    last free place nor more places than are left for others.
    """

    def __init__(self, places: int, most: int, stuck_after: float) -> None:
        self._places = places
        self._most = most
        self._most_of_users = most - most // _RESERVE
        self._stuck_after = stuck_after
        self._owners: dict[int | None, _Owner[Call]] = {}
        self._turns: deque[int | None] = deque()  # owners with calls that wait
        self._running: dict[Call, tuple[float, int | None]] = {}  # in the order of their beginning
        self._running_of_users = 0

    @property
    def running(self) -> int:
        """How many calls run."""
        return len(self._running)

    @property
    def any_waiting(self) -> bool:
        """Whether a call waits."""
        return bool(self._turns)

    def put(self, call: Call, owner: int | None) -> None:
        """Queue *call* behind the other calls of its *owner* (a user id; None: the daemon)."""
        calls = self._owners.get(owner)
        if calls is None:
            calls = self._owners[owner] = _Owner()
        if not calls.waiting:
            self._turns.append(owner)
        calls.waiting.append(call)

    def take(self, now: float) -> Call | None:
        """The next call that may begin, which counts as running from *now* on; None if none may."""
        if not self._turns:
            return None
        free = self._places - len(self._running)
        if free <= 1:  # stuck calls matter only then
            free += self._stuck(now)
            free = min(free, self._most - len(self._running))
        if free < 1:
            return None
        for place, owner in enumerate(self._turns):
            if self._may_begin(owner, free):
                del self._turns[place]
                return self._begin(owner, now)
        return None

    def _may_begin(self, owner: int | None, free: int) -> bool:
        if owner in _PRIVILEGED:
            return True
        left = self._most_of_users - self._running_of_users
        running = self._owners[owner].running
        return left > 0 and (running == 0 or (free > 1 and running < left))

    def _begin(self, owner: int | None, now: float) -> Call:
        calls = self._owners[owner]
        call = calls.waiting.popleft()
        if calls.waiting:
            self._turns.append(owner)
        calls.running += 1
        if owner not in _PRIVILEGED:
            self._running_of_users += 1
        self._running[call] = now, owner
        return call

    def done(self, call: Call) -> None:
        """Note that *call* has ended."""
        _, owner = self._running.pop(call)
        if owner not in _PRIVILEGED:
            self._running_of_users -= 1
        calls = self._owners[owner]
        calls.running -= 1
        if not calls.running and not calls.waiting:
            del self._owners[owner]

    def any_stuck(self, now: float) -> bool:
        """Whether a call has been running for long."""
        for began, _ in self._running.values():  # the first is the oldest
            return began <= now - self._stuck_after
        return False

    def _stuck(self, now: float) -> int:
        count, before = 0, now - self._stuck_after
        for began, _ in self._running.values():
            if began > before:
                break
            count += 1
        return count

    def next_look(self, now: float) -> float | None:
        """When `take` may have a call although none has ended; None: not before one ends."""
        if not self._turns:
            return None
        stuck = self._stuck(now)
        if stuck == len(self._running) or self._places + stuck >= self._most:
            return None
        began = [began for began, _ in self._running.values()]
        return began[stuck] + self._stuck_after

    def take_all(self) -> Iterator[Call]:
        """All waiting calls, in order, even if they may not begin; they count as running then."""
        while self._turns:
            yield self._begin(self._turns.popleft(), 0.0)
