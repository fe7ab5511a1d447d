"""Rates that are no whole numbers, below one a second above all, are held as exactly as others."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.throttle.simulator import KIB, READ, SECOND, START, WRITE, Simulator
from tests.unit.throttle.test_bounds import assert_held
from tests.unit.throttle.virtual import SECOND as VIRTUAL_SECOND
from tests.unit.throttle.virtual import World, play
from throttlefs.settings.limits import Limits, parse_limit
from throttlefs.settings.units import Rate, round_rate
from throttlefs.throttle.meter import Meter
from throttlefs.throttle.node import SLACK

some_rates = st.integers(1000, 5_000_000).map(lambda n: round_rate(Fraction(n, 10**6)))


def ceiling(exact: Fraction) -> int:
    return -(-exact.numerator // exact.denominator)


def test_half_a_request_a_second_is_one_in_two_seconds() -> None:
    async def scenario(world: World) -> None:
        image = world.throttle.image("a")
        for number in range(4):
            await world.ask(image, str(number), 4096)
        await world.run_until(100)
        assert list(world.waited.values()) == [0, *(n * 2 * VIRTUAL_SECOND for n in (1, 2, 3))]

    play(scenario, Limits.parse({"iops": "0.5"}))


@settings(deadline=None)
@given(rate=some_rates, requests=st.integers(1, 40))
def test_each_request_goes_at_its_instant_to_the_nanosecond(rate: Rate, requests: int) -> None:
    simulator = Simulator()
    simulator.client(simulator.leaf(Limits(iops=rate)), READ, 4 * KIB, requests, once=True)
    simulator.run(requests * 1001)
    instants = [release.instant - START for release in simulator.releases]
    # Two requests in the slack would need 500 a second.
    assert instants == [ceiling(Fraction(n * SECOND) / rate) for n in range(requests)]


@settings(deadline=None)
@given(
    rate=some_rates,
    sizes=st.lists(st.integers(0, 2000), min_size=1, max_size=20),
)
def test_bytes_are_paid_for_exactly(rate: Rate, sizes: list[int]) -> None:
    meter = Meter()
    meter.change(Limits(bps=rate), START)
    for size in sizes:
        meter.buckets[WRITE][0].charge(size, START, 0)
    assert meter.due_at(WRITE, START) == START + ceiling(Fraction(sum(sizes) * SECOND) / rate)


@settings(deadline=None)
@given(
    rate=some_rates,
    burst=st.integers(0, 5_000_000).map(lambda n: Fraction(n, 10**6)),
    pauses=st.lists(st.integers(0, 3000 * SECOND) | st.just(0), min_size=1, max_size=40),
)
def test_no_window_has_more_than_the_slack_and_a_request(
    rate: Rate, burst: Fraction, pauses: list[int]
) -> None:
    simulator = Simulator()
    limits = Limits(iops=rate, iops_rd=round_rate(rate + burst))
    leaf = simulator.leaf(limits)
    instant = simulator.now
    for pause in pauses:
        instant += pause
        simulator.client(leaf, READ, 4 * KIB, 1, start=instant, once=True)
    simulator.run(instant / SECOND + len(pauses) * 1001)
    assert len(simulator.releases) == len(pauses)
    assert_held(leaf, simulator.releases, SLACK + Fraction(SECOND) / rate)


@settings(deadline=None)
@given(rates=st.lists(some_rates | st.integers(1, 100), min_size=1, max_size=20))
def test_changes_keep_what_is_owed(rates: list[Rate]) -> None:
    meter = Meter()
    meter.change(Limits(iops=10), START)
    for _ in range(7):
        meter.buckets[READ][0].charge(4096, START, 0)
    for rate in rates:
        meter.change(Limits(iops=rate), START)
        assert meter.due_at(READ, START) == START + ceiling(Fraction(7 * SECOND) / rate)


def test_a_burst_and_a_size_may_go_with_a_fraction() -> None:
    """1.5 requests a second, up to 4.5 in a burst of two seconds; 8 KiB count as two."""
    meter = Meter()
    fields = {"iops": "1.5", "iops_max": 4.5, "iops_max_length": 2, "iops_size": "4K"}
    meter.change(Limits.parse(fields), START)
    rate, burst = meter.buckets[READ]
    for _ in range(5):
        rate.charge(8 * KIB, START, 0)
    assert rate.due_at(START) == START + ceiling(Fraction(1, 1) * SECOND * 2 / 3)
    burst.charge(8 * KIB, START, 0)
    assert burst.due_at(START) == START + ceiling(Fraction(2 * SECOND) / Fraction(9, 2))


def test_members_of_a_group_share_a_fraction_by_weight() -> None:
    simulator = Simulator()
    group = simulator.group(Limits(iops=parse_limit("iops", "0.3")))
    light = simulator.client(simulator.leaf(parent=group), READ, 4 * KIB, 4)
    heavy = simulator.client(simulator.leaf(parent=group, weight=200), READ, KIB, 4)
    simulator.run(10_000)
    assert (light.requests, heavy.requests) == (1000, 2000)
