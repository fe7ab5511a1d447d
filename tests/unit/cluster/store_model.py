"""The rules of throttlefs/cluster/store.lua once more, in Python, for simulations.

What each host is to have is in `fill_model`. Written beside the script, rule by rule, so that both
add and compare the same numbers in the same order. `test_script.py` holds the two to the same
answers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from tests.unit.cluster.fill_model import ALL, FIRST, SECOND, Record, fill

LEASE = 1_000_000
IDLE_LEASE = 10_000_000
CLOCK_ERROR = 150_000
SILENCE = 500_000
IDLE_SILENCE = 4_000_000
UNHEARD = 5_000_000
MOST = 0.99
SHORT = 0.95
OVER = 1.02
HINT_AGAIN = 20_000
BURST_ENDS = 1.5

SPENT_OF = (0, 2, 1, 3)
"""Where `Record.used` has each stream."""


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
            want, _ = fill(self._sorted(""), [MOST * c for c in capacity])
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
            if other != host_id and is_over(host.at, LEASE if host.active else IDLE_LEASE):
                del self.hosts[other]
        version, words, changes = int(argv[7]), argv[8], argv[9] == "1"
        if changes:
            common.version, common.limits = max(common.version, version) + 1, words
        elif words and (version > common.version or not common.limits):
            common.version, common.limits = max(version, 1), words
        limits = parse_limits(common.limits)
        used = [float(word) for word in argv[28:32]]
        self._count_bursts(common, limits, host_id, used, idle_time / 1000000)
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
        hosts = self._sorted(host_id)
        capacity = capacities(limits, common.level)
        cap = [MOST * value for value in capacity]
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
            reserve = (1 - MOST) * capacity[d] / 2
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
        promise = max(0.0, min(MOST * caller.weight / weights, MOST - taken))
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

    def _sorted(self, caller: str) -> dict[str, Record]:
        """The hosts by their ids, the caller last."""
        ids = sorted(self.hosts, key=lambda host_id: (host_id == caller, host_id))
        return {host_id: self.hosts[host_id] for host_id in ids}

    def _count_bursts(
        self,
        common: Common,
        limits: list[tuple[float, float, float]],
        host_id: str,
        used: list[float],
        passed: float,
    ) -> None:
        before = self.hosts.get(host_id)
        for d, (rate, burst, _) in enumerate(limits):
            level = 0.0
            if burst > rate:
                total = before.held(d) if before else 0.0
                for other, host in self._sorted(host_id).items():
                    total += host.held(d) if other != host_id else 0.0
                level = max(0.0, common.level[d] + (total - rate) * passed)
                if before:
                    went = 0.0
                    for stream in (FIRST[d], SECOND[d]):
                        if stream is not None:
                            number = SPENT_OF[stream]
                            went = went + used[number] - before.used[number]
                    held_for = max(0, self.now - before.at) / 1000000
                    level = max(0.0, level + went - before.held(d) * held_for)
            common.level[d] = level

    def _hint(self, caller: str, want: dict[str, list[float]], capacity: list[float]) -> bool:
        hosts = self._sorted(caller)
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
                and total[d] < MOST * capacity[d] - 0.005 * capacity[d]
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
