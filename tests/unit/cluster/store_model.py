"""The rules of throttlefs/cluster/store.lua once more, in Python, for simulations.

Written beside it, rule by rule, so that both add and compare the same numbers in the same order.
`test_script.py` holds the two to the same answers.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

LEASE = 1_000_000
IDLE_LEASE = 10_000_000
CLOCK_ERROR = 150_000
SILENCE = 500_000
IDLE_SILENCE = 4_000_000
UNHEARD = 5_000_000
GRANTED = 0.99
HANDED_OUT = 0.9
SHORT = 0.95
OVER = 1.02
HINT_AGAIN = 20_000
BURST_ENDS = 1.5

BYTES = ((0, 1), (0, 2))
UNITS = ((3, 4), (3, 5))
ALL = range(6)


@dataclass
class Record:
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
    lasts: int = LEASE
    promised: float = 0.0
    granted: list[float] = field(default_factory=lambda: [0.0] * 6)
    charged: list[float] = field(default_factory=lambda: [0.0] * 6)

    def held(self, limit: int) -> float:
        return max(self.using[limit], self.granted[limit])

    @property
    def active(self) -> bool:
        asks = any(value > 0 for i, value in enumerate(self.demand) if i % 5 != 4)
        return asks or any(self.held(limit) > 0 for limit in ALL)


@dataclass
class Common:
    server: str
    last: int
    lost: int
    forgot: int
    version: int = 0
    limits: str = ""
    serial: int = 0
    level: list[float] = field(default_factory=lambda: [0.0] * 6)


@dataclass(eq=False)
class _Flow:
    id: str
    direction: int
    growing: tuple[float, float]
    steady: tuple[float, float]
    full_at: float
    number: int
    full: bool = False
    open: bool = True


def parse_limits(words: str) -> list[tuple[float, float, float]]:
    """Rate, burst rate and burst volume of each limit."""
    numbers = [float(word) for word in words.split()] + [0.0] * 18
    return [(numbers[d], numbers[6 + d], numbers[6 + d] * numbers[12 + d]) for d in ALL]


def capacities(limits: list[tuple[float, float, float]], level: list[float]) -> list[float]:
    found = []
    for (rate, burst, volume), used in zip(limits, level, strict=True):
        capacity = rate
        if burst > rate:
            left = max(0.0, volume - used)
            capacity = rate + min(burst - rate, left / (BURST_ENDS * LEASE / 1000000))
        found.append(capacity)
    return found


def fill(hosts: dict[str, Record], cap: list[float]) -> tuple[dict[str, list[float]], int]:
    """The max-min share of each host, and how many are active; *hosts* in order of their ids."""
    flows: list[_Flow] = []
    for host_id, host in hosts.items():
        for direction in (0, 1):
            d = host.demand[direction * 5 : direction * 5 + 5]
            flow = _Flow(host_id, direction, (d[0], d[1]), (d[2], d[3]), d[4], len(flows))
            flow.full = flow.full_at <= 0
            if any(amount > 0 for amount in d[:4]):
                flows.append(flow)
    by_full = sorted(
        (flow for flow in flows if any(amount > 0 for amount in flow.steady)),
        key=lambda flow: (flow.full_at, flow.number),
    )
    want = {host_id: [0.0] * 6 for host_id in hosts}
    done = [False] * 6
    fixed = [0.0] * 6
    f, next_full = 0.0, 0

    def at_fill(flow: _Flow, kind: int) -> float:
        steady = flow.steady[kind]
        if not flow.full:
            steady = steady * f / flow.full_at
        return flow.growing[kind] * f + steady

    def stay(flow: _Flow, amounts: tuple[float, float]) -> None:
        flow.open = False
        for i in (0, 1):
            for kind, limits in enumerate((BYTES[flow.direction], UNITS[flow.direction])):
                want[flow.id][limits[i]] += amounts[kind]
                fixed[limits[i]] += amounts[kind]

    while True:
        while next_full < len(by_full) and by_full[next_full].full_at <= f:
            by_full[next_full].full = True
            next_full += 1
        base, slope = [0.0] * 6, [0.0] * 6
        for flow in flows:
            if not flow.open:
                continue
            for kind, limits in enumerate((BYTES[flow.direction], UNITS[flow.direction])):
                rises, stands = flow.growing[kind], 0.0
                if flow.full:
                    stands = flow.steady[kind]
                elif flow.steady[kind] > 0:
                    rises += flow.steady[kind] / flow.full_at
                for d in limits:
                    base[d] += stands
                    slope[d] += rises
        while True:
            reached, limit = math.inf, None
            for d in ALL:
                if cap[d] > 0 and not done[d] and slope[d] > 0:
                    full = max(f, (cap[d] - fixed[d] - base[d]) / slope[d])
                    if full < reached:
                        reached, limit = full, d
            if next_full >= len(by_full) or by_full[next_full].full_at > reached:
                if limit is not None:
                    f = reached
                break
            flow = by_full[next_full]
            next_full += 1
            f = flow.full_at
            flow.full = True
            if flow.open:
                for kind, limits in enumerate((BYTES[flow.direction], UNITS[flow.direction])):
                    for d in limits:
                        base[d] += flow.steady[kind]
                        slope[d] -= flow.steady[kind] / flow.full_at
                        if slope[d] < 1e-9:
                            slope[d] = 0.0
        if limit is None:
            break
        done[limit] = True
        kind = 0 if limit <= 2 else 1
        for flow in flows:
            if not flow.open:
                continue
            limits = (BYTES, UNITS)[kind][flow.direction]
            needs = flow.growing[kind] > 0 or (not flow.full and flow.steady[kind] > 0)
            if needs and limit in limits:
                stay(flow, (at_fill(flow, 0), at_fill(flow, 1)))
    for flow in flows:
        if flow.open:
            stay(flow, flow.steady)

    active = [host_id for host_id, host in hosts.items() if host.active]
    weights = 0.0
    for host_id in active:
        weights += hosts[host_id].weight
    for d in ALL:
        rest = cap[d] - fixed[d]
        if cap[d] > 0 and rest > 0:
            for host_id in active:
                want[host_id][d] += HANDED_OUT * rest * hosts[host_id].weight / weights
    return want, len(active)


class StoreModel:
    """One key of a store. Set ``now`` (us) and ``server`` (a run id) before each `call`."""

    def __init__(self) -> None:
        self.now = 0
        self.server = "0"
        self.common: Common | None = None
        self.hosts: dict[str, Record] = {}
        self.published: list[str] = []

    def snapshot(self) -> tuple[Common | None, dict[str, Record]]:
        return copy.deepcopy((self.common, self.hosts))

    def restore(self, snapshot: tuple[Common | None, dict[str, Record]]) -> None:
        self.common, self.hosts = copy.deepcopy(snapshot)

    def wipe(self) -> None:
        self.common, self.hosts = None, {}

    def call(self, argv: list[str]) -> list[str]:
        now, host_id = self.now, argv[1]
        sequence, serial = int(argv[2]), int(argv[3])
        common = self.common
        common = Common(self.server, now, now, now) if common is None else copy.deepcopy(common)
        if common.server != self.server or serial > common.serial:
            common.server, common.lost, common.forgot = self.server, now, now
            common.serial = max(common.serial, serial)
        before = self.hosts.get(host_id)
        if before is not None and sequence <= before.sequence:
            return ["old"]
        if argv[0] == "leave":
            self.hosts.pop(host_id, None)
            capacity = capacities(parse_limits(common.limits), common.level)
            want, _ = fill(self._sorted(), [GRANTED * c for c in capacity])
            self._hint("", want, capacity)
            return ["ok", str(now)]
        self.common = common
        common.lost, common.forgot = min(common.lost, now), min(common.forgot, now)
        idle_time = max(0, now - common.last)
        others_stay = others_active = False
        for other, host in self.hosts.items():
            host.at = min(host.at, now)
            if other != host_id and host.on_lost != "closed":
                others_stay = True
                others_active = others_active or host.active
        recovers = common.lost > 0
        silence = SILENCE if others_active or recovers else IDLE_SILENCE
        if (others_stay or recovers) and idle_time > silence:
            common.lost = now
        if common.forgot > 0 and idle_time > IDLE_SILENCE:
            common.forgot = now
        since = now
        if argv[6]:
            low, high = int(argv[4]), int(argv[5])
            if low - CLOCK_ERROR <= now <= high + CLOCK_ERROR:
                since = int(argv[6])

        def is_over(start: int, lasts: int) -> bool:
            return now >= start + lasts and (start >= since or now - since >= lasts)

        for other, host in list(self.hosts.items()):
            if other != host_id and is_over(host.at, host.lasts):
                del self.hosts[other]
        version, words, changes = int(argv[7]), argv[8], argv[9] == "1"
        if changes:
            common.version, common.limits = max(common.version, version) + 1, words
        elif words and (version > common.version or not common.limits):
            common.version, common.limits = max(version, 1), words
        limits = parse_limits(common.limits)
        used = [float(word) for word in argv[28:32]]
        self._count_bursts(common, limits, before, used, idle_time / 1000000)
        caller = Record(
            sequence,
            now,
            float(argv[10]),
            float(argv[11]),
            [float(word) for word in argv[12:18]],
            [float(word) for word in argv[18:28]],
            used,
            argv[32],
            argv[33],
            before.hinted if before else 0,
        )
        self.hosts[host_id] = caller
        if not caller.active:
            caller.lasts = IDLE_LEASE
        hosts = self._sorted()
        capacity = capacities(limits, common.level)
        cap = [GRANTED * value for value in capacity]
        want, active = fill(hosts, cap)
        if common.lost > 0 and is_over(common.lost, LEASE):
            common.lost = 0
        if common.forgot > 0 and is_over(common.forgot, UNHEARD):
            common.forgot = 0
        for d in ALL:
            others = 0.0
            for other, host in hosts.items():
                if other != host_id:
                    others += host.held(d)
            grant = min(want[host_id][d], cap[d] - others)
            reserve = (1 - GRANTED) * capacity[d] / 2
            if grant < reserve and caller.using[d] < reserve:
                grant = max(grant, min(want[host_id][d], (capacity[d] - others) / 2))
            if common.lost > 0:
                grant = min(grant, caller.using[d])
            caller.granted[d] = max(0.0, grant)
        weights = taken = 0.0
        for other, host in hosts.items():
            weights += host.weight
            if other != host_id:
                taken += max(host.fallback, host.promised)
        promise = max(0.0, min(GRANTED * caller.weight / weights, GRANTED - taken))
        if common.lost > 0 or common.forgot > 0:
            promise = min(promise, caller.fallback)
        caller.promised = promise
        common.serial += 1
        common.last = now
        must_give = self._hint(host_id, want, capacity)
        if changes:
            self.published.append("*")
        return [
            "ok",
            str(now),
            str(common.serial),
            str(common.version),
            "" if version == common.version else common.limits,
            _text(promise),
            str(len(hosts)),
            str(active),
            str(min(max(5000 * active, 200000), 330000)),
            "1" if must_give else "0",
            str(max(0, common.lost + LEASE - now) if common.lost > 0 else 0),
            *map(_text, caller.granted),
        ]

    def _sorted(self) -> dict[str, Record]:
        return dict(sorted(self.hosts.items()))

    def _count_bursts(
        self,
        common: Common,
        limits: list[tuple[float, float, float]],
        before: Record | None,
        used: list[float],
        passed: float,
    ) -> None:
        for d, (rate, burst, _) in enumerate(limits):
            if burst <= rate:
                common.level[d] = 0.0
                continue
            total = 0.0
            for host in self._sorted().values():
                total += host.held(d)
                host.charged[d] += host.held(d) * passed
            common.level[d] = max(0.0, common.level[d] + (total - rate) * passed)
            if before is not None:
                part = 0 if d <= 2 else 2
                spent = 0.0
                for direction in (0, 1):
                    if d in (BYTES if d <= 2 else UNITS)[direction]:
                        spent = spent + used[part + direction] - before.used[part + direction]
                common.level[d] = max(0.0, common.level[d] + spent - before.charged[d])

    def _hint(self, caller: str, want: dict[str, list[float]], capacity: list[float]) -> bool:
        hosts = self._sorted()
        total = [0.0] * 6
        short = [False] * 6
        for host_id, host in hosts.items():
            for d in ALL:
                total[d] += host.held(d)
                if capacity[d] > 0 and host.granted[d] < SHORT * want[host_id][d]:
                    short[d] = True
        called = []
        must_give = False
        for host_id, host in hosts.items():
            share = want[host_id]
            give = any(short[d] and host.held(d) > OVER * share[d] for d in ALL)
            take = any(
                capacity[d] > 0
                and host.granted[d] < SHORT * share[d]
                and total[d] < GRANTED * capacity[d] - 0.005 * capacity[d]
                for d in ALL
            )
            if host_id == caller:
                must_give = give
            elif (give or take) and (
                host.at >= host.hinted or self.now - host.hinted >= HINT_AGAIN
            ):
                host.hinted = self.now
                called.append(host_id)
        if called:
            self.published.append(" ".join(called))
        return must_give


def _text(number: float) -> str:
    return f"{number:.17g}"
