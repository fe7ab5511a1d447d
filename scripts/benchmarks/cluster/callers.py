"""Many hosts in this process that share a limit: the daemon's own rules, made-up demand.

They call a real server by the real script. So what the server has to do is that of so many daemons,
and what they hold together is known at every instant.
"""

from __future__ import annotations

import queue
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from throttlefs.cluster.client import Listener, StoreClient, StoreError
from throttlefs.cluster.keeper import Keeper
from throttlefs.cluster.messages import Call, decode_answer
from throttlefs.settings.limits import Limits
from throttlefs.settings.shared import OnLost, parse_store_address
from throttlefs.throttle import NO_DEMAND, NOTHING, Demand, Flow, Rates

MS = 1_000_000
BLOCK = 65_536
LOADS = ("busy", "mixed", "restless")
"""All ask for more than there is; of reads and writes some part is steady; all work by turns."""


@dataclass
class Work:
    """What a host asks for: by turns, if it rests at all."""

    demand: Demand
    rests: bool
    draw: random.Random
    until: int = 0
    is_on: bool = False

    def now(self, now: int) -> Demand:
        """Return what is asked for at the instant ``now`` (ns)."""
        if not self.rests:
            return self.demand
        if now >= self.until:
            self.is_on = not self.is_on
            self.until = now + round(self.draw.uniform(100, 2000)) * MS
        return self.demand if self.is_on else NO_DEMAND


def work(load: str, limits: Limits, seed: int) -> Work:
    """Return the work of the host number ``seed``."""
    draw = random.Random(seed)
    rate = float(limits.bps)
    growing = (100 * rate, 100 * rate / BLOCK)
    if load != "mixed":
        return Work((Flow(growing), Flow()), load == "restless", draw)
    flows = []
    for _ in range(2):
        steady = draw.random() * rate / 200
        flows.append(Flow(growing, (steady, steady / BLOCK), draw.random() * 1e-4))
    return Work((flows[0], flows[1]), False, draw)


class MadeUpGroup:
    """What a keeper knows of its group; see `throttlefs.cluster.keeper.Shared`."""

    def __init__(self, limits: Limits, work: Work) -> None:
        self.limits = limits
        self.used = [0.0] * 4
        self.held: Rates = NOTHING
        self.until = 0
        self._work = work

    def set_limits(self, limits: Limits) -> None:
        self.limits = limits

    def hold(self, rates: Rates, until: int) -> None:
        self.held, self.until = rates, until

    def measure(self) -> Demand:
        return self._work.now(time.monotonic_ns())

    def weight(self) -> int:
        return 100

    def is_idle(self, after_ns: int) -> bool:
        return self.measure() == NO_DEMAND

    def is_held_up(self) -> bool:
        return not self.is_idle(0)


@dataclass(frozen=True)
class Outcome:
    """What so many hosts did in so long."""

    calls: int
    seconds: float
    highest: float
    """The largest sum of rates in force / the limit."""
    late: float
    """The longest that a call had to wait for its turn here (s); the hosts are one process."""


class Callers:
    """So many hosts at one key of a server."""

    def __init__(self, url: str, hosts: int, load: str, limits: Limits) -> None:
        address = parse_store_address(url)
        self._client = StoreClient(address, None)
        self._heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listener = Listener(address, None, self._heard.put)
        self._limit = float(limits.bps)
        self._last: dict[int, Call] = {}  # by host
        self.failed = 0
        """Calls that were not answered in time."""
        now = time.monotonic_ns()
        self._groups = [MadeUpGroup(limits, work(load, limits, seed)) for seed in range(hosts)]
        draw = random.Random(0)
        ids = [f"{draw.getrandbits(64):016x}" for _ in range(hosts)]
        self._keepers = [
            Keeper(group, daemon, f"host:{number}", OnLost.SHARE, now)
            for number, (daemon, group) in enumerate(zip(ids, self._groups, strict=True))
        ]
        self._numbers = {daemon: number for number, daemon in enumerate(ids)}
        self._wake = [now + number * 3 * MS for number in range(hosts)]
        self._listener.start()

    def close(self) -> None:
        """Stop hearing and calling."""
        self._listener.stop()
        self._client.close()

    def run(self, seconds: float) -> Outcome:
        """Let all work for so long."""
        calls, highest, late = 0, 0.0, 0
        began = now = time.monotonic_ns()
        while now < began + seconds * 1e9:
            number = min(range(len(self._wake)), key=self._wake.__getitem__)
            self._listen(max(0, min(self._wake[number] - now, 5 * MS)))
            now = time.monotonic_ns()
            for one in self._due(now):
                late = max(late, time.monotonic_ns() - self._wake[one])
                calls += self._step(one)
                highest = max(highest, self._sum() / self._limit)
            now = time.monotonic_ns()
        return Outcome(calls, (now - began) / 1e9, highest, late / 1e9)

    def hurry(self, seconds: float) -> int:
        """Let all renew in turn, back to back, for so long; return how many calls that were.

        So the server's caches are warm, and no call waits for it to wake up.
        """
        calls = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for number, call in self._last.items():
                self._last[number] = replace(call, sequence=call.sequence + 1)
                self._client.call(self._last[number].arguments())
                calls += 1
        return calls

    def _due(self, now: int) -> Sequence[int]:
        return [number for number, wake in enumerate(self._wake) if wake <= now]

    def _listen(self, nanoseconds: int) -> None:
        try:
            message = self._heard.get(timeout=nanoseconds / 1e9) if nanoseconds else None
            while message is not None:
                for daemon in message.split():
                    number = self._numbers.get(daemon)
                    if number is not None:
                        self._keepers[number].hinted()
                        self._wake[number] = time.monotonic_ns()
                message = self._heard.get_nowait()
        except queue.Empty:
            pass

    def _step(self, number: int) -> int:
        """Let one host do what is to be done; return how many calls that were."""
        keeper = self._keepers[number]
        calls = 0
        while True:
            keeper.tick(time.monotonic_ns())
            call = keeper.next_call(time.monotonic_ns())
            if call is None:
                break
            calls += 1
            self._last[number] = call
            try:
                answer = decode_answer(self._client.call(call.arguments()))
            except StoreError:
                answer = None
            if answer is None:
                self.failed += 1
                keeper.failed(time.monotonic_ns())
            else:
                keeper.answered(answer, time.monotonic_ns())
        now = time.monotonic_ns()
        self._wake[number] = max(keeper.wake_at(now), now + 1)
        return calls

    def _sum(self) -> float:
        now = time.monotonic_ns()
        return sum(group.held[0] for group in self._groups if group.until > now)
