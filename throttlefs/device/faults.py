"""Decides which requests a fault happens to. Pure: the clock is handed in.

Rules are asked in their order. A rule counts each request that matches it; the first rule whose
count says so fires, and those after it do not count this request. What a rule does follows from
its seed, its number and its counts alone: the same requests in the same order get the same faults.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Final

from throttlefs.settings.fault_words import Effect, Op
from throttlefs.settings.faults import Fault
from throttlefs.settings.globset import GlobSet

from .damage import Piece, Pieces, draw, torn_length

_CERTAIN: Final = 1 << 64
_NO_END: Final = 1 << 63
_READ: Final = int(Op.READ)
_WRITE: Final = int(Op.WRITE)
_TORN: Final = 1 << 63
"""A bit of the seed: how much of a write is kept is drawn apart from whether it is torn."""


class NoSuchRuleError(LookupError):
    """There is no rule of that number."""


class Rule:
    """A fault with its number, its counts and what it has damaged.

    *origin* is the instant (ns) that its period counts from.
    """

    def __init__(self, number: int, fault: Fault, origin: int) -> None:
        self.number = number
        self.fault = fault
        self.ops = int(fault.ops)  # operations on the members of an enum take long
        first, end = fault.range or (0, None)
        self._first = first
        self._end = _NO_END if end is None else end
        self._has_range = fault.range is not None
        self.period = fault.period
        self.matched = 0
        """How many requests have matched it."""
        self.fired = 0
        self.seed = fault.seed or 0
        self.damaged: dict[Hashable, Pieces] = {}
        """The bytes of each file that a read got wrong, and will again."""
        self._origin = origin
        self._globs = GlobSet(fault.globs) if fault.globs else None
        self._below = _CERTAIN
        if fault.probability is not None:
            self._below = int(fault.probability * _CERTAIN)
        triggers = (fault.nth, fault.every, fault.after, fault.times, fault.probability)
        # Without a count each read in range is damaged anyway, so nothing has to be remembered.
        counts = any(trigger is not None for trigger in triggers)
        self.remembers = fault.effect is Effect.CORRUPT and counts
        """Whether it keeps what it has damaged."""

    @property
    def span(self) -> tuple[int, int]:
        """Before the first of these offsets, and from the second on, nothing matches.

        A request of no length at offset 0 is behind -1.
        """
        return (self._first if self._has_range else -1), self._end

    def takes(self, path: str) -> bool:
        """Whether requests on the file at *path* may match."""
        return self._globs is None or self._globs.first(path) is not None

    def touches(self, offset: int, length: int) -> bool:
        """Whether a request of *length* at *offset* (bytes) is in the rule's range."""
        return not self._has_range or (offset < self._end and offset + length > self._first)

    def is_on(self, now: int) -> bool:
        """Whether its period, if it has one, holds at *now* (ns)."""
        period = self.period
        return period is None or period.is_on(now - self._origin)

    def next_change(self, now: int) -> int | None:
        """The instant (ns) after *now* at which its period begins or ends; None if never."""
        period = self.period
        change = None if period is None else period.next_change(now - self._origin)
        return None if change is None else self._origin + change

    def count(self) -> bool:
        """Count one request that matches; returns whether the rule fires for it."""
        self.matched += 1
        fault = self.fault
        counted = self.matched - (fault.after or 0)
        if counted <= 0 or (fault.times is not None and self.fired >= fault.times):
            return False
        if fault.nth is not None and counted != fault.nth:
            return False
        if fault.every is not None and counted % fault.every:
            return False
        if self._below < _CERTAIN and draw(self.seed, self.number, self.matched) >= self._below:
            return False
        self.fired += 1
        return True

    def pieces(self, offset: int, length: int) -> list[Piece]:
        """The part of a request that is in the rule's range; one piece or none."""
        first, end = max(self._first, offset), min(self._end, offset + length)
        return [(first, end)] if first < end else []

    def damage(self, key: Hashable, offset: int, length: int) -> list[Piece]:
        """What of a read of *length* at *offset* of the file *key* was damaged before."""
        found = self.damaged.get(key)
        return [] if found is None else found.within(offset, offset + length)

    def remember(self, key: Hashable, offset: int, length: int) -> None:
        """Note that a read was damaged, so that the same bytes come back the same way."""
        if self.remembers:
            pieces = self.damaged.setdefault(key, Pieces())
            for first, end in self.pieces(offset, length):
                pieces.add(first, end)


@dataclass(frozen=True, slots=True)
class Firing:
    """That a rule has fired for a request."""

    rule: Rule
    count: int
    """Which of the requests that matched the rule it is."""

    def torn_length(self, offset: int, length: int) -> int:
        """How many bytes of a torn write are kept."""
        drawn = draw(self.rule.seed | _TORN, self.rule.number, self.count)
        return torn_length(offset, length, self.rule.fault.value, drawn)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The rules that may match requests on one file, while `FaultTable.generation` is the same."""

    generation: int
    ops: int
    """The operations of all of them, as the bits of `Op`."""
    rules: tuple[Rule, ...]
    remembers: bool
    """Whether one of them keeps what it has damaged."""
    reads: tuple[int, int]
    """Reads that end at or before the first of these offsets match none of them, nor do those that
    begin at or after the second."""
    writes: tuple[int, int]
    """The same of writes that need not be durable."""


class FaultTable:
    """All rules of a mount. *clock* tells the present in ns."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._rules: dict[int, Rule] = {}
        self._last_number = 0
        self.generation = 0
        """Changes whenever the rules do."""

    def __len__(self) -> int:
        return len(self._rules)

    def rules(self) -> list[Rule]:
        """All rules in their order."""
        return list(self._rules.values())

    def get(self, number: int) -> Rule:
        """The rule *number*. Raises `NoSuchRuleError`."""
        try:
            return self._rules[number]
        except KeyError:
            raise NoSuchRuleError(number) from None

    def add(self, fault: Fault, origin: int | None = None) -> Rule:
        """Add a rule behind all others; its period counts from *origin* (ns), or from now."""
        self._last_number += 1
        rule = Rule(self._last_number, fault, self._clock() if origin is None else origin)
        self._rules[rule.number] = rule
        self.generation += 1
        return rule

    def remove(self, number: int) -> Rule:
        """Remove the rule *number*. Raises `NoSuchRuleError`."""
        rule = self.get(number)
        del self._rules[number]
        self.generation += 1
        return rule

    def candidates(self, *paths: str) -> Candidates:
        """The rules that may match requests on a file that has any of *paths*."""
        rules = tuple(
            rule for rule in self._rules.values() if any(rule.takes(path) for path in paths)
        )
        ops = 0
        for rule in rules:
            ops |= rule.ops
        return Candidates(
            self.generation,
            ops,
            rules,
            any(rule.remembers for rule in rules),
            _span(rule for rule in rules if rule.ops & _READ),
            _span(rule for rule in rules if rule.ops & _WRITE),
        )

    def match(self, found: Candidates, ops: int, offset: int = 0, length: int = 0) -> Firing | None:
        """Count a request in the rules that match it; returns that of the first that fires.

        *ops*: what it asks for, as the bits of `Op`. *offset* and *length* (bytes): what it
        touches, where it does.
        """
        if not ops & found.ops:
            return None
        now = -1
        for rule in found.rules:
            if not rule.ops & ops or not rule.touches(offset, length):
                continue
            if rule.period is not None:
                if now < 0:
                    now = self._clock()
                if not rule.is_on(now):
                    continue
            if rule.count():
                return Firing(rule, rule.matched)
        return None

    def damage(
        self, found: Candidates, key: Hashable, offset: int, length: int
    ) -> list[tuple[Rule, list[Piece]]]:
        """What a read of the file *key* gets wrong because an earlier one did."""
        if not found.remembers:
            return []
        damages = []
        for rule in found.rules:
            if rule.damaged and rule.is_on(self._clock()):
                pieces = rule.damage(key, offset, length)
                if pieces:
                    damages.append((rule, pieces))
        return damages

    def forget(self, key: Hashable) -> None:
        """Forget the damage of a file that is gone; its key may be another's soon."""
        for rule in self._rules.values():
            rule.damaged.pop(key, None)

    def next_change(self) -> int | None:
        """The instant (ns) at which the next period begins or ends; None if none does."""
        now = self._clock()
        changes = [rule.next_change(now) for rule in self._rules.values()]
        return min((change for change in changes if change is not None), default=None)


def _span(rules: Iterable[Rule]) -> tuple[int, int]:
    """Outside of which none of *rules* matches."""
    spans = [rule.span for rule in rules]
    return min((first for first, _ in spans), default=_NO_END), max(
        (end for _, end in spans), default=0
    )
