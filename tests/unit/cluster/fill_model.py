"""The rules of throttlefs/cluster/fill.lua once more, in Python: how much each host is to have.

Written beside it, rule by rule, so that both add and compare the same numbers in the same order.
`test_script.py` holds the two to the same answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

HANDED_OUT = 0.9

ALL = range(6)
FIRST = (0, 0, 2, 1, 1, 3)
SECOND = (2, None, None, 3, None, None)
"""The streams that each limit counts: of bytes and requests read, bytes and requests written."""


@dataclass
class Record:
    """A host, as the store keeps it: its row of numbers, and the rest of its field."""

    sequence: int
    at: int
    weight: float
    fallback: float
    using: list[float]
    demand: list[float]
    used: list[float]
    name: str
    on_lost: str
    hinted: int = 0
    promised: float = 0.0
    granted: list[float] = field(default_factory=lambda: [0.0] * 6)

    def held(self, limit: int) -> float:
        return max(self.using[limit], self.granted[limit])

    @property
    def active(self) -> bool:
        asks = any(value > 0 for i, value in enumerate(self.demand) if i % 5 != 4)
        return asks or any(self.held(limit) > 0 for limit in ALL)


@dataclass(eq=False)
class _Flow:
    """One direction of a host that asks for something."""

    host: str
    direction: int
    growing: tuple[float, float]
    steady: tuple[float, float]
    full_at: float
    full: bool
    open: bool = True


class Filling:
    """The max-min share of each host: how full the limits get, and who stays where."""

    def __init__(self, hosts: dict[str, Record], cap: list[float]) -> None:
        self.cap = cap
        self.want = {host_id: [0.0] * 4 for host_id in hosts}
        self.fixed = [0.0] * 4
        self.f = 0.0
        self.flows: list[_Flow] = []
        for direction in (0, 1):
            for host_id, host in hosts.items():
                d = host.demand[direction * 5 : direction * 5 + 5]
                if any(amount > 0 for amount in d[:4]):
                    full = d[2] + d[3] <= 0 or d[4] <= 0
                    flow = _Flow(host_id, direction, (d[0], d[1]), (d[2], d[3]), d[4], full)
                    self.flows.append(flow)
        self.steps = sorted({flow.full_at for flow in self.flows if not flow.full})
        self._run()

    def _run(self) -> None:
        done: set[int] = set()
        while any(flow.open for flow in self.flows):
            self._add_up()
            limit, reached = self._next_limit(done)
            while self.steps and self.steps[0] <= reached:
                ends = self.steps.pop(0)
                self.f = max(self.f, ends)
                self._take_step(ends)
                limit, reached = self._next_limit(done)
            if limit is None:
                break
            self.f = reached
            done.add(limit)
            for flow in self.flows:
                kind = limit // 3
                is_limited = flow.direction * 2 + kind in (FIRST[limit], SECOND[limit])
                rises = flow.growing[kind] > 0 or (not flow.full and flow.steady[kind] > 0)
                if is_limited and rises:
                    self._stay(flow, self.f)
        for flow in self.flows:
            self._stay(flow, 0.0)

    def _add_up(self) -> None:
        self.rise, self.stand, self.rising = [0.0] * 4, [0.0] * 4, [0] * 4
        for flow in self.flows:
            for kind in (0, 1) if flow.open else ():
                s, rises = flow.direction * 2 + kind, flow.growing[kind]
                if flow.full:
                    self.stand[s] += flow.steady[kind]
                else:
                    rises += flow.steady[kind] / flow.full_at
                if rises > 0:
                    self.rising[s] += 1
                    self.rise[s] += rises

    def _next_limit(self, done: set[int]) -> tuple[int | None, float]:
        limit, reached = None, math.inf
        for d in ALL:
            slope = self.of(self.rise, d)
            if self.cap[d] > 0 and d not in done and slope > 0:
                taken = self.of(self.fixed, d) + self.of(self.stand, d)
                instant = max(self.f, (self.cap[d] - taken) / slope)
                if instant < reached:
                    limit, reached = d, instant
        return limit, reached

    def _take_step(self, ends: float) -> None:
        flows = [flow for flow in self.flows if not flow.full and flow.full_at == ends]
        for flow in reversed(flows):
            flow.full = True
            for kind, steady in enumerate(flow.steady if flow.open else ()):
                s = flow.direction * 2 + kind
                if steady > 0:
                    self.stand[s] += steady
                    if flow.growing[kind] == 0:
                        self.rising[s] -= 1
                    left = max(0.0, self.rise[s] - steady / ends)
                    self.rise[s] = left if self.rising[s] else 0.0

    def _stay(self, flow: _Flow, part: float) -> None:
        if not flow.open:
            return
        flow.open = False
        of_steady = 1.0 if flow.full else part / flow.full_at
        for kind in (0, 1):
            s = flow.direction * 2 + kind
            amount = flow.growing[kind] * part + flow.steady[kind] * of_steady
            self.want[flow.host][s] = amount
            self.fixed[s] += amount

    @staticmethod
    def of(streams: list[float], limit: int) -> float:
        """What the streams that *limit* counts have together."""
        second = SECOND[limit]
        return streams[FIRST[limit]] + (0.0 if second is None else streams[second])


def fill(hosts: dict[str, Record], cap: list[float]) -> tuple[dict[str, list[float]], int]:
    """What each host is to have of each limit, and how many are active."""
    filling = Filling(hosts, cap)
    active = [host_id for host_id, host in hosts.items() if host.active]
    weights = 0.0
    for host_id in active:
        weights += hosts[host_id].weight
    more = [0.0] * 6
    for d in ALL:
        rest = cap[d] - filling.of(filling.fixed, d)
        if cap[d] > 0 and rest > 0 and weights > 0:
            more[d] = HANDED_OUT * rest / weights
    want = {}
    for host_id, host in hosts.items():
        streams, weight = filling.want[host_id], host.weight if host.active else 0.0
        want[host_id] = [filling.of(streams, d) + more[d] * weight for d in ALL]
    return want, len(active)
