"""Whatever fails, the sum of the rates that are in force never passes the limit.

`World.check` asserts it after each step of each host.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.cluster.simulator import KIB, MS, SECOND, SimHost, World
from throttlefs.cluster.keeper import State
from throttlefs.settings.limits import Limits
from throttlefs.settings.shared import OnLost
from throttlefs.throttle import READ, WRITE

TENANT = Limits(bps=8_000_000, bps_wr=3_000_000, iops=400)


class Turmoil:
    """Hosts that work now and then, and faults at random instants."""

    def __init__(self, seed: int, on_lost: OnLost, faults: tuple[str, ...]) -> None:
        self.random = random.Random(seed)
        self.world = World(TENANT, seed)
        self.world.keep = False
        self.on_lost = on_lost
        self.faults = faults
        self.snapshots = [self.world.store.snapshot()]
        self.restarts = 0
        for _ in range(self.random.randint(2, 5)):
            self.start()

    def start(self) -> None:
        host = self.world.host(self.on_lost)
        for number in range(self.random.randint(1, 3)):
            self._work(host, f"x{number}")

    def _work(self, host: SimHost, key: str) -> None:
        """Ask for a while, rest for a while, and so on."""
        draw = self.random
        client = host.client(
            f"{key}{draw.random()}",
            draw.choice([4, 64, 256]) * KIB,
            draw.choice([1, 4]),
            direction=draw.choice([READ, WRITE]),
            weight=draw.choice([50, 100, 300]),
            pause=draw.choice([0, 0, 20, 200]) * MS,
        )

        def stop() -> None:
            client.stopped = True
            host.at(self.world.now + draw.randint(1, 3000) * MS, lambda: self._work(host, key))

        host.at(self.world.now + draw.randint(1, 4000) * MS, stop)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.world.run(self.random.choice([0.01, 0.1, 0.3, 1.0]))
            self.snapshots = [*self.snapshots[-5:], self.world.store.snapshot()]
            getattr(self, f"_{self.random.choice(self.faults)}")()

    def _later(self, longest: float, action: Callable[[], None]) -> None:
        self.world.at(self.world.now + int(self.random.random() * longest * SECOND), action)

    # Faults.

    def _nothing(self) -> None:
        pass

    def _lose(self) -> None:
        self.world.loss = self.random.choice([0, 0.05, 0.3, 0.8])

    def _delay(self) -> None:
        draw, slowest = self.random, self.random.choice([1, 30, 200, 3000])
        self.world.delay = lambda: draw.randint(100_000, slowest * MS)

    def _delay_a_little(self) -> None:
        draw, slowest = self.random, self.random.choice([1, 5, 60])
        self.world.delay = lambda: draw.randint(100_000, slowest * MS)

    def _pause(self) -> None:
        host = self.random.choice(self.world.hosts)
        host.pause(int(self.random.choice([0.05, 0.5, 2, 12]) * self.random.random() * SECOND))

    def _kill(self) -> None:
        if len([host for host in self.world.hosts if host.alive]) > 1:
            self.random.choice(self.world.hosts).kill()

    def _join(self) -> None:
        # A mount made while the store is away gets a hundredth beside the limit.
        if self.world.store_is_up and len(self.world.hosts) < 8:
            self.start()

    def _wipe(self) -> None:
        self.world.store.wipe()

    def _restart(self) -> None:
        self.restarts += 1
        self.world.store.server = str(self.restarts)

    def _roll_back(self) -> None:
        self._restart()
        self.world.store.restore(self.random.choice(self.snapshots))

    def _step_clock(self) -> None:
        self.world.store_clock += self.random.choice([-1, 1]) * self.random.choice(
            [100_000, 400_000, 2_000_000, 3600_000_000]
        )

    def _stop_store(self) -> None:
        def back() -> None:
            self.world.store_is_up = True

        self.world.store_is_up = False
        self._later(8, back)

    def _cut_off(self) -> None:
        host = self.random.choice(self.world.hosts)

        def back() -> None:
            host.cut_off = False

        host.cut_off = True
        self._later(6, back)


ALL_FAULTS = (
    *("nothing", "lose", "delay", "pause", "kill", "join", "wipe", "restart", "roll_back"),
    *("step_clock", "stop_store", "cut_off"),
)

AWAY_FROM_ALL = (
    *("nothing", "delay_a_little", "pause", "kill", "join", "wipe", "roll_back", "stop_store"),
)
"""Faults that leave no host without the store while others have it."""


@settings(max_examples=16, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_the_sum_never_passes_the_limit(seed):
    Turmoil(seed, OnLost.CLOSED, ALL_FAULTS).run(20)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_shares_without_the_store_never_pass_the_limit_if_nobody_has_the_store(seed):
    turmoil = Turmoil(seed, OnLost.SHARE, AWAY_FROM_ALL)
    # A host that is new, or was stopped before the store went away, has a hundredth beside the
    # parts of the others; there are eight at most.
    turmoil.world.tolerated = 1.08
    turmoil.run(20)


def test_the_turmoil_uses_what_there_is():
    """Otherwise the two tests above would show nothing."""
    highest, states = 0.0, set()
    for seed in range(4):
        turmoil = Turmoil(seed, OnLost.SHARE, AWAY_FROM_ALL)
        turmoil.run(20)
        highest = max(highest, turmoil.world.highest)
        states |= {state for host in turmoil.world.hosts for _, state in host.changes}
    assert highest > 0.98
    assert states == {State.LEASED, State.IDLE, State.OVER, State.LOST}


@pytest.mark.parametrize("on_lost", [OnLost.CLOSED, OnLost.SHARE])
def test_all_are_served_again_when_the_faults_end(on_lost):
    for seed in range(2):
        turmoil = Turmoil(seed, on_lost, ALL_FAULTS)
        turmoil.world.excused = True
        turmoil.run(15)
        world = turmoil.world
        world.loss, world.delay, world.store_is_up = 0, lambda: 500_000, True
        for host in world.hosts:
            host.cut_off = False
        world.run(15)
        world.excused, world.highest = False, 0.0
        late = [host.client("late") for host in world.hosts if host.alive]
        world.run(3)
        assert all(client.bytes for client in late)
