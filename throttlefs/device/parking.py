"""Requests that a fault delays, or makes hang: where they wait, and what lets them go on."""

from __future__ import annotations

import errno
import heapq
import os
import time
from collections.abc import Callable
from typing import Any, Final

import trio

from throttlefs import waiting

_LONGEST_SLEEP_NS: Final = 3600 * 10**9


class _Parked:
    """One request that waits for the rule *number*, up to *until* (ns) or without an end."""

    __slots__ = ("number", "until", "waiter")

    def __init__(self, number: int, until: int | None, waiter: Any) -> None:
        self.number = number
        self.until = until
        self.waiter = waiter


class Parking:
    """Holds requests until their time has come, or their rule is gone, or the mount ends.

    `run` must be running. *next_change* tells the instant (ns) of the next change of a period;
    *changed* is called at each.
    """

    def __init__(
        self,
        next_change: Callable[[], int | None],
        changed: Callable[[], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._next_change = next_change
        self._changed = changed
        self._clock = clock
        self._parked: set[_Parked] = set()
        self._timed: list[tuple[int, int, _Parked]] = []  # a heap; some have gone already
        self._order = 0
        self._is_open = False
        self._news = trio.Event()

    def waiting(self, number: int) -> int:
        """How many requests wait for the rule *number*."""
        return sum(one.number == number for one in self._parked)

    async def wait(self, number: int, duration: int | None) -> None:
        """Wait *duration* ns, or without an end (None), for the rule *number*.

        Returns when the time is over or the rule has released it. Raises `OSError`, EIO, if the
        mount ends and the wait has no end of its own.
        """
        goes_on = duration is not None
        if not self._is_open:
            until = None if duration is None else self._clock() + duration
            parked = _Parked(number, until, waiting.current())
            self._parked.add(parked)
            if until is not None:
                self._order += 1
                heapq.heappush(self._timed, (until, self._order, parked))
                self.look_again()

            def abort(_: object) -> trio.lowlevel.Abort:
                self._parked.discard(parked)
                return trio.lowlevel.Abort.SUCCEEDED

            goes_on = await waiting.wait(abort)
        if not goes_on:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def release(self, number: int) -> None:
        """Let all requests go on that wait for the rule *number*."""
        for parked in [one for one in self._parked if one.number == number]:
            self._wake(parked)

    def open_gates(self) -> None:
        """Let nothing wait from now on: the mount is about to end. A hang fails with EIO."""
        self._is_open = True
        for parked in list(self._parked):
            self._wake(parked, goes_on=parked.until is not None)

    def close_gates(self) -> None:
        """Let requests wait again."""
        self._is_open = False

    def _wake(self, parked: _Parked, *, goes_on: bool = True) -> None:
        self._parked.discard(parked)
        waiting.wake(parked.waiter, goes_on)

    def look_again(self) -> None:
        """Look anew when the next thing is due."""
        self._news.set()

    async def run(self) -> None:
        """Let requests go on when their time has come; runs until cancelled."""
        while True:
            self._news = trio.Event()
            now = self._clock()
            while self._timed and self._timed[0][0] <= now:
                parked = heapq.heappop(self._timed)[2]
                if parked in self._parked:
                    self._wake(parked)
            due = [self._timed[0][0]] if self._timed else []
            change = self._next_change()
            if change is not None:
                due.append(change)
            sleep = min(min(due, default=now + _LONGEST_SLEEP_NS) - now, _LONGEST_SLEEP_NS)
            with trio.move_on_after(max(0, sleep) / 1e9):
                await self._news.wait()
            if change is not None and self._clock() >= change:
                self._changed()
