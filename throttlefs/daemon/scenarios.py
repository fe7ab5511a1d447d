"""Lets changes and faults begin and end by time: those of the config file, and of a scenario."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import trio

from throttlefs.errors import ThrottlefsError
from throttlefs.policy.overlays import Overlay, Overlays
from throttlefs.settings.scenario import Scenario
from throttlefs.settings.timeline import Period

from .faults import MountFaults

log = logging.getLogger("throttlefs")


@dataclass(slots=True)
class _Part:
    """A change or a fault that has its times. *origin*: what they count from (ns)."""

    text: str
    period: Period | None
    origin: int
    overlay: Overlay | None = None
    holds: bool = False

    def is_on(self, now: int) -> bool:
        return self.period is None or self.period.is_on(now - self.origin)

    def next_change(self, now: int) -> float:
        change = None if self.period is None else self.period.next_change(now - self.origin)
        return math.inf if change is None else self.origin + change


class Scenarios:
    """Lets the changes of the config file, and the parts of one scenario, hold in their times.

    *announce* is called with what begins and ends in a scenario, and when it is over.
    """

    def __init__(
        self,
        overlays: Overlays,
        faults: MountFaults,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._overlays = overlays
        self._faults = faults
        self._clock = clock
        self._mounted_at = clock()
        self._of_file: list[_Part] = []
        self._parts: list[_Part] = []  # of the scenario
        self.rules: list[int] = []
        """The numbers of the fault rules of the scenario that runs."""
        self._number = 0  # of the scenario that began last
        self._began = 0
        self._ends = math.inf
        self._is_running = False
        self._news = trio.Event()
        self.announce: Callable[[Mapping[str, Any]], None] = lambda _: None

    def use_file(self, changes: Iterable[Overlay]) -> None:
        """Have the changes of the config file, whose times count from the mount."""
        self._of_file = [
            _Part(str(one.source), one.source.period, self._mounted_at, one) for one in changes
        ]
        self._changed()

    async def start(
        self, scenario: Scenario, overlays: Iterable[Overlay], at_most: int | None
    ) -> tuple[int, Mapping[str, Any]]:
        """Begin with *scenario*, whose changes are *overlays*, for *at_most* ns.

        Returns its number, for `end`. With it come its length, None if it has no end, and the
        numbers of its fault rules. Raises `ThrottlefsError`; nothing has changed then.
        """
        if self._is_running:
            raise ThrottlefsError(
                "a scenario runs already, and only one can at a time: end it first"
            )
        overlays = list(overlays)
        self._overlays.check(overlays)
        now = self._clock()
        rules = self._faults.add_all(scenario.faults, now)
        self.rules = [rule.number for rule in rules]
        self._is_running = True
        self._number += 1
        number = self._number
        self._began = now
        length = scenario.length
        if at_most is not None:
            length = at_most if length is None else min(length, at_most)
        self._ends = math.inf if length is None else now + length
        self._parts = [
            *(_Part(str(one.source), one.source.period, now, one) for one in overlays),
            *(_Part(str(fault), fault.period, now) for fault in scenario.faults),
        ]
        self._changed()
        await self._faults.drop_pages(rules)  # it may have ended after this
        return number, {"length-ns": length, "rules": [rule.number for rule in rules]}

    async def end(self, which: int | None = None) -> None:
        """End the scenario, if one runs, and restore what was; with *which* only that number."""
        if not self._is_running or which not in (None, self._number):
            return
        self._is_running = False
        self._ends = math.inf
        self._parts = []
        rules = [rule for rule in self._faults.rules() if rule.number in self.rules]
        self.rules = []
        self._changed()
        await self._faults.remove([rule.number for rule in rules])
        self.announce(
            {
                "state": "over",
                "elapsed-ns": self._clock() - self._began,
                "rules": [
                    {"text": str(rule.fault), "matched": rule.matched, "fired": rule.fired}
                    for rule in rules
                ],
            }
        )

    async def run(self) -> None:
        """Let everything begin and end in its time; runs until cancelled."""
        while True:
            self._news = trio.Event()
            now = self._clock()
            if now >= self._ends:
                await self.end()
                continue
            self._step()
            due = min((part.next_change(now) for part in self._all()), default=math.inf)
            due = min(due, self._ends)
            with trio.move_on_after(math.inf if due == math.inf else max(0, due - now) / 1e9):
                await self._news.wait()

    def _all(self) -> list[_Part]:
        return [*self._of_file, *self._parts]

    def _changed(self) -> None:
        """Act on other parts at once, and look anew when the next thing is due."""
        self._step()
        self._news.set()

    def _step(self) -> None:
        """Let hold what is to hold now."""
        now = self._clock()
        for part in self._all():
            holds = part.is_on(now)
            if holds is not part.holds:
                part.holds = holds
                state = "begins" if holds else "ends"
                log.info("%s: %s", state, part.text)
                if part in self._parts:
                    elapsed = now - self._began
                    self.announce({"state": state, "elapsed-ns": elapsed, "what": part.text})
        self._overlays.set_active(
            part.overlay for part in self._all() if part.overlay is not None and part.holds
        )
