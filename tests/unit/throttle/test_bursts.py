"""Bursts, against the description in QEMU's docs/throttle.txt.

"Water leaks from the bucket at a rate of 100 IOPS. Water can be added to the bucket at a rate of
2000 IOPS. The size of the bucket is 2000 x 60. The bucket is initially empty, therefore water can
be added until it's full at a rate of 2000 IOPS. Once the bucket is full we can only add as much
water as it leaks. If we add less water than it leaks then the bucket will start to empty, allowing
for bursts again."
"""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.throttle.simulator import KIB, READ, SECOND, START, Client, Simulator
from throttlefs.settings.limits import Limits

STEP = 10_000_000


class LeakyBucket:
    """That text, step by step (ns), for a client that wants all it can get while *wanting*."""

    def __init__(self, rate: float, burst: float, length: float) -> None:
        self.rate, self.burst = rate, burst
        self.size = burst * length
        self.level = 0.0
        self.added = 0.0

    def run(self, nanoseconds: int, wanting: bool) -> None:
        for _ in range(nanoseconds // STEP):
            seconds = STEP / SECOND
            self.level = max(0.0, self.level - self.rate * seconds)
            if wanting:
                water = min(self.burst * seconds, self.size - self.level)
                self.level += water
                self.added += water


def greedy(limits: Limits, size: int = 4 * KIB) -> tuple[Simulator, Client]:
    simulator = Simulator()
    return simulator, simulator.client(simulator.leaf(limits), READ, size, 64)


def test_the_example_of_the_description() -> None:
    """60 s at 2000, then 3 more seconds, because 6000 have leaked; then 100."""
    simulator, client = greedy(Limits(iops=100, iops_max=2000, iops_max_length=60))
    simulator.run(60)
    assert client.requests == 120_000
    simulator.run(3)
    assert client.requests == 126_000
    simulator.run(1)
    before = client.requests
    simulator.run(100)
    assert client.requests - before == 10_000


def test_the_burst_rate_holds_for_a_length_of_one_second_too() -> None:
    simulator, client = greedy(Limits(bps=1 << 20, bps_max=10 << 20), 64 * KIB)
    simulator.run(0.5)
    assert client.nbytes == pytest.approx(5 << 20, abs=64 * KIB)


def test_a_burst_is_earned_again_at_the_rate() -> None:
    simulator = Simulator()
    leaf = simulator.leaf(Limits(iops=100, iops_max=1000, iops_max_length=2))
    simulator.client(leaf, READ, 4 * KIB, 1, stop=START + 10 * SECOND)
    simulator.run(15)  # 5 s of rest are worth 500 requests
    again = simulator.client(leaf, READ, 4 * KIB, 1)
    simulator.run(0.5)
    assert again.requests == pytest.approx(500, abs=3)
    simulator.run(0.5)
    assert again.requests == pytest.approx(600, abs=5)


def test_the_rate_of_a_burst_may_equal_the_rate() -> None:
    simulator, client = greedy(Limits(iops=100, iops_max=100, iops_max_length=5))
    simulator.run(10)
    assert client.requests == 1000


@settings(max_examples=40, deadline=None)
@given(
    rate=st.integers(20, 200),
    factor=st.integers(1, 20),
    length=st.integers(1, 8),
    periods=st.lists(st.integers(1, 40), min_size=1, max_size=6),
)
def test_volume_and_rate_are_those_of_the_description(
    rate: int, factor: int, length: int, periods: list[int]
) -> None:
    """A client that is greedy and at rest in turn, for *periods* of 100 ms."""
    limits = Limits(iops=rate, iops_max=rate * factor, iops_max_length=length)
    model = LeakyBucket(rate, rate * factor, length)
    simulator = Simulator()
    leaf = simulator.leaf(limits)
    clients: list[Client] = []
    ends = list(accumulate(period * STEP * 10 for period in periods))
    for number, (period, end) in enumerate(zip(periods, ends, strict=True)):
        wanting = number % 2 == 0
        if wanting:
            clients.append(simulator.client(leaf, READ, 4096, 4, stop=START + end))
        model.run(period * STEP * 10, wanting)
        simulator.run((START + end - simulator.now) / SECOND)
        # At its end a period leaves up to four requests behind, which go in the next.
        allowed = 4 * (number // 2 + 1) + rate * factor * (STEP + 2_000_000) / SECOND + 2
        went = sum(client.requests for client in clients)
        assert went == pytest.approx(model.added, abs=allowed)
