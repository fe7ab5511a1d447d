"""The arithmetic of one limit."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.throttle.simulator import KIB, MIB, READ, SECOND, START, Simulator
from throttlefs.settings.limits import MAX_VALUE, Limits
from throttlefs.throttle.bucket import FEMTO, MICRO, Bucket
from throttlefs.throttle.meter import Meter
from throttlefs.throttle.node import SLACK

BURST = 60 * 2000 * FEMTO


def bytes_bucket(rate: int, credit: int = 0) -> Bucket:
    return Bucket(rate * MICRO, 0, FEMTO, credit, START)


def requests_bucket(rate: int) -> Bucket:
    return Bucket(rate * MICRO, FEMTO, 0, 0, START)


def test_a_request_goes_first_and_is_paid_for_afterwards() -> None:
    bucket = bytes_bucket(MIB)
    assert bucket.due_at(START) == START
    bucket.charge(3 * MIB, START, 0)
    assert bucket.due_at(START) == START + 3 * SECOND
    assert bucket.due_at(START + 3 * SECOND - 1) == START + 3 * SECOND
    assert bucket.due_at(START + 3 * SECOND) == START + 3 * SECOND


def test_the_due_instant_is_rounded_up() -> None:
    bucket = requests_bucket(3)
    bucket.charge(1, START, 0)
    assert bucket.due_at(START) == START + 333_333_334
    assert bucket.due_at(START + 333_333_333) > START + 333_333_333


def test_idle_time_counts_as_far_as_the_lag() -> None:
    bucket = requests_bucket(1000)
    now = START + 10 * SECOND
    for _ in range(2):
        assert bucket.due_at(now) == now
        bucket.charge(1, now, SLACK)
    assert bucket.due_at(now) == now
    bucket.charge(1, now, SLACK)
    assert bucket.due_at(now) == now + 1_000_000


def test_requests_above_iops_size_count_in_proportion() -> None:
    """The example of QEMU's docs/throttle.txt: of 4 KiB, 8 KiB are two and 6 KiB one and a half."""
    for kib, requests in ((1, 1), (4, 1), (6, Fraction(3, 2)), (8, 2)):
        meter = Meter()
        meter.change(Limits(iops=100, iops_size=4 * KIB), START)
        meter.buckets[READ][0].charge(kib * KIB, START, 0)
        assert meter.due_at(READ, START) == START + requests * SECOND // 100


@settings(deadline=None)
@given(
    rate=st.integers(1, MAX_VALUE),
    sizes=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=30),
)
def test_nothing_is_rounded_away(rate: int, sizes: list[int]) -> None:
    bucket = bytes_bucket(rate)
    for size in sizes:
        bucket.charge(size, START, 0)
    exact = START + Fraction(sum(sizes) * SECOND, rate)
    assert bucket.due_at(START) == -(-exact.numerator // exact.denominator)


def test_a_saturated_image_gets_its_rate_to_the_nanosecond() -> None:
    """Request number n goes n / rate after the first, however many went before."""
    simulator = Simulator()
    simulator.client(simulator.leaf(Limits(iops=3000)), READ, 4 * KIB, 32)
    simulator.run(30)
    instants = [release.instant - START for release in simulator.releases]
    assert instants == [-(-number * SECOND // 3000) for number in range(30 * 3000)]


def test_there_is_no_drift_in_a_year() -> None:
    bucket = requests_bucket(7)
    year = 365 * 24 * 3600
    bucket.paid += (year * 7 - 1000) * FEMTO
    for _ in range(1000):
        bucket.charge(1, START, SLACK)
    assert bucket.due_at(START) == START + year * SECOND


@settings(deadline=None)
@given(
    rates=st.lists(st.integers(1, MAX_VALUE), min_size=1, max_size=20),
    spent=st.integers(0, 1 << 50),
    idle=st.integers(0, 10 * SECOND),
)
def test_a_new_rate_keeps_what_is_owed_in_units(rates: list[int], spent: int, idle: int) -> None:
    bucket = bytes_bucket(1 << 30)
    bucket.charge(spent, START, 0)
    now = START + idle
    level = bucket.level(now)
    for rate in rates:
        bucket.change(rate * MICRO, 0, FEMTO, 0, now)
        assert bucket.level(now) == level


def test_the_unit_of_iops_size_keeps_what_is_owed_in_requests() -> None:
    meter = Meter()
    meter.change(Limits(iops=10), START)
    for _ in range(5):
        meter.buckets[READ][0].charge(MIB, START, 0)
    for limits in (
        Limits(iops=10, iops_size=4096),
        Limits(iops=10, iops_size=512),
        Limits(iops=10),
    ):
        meter.change(limits, START)
        assert meter.due_at(READ, START) == START + SECOND // 2


def test_a_limit_that_was_lifted_is_still_owed() -> None:
    meter = Meter()
    meter.change(Limits(bps=MIB), START)
    meter.buckets[READ][0].charge(10 * MIB, START, 0)
    meter.change(Limits(iops=10), START + SECOND)
    assert meter.due_at(READ, START + SECOND) == START + SECOND
    assert meter.owed_until() == START + 10 * SECOND
    meter.change(Limits(bps=MIB // 2), START + 2 * SECOND)
    assert meter.due_at(READ, START + 2 * SECOND) == START + 18 * SECOND


def test_a_lifted_limit_is_forgotten_once_it_is_paid_for() -> None:
    meter = Meter()
    meter.change(Limits(bps=MIB), START)
    meter.buckets[READ][0].charge(MIB, START, 0)
    meter.change(Limits(), START)
    meter.change(Limits(), START + SECOND)
    assert meter.owed_until() == 0


def test_a_burst_that_is_taken_away_does_not_block_what_it_has_let_through() -> None:
    bucket = requests_bucket(100)
    bucket.change(100 * MICRO, FEMTO, 0, BURST, START)
    for _ in range(100_000):
        bucket.charge(1, START, 0)
    assert bucket.due_at(START) == START
    bucket.change(100 * MICRO, FEMTO, 0, 0, START)
    # At the rate from now on: what was within the old credit is not a thousand seconds' debt.
    for number in range(1, 4):
        bucket.charge(1, bucket.due_at(START), 0)
        assert bucket.due_at(START) == START + number * SECOND // 100


def test_the_credit_of_a_burst_shrinks_with_the_level() -> None:
    bucket = requests_bucket(100)
    bucket.change(100 * MICRO, FEMTO, 0, BURST, START)
    for _ in range(100_000):
        bucket.charge(1, START, 0)
    bucket.change(100 * MICRO, FEMTO, 0, 0, START)
    later = START + 500 * SECOND  # the level has fallen to 50,000
    bucket.charge(1, later, 0)
    assert bucket.due_at(later) == later + SECOND // 100
    bucket.charge(1, START + 2000 * SECOND, 0)
    assert bucket.credit == 0


def test_a_burst_that_is_given_counts_at_once() -> None:
    bucket = requests_bucket(100)
    for _ in range(1000):
        bucket.charge(1, START, 0)
    assert bucket.due_at(START) == START + 10 * SECOND
    bucket.change(100 * MICRO, FEMTO, 0, BURST, START)
    assert bucket.due_at(START) == START
