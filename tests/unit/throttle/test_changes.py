"""Live changes: they act at once, and changing in a loop is no way round any limit."""

from __future__ import annotations

from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.throttle.simulator import KIB, MIB, READ, SECOND, WRITE, Simulator
from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.throttle.node import SLACK


@settings(max_examples=50, deadline=None)
@given(
    phases=st.lists(
        st.tuples(st.integers(1, 500), st.integers(64 * KIB, 64 * MIB)), min_size=1, max_size=20
    ),
    size=st.sampled_from([4 * KIB, 64 * KIB, MIB]),
)
def test_a_saturated_image_gets_the_sum_of_its_rates(
    phases: list[tuple[int, int]], size: int
) -> None:
    """Phases of so many ms at such a rate: no change gives anything away or takes it."""
    simulator = Simulator()
    leaf = simulator.leaf(Limits(bps=phases[0][1]))
    client = simulator.client(leaf, READ, size, 4)
    allowed = 0.0
    for milliseconds, rate in phases:
        simulator.change_limits(leaf, Limits(bps=rate))
        simulator.run(milliseconds / 1000)
        allowed += rate * milliseconds / 1000
    assert client.nbytes <= allowed + size + 1
    assert client.nbytes >= allowed - 1


def test_a_new_limit_acts_on_what_waits() -> None:
    simulator = Simulator()
    leaf = simulator.leaf(Limits(bps=1))
    client = simulator.client(leaf, READ, MIB, 16, once=True)
    simulator.run(10)
    assert client.requests == 1
    simulator.change_limits(leaf, NO_LIMITS)
    simulator.run(0.000_001)
    assert client.requests == 16


def test_a_stricter_limit_acts_on_what_waits() -> None:
    simulator = Simulator()
    leaf = simulator.leaf(Limits(iops=1000))
    client = simulator.client(leaf, READ, 4 * KIB, 16)
    simulator.run(1)
    before = client.requests
    simulator.change_limits(leaf, Limits(iops=10))
    simulator.run(1)
    assert client.requests - before == 10


def test_changing_between_two_limits_is_held_to_both() -> None:
    """bps=1M and iops=10 in turn, 100 times a second: at most what both of them allow."""
    simulator = Simulator()
    leaf = simulator.leaf(Limits(bps=MIB))
    client = simulator.client(leaf, WRITE, MIB, 16)
    for limits in [Limits(iops=10), Limits(bps=MIB)] * 500:
        simulator.change_limits(leaf, limits)
        simulator.run(0.01)
    assert client.nbytes <= 10 * (MIB + 10 * MIB) + 2 * MIB


def test_setting_a_burst_again_and_again_earns_no_burst() -> None:
    simulator = Simulator()
    leaf = simulator.leaf(Limits(iops=100))
    client = simulator.client(leaf, READ, 4 * KIB, 16)
    for limits in [Limits(iops=100, iops_max=1000), Limits(iops=100)] * 500:
        simulator.change_limits(leaf, limits)
        simulator.run(0.01)
    assert client.requests <= 10 * 100 + 1000 + 2


def test_moving_between_groups_leaves_the_debts_where_they_are() -> None:
    """Each group is held to its limit, and the image to its own."""
    simulator = Simulator()
    groups = [simulator.group(Limits(bps=MIB)) for _ in range(2)]
    leaf = simulator.leaf(Limits(bps=4 * MIB), groups[0])
    client = simulator.client(leaf, READ, 256 * KIB, 8)
    for _, group in zip(range(1000), cycle(groups), strict=False):
        simulator.change_parent(leaf, group)
        simulator.run(0.01)
    assert client.nbytes <= 2 * 10 * MIB + 2 * 256 * KIB
    simulator.change_parent(leaf, None)
    before = client.nbytes
    simulator.run(1)
    assert client.nbytes - before <= 4 * MIB + 256 * KIB


def test_who_moves_to_another_group_shares_it_from_then_on() -> None:
    """Whatever it had in the old one: that was long ago, or elsewhere."""
    simulator = Simulator()
    old, new = (simulator.group(Limits(bps=20 * MIB)) for _ in range(2))
    moving = simulator.client(simulator.leaf(parent=old), READ, 64 * KIB)
    simulator.run(20)
    staying = simulator.client(simulator.leaf(parent=new), READ, 64 * KIB)
    simulator.run(1)
    simulator.change_parent(moving.leaf, new)
    before = moving.nbytes, staying.nbytes
    simulator.run(2)
    assert moving.nbytes - before[0] == pytest.approx(20 * MIB, abs=256 * KIB)
    assert staying.nbytes - before[1] == pytest.approx(20 * MIB, abs=256 * KIB)


def test_a_group_that_is_raised_starves_nobody() -> None:
    """One member has just had 1 MiB at 1M: a second of the old limit, 10 ms of the new one."""
    simulator = Simulator()
    group = simulator.group(Limits(bps=MIB))
    large = simulator.client(simulator.leaf(parent=group), READ, MIB, 4)
    small = simulator.client(simulator.leaf(parent=group), READ, 4 * KIB, 4)
    simulator.run(3.3)
    simulator.change_limits(group, Limits(bps=100 * MIB))
    simulator.run(1)  # the debt of the last request
    before = large.nbytes, small.nbytes
    simulator.run(0.5)
    assert large.nbytes - before[0] == pytest.approx(25 * MIB, abs=2 * MIB)
    assert small.nbytes - before[1] == pytest.approx(25 * MIB, abs=2 * MIB)


def test_retuning_a_group_in_a_loop_leaves_it_fair_and_its_limit_kept() -> None:
    simulator = Simulator()
    group = simulator.group(Limits(bps=20 * MIB))
    kinds = ((READ, 256 * KIB), (READ, 4 * KIB), (WRITE, 64 * KIB), (READ, MIB))
    clients = [
        simulator.client(simulator.leaf(parent=group), direction, size) for direction, size in kinds
    ]
    for _, rate in zip(range(1000), cycle((20, 21, 5, 34)), strict=False):
        simulator.change_limits(group, Limits(bps=rate * MIB))
        simulator.run(0.01)
    got = [client.nbytes / MIB for client in clients]
    assert sum(got) == pytest.approx(200, rel=0.01)
    assert got == pytest.approx([50] * 4, rel=0.05)


def test_retuning_two_limits_in_a_loop_reaches_one_of_them() -> None:
    simulator = Simulator()
    group = simulator.group(Limits(bps=10 * MIB, iops=500))
    small = simulator.client(simulator.leaf(parent=group), READ, 4 * KIB)
    large = simulator.client(simulator.leaf(parent=group), READ, 256 * KIB)
    for _, iops in zip(range(1000), cycle((500, 501)), strict=False):
        simulator.change_limits(group, Limits(bps=10 * MIB, iops=iops))
        simulator.run(0.01)
    assert small.nbytes + large.nbytes == pytest.approx(100 * MIB, rel=0.02)


def test_a_new_weight_acts_at_once() -> None:
    simulator = Simulator()
    group = simulator.group(Limits(bps=20 * MIB))
    a = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB)
    b = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB)
    simulator.run(5)
    simulator.change_weight(a.leaf, 300)
    before = a.nbytes, b.nbytes
    simulator.run(2)
    assert a.nbytes - before[0] == pytest.approx(30 * MIB, abs=256 * KIB)
    assert b.nbytes - before[1] == pytest.approx(10 * MIB, abs=256 * KIB)


def test_changing_weights_in_a_loop_gains_at_most_the_weight() -> None:
    simulator = Simulator()
    group = simulator.group(Limits(bps=20 * MIB))
    a = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB)
    b = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB)
    for _, weight in zip(range(1000), cycle((100, 300)), strict=False):
        simulator.change_weight(a.leaf, weight)
        simulator.run(0.01)
    assert 10 * 10 * MIB < a.nbytes < 10 * 15.5 * MIB
    assert a.nbytes + b.nbytes == pytest.approx(200 * MIB, abs=256 * KIB)


def test_what_an_idle_limit_may_catch_up_is_kept_in_units() -> None:
    """Neither does a raised rate turn 2 ms of idleness into more than 2 ms of it."""
    simulator = Simulator()
    leaf = simulator.leaf(Limits(bps=MIB))
    simulator.run(100)
    simulator.change_limits(leaf, Limits(bps=1000 * MIB))
    client = simulator.client(leaf, READ, 64 * KIB, 64)
    simulator.run(0.01)
    seconds = 0.01 + SLACK / SECOND
    assert client.nbytes <= 1000 * MIB * seconds + 64 * KIB
