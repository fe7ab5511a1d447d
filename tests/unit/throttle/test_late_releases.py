"""What waits loses nothing of its rate when the daemon itself was kept from the CPU."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.throttle.simulator import KIB, MIB, READ, SECOND, Simulator
from tests.unit.throttle.test_bounds import assert_held
from tests.unit.throttle.test_shared_group import Shared
from throttlefs.settings.limits import Limits
from throttlefs.throttle.node import CATCH_UP, SLACK

MS = 1_000_000
LIMITS = [Limits(iops=500), Limits(bps=500 * 4 * KIB)]


def run_with_stalls(simulator: Simulator, seconds: float, stall: int, every: int) -> None:
    """Let time go by; for *stall* ns of each *every* ns nobody asks the scheduler."""
    for _ in range(round(seconds * SECOND) // every):
        simulator.run((every - stall) / SECOND)
        simulator.now += stall


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("stall", [1, 6, 15, 20])
def test_a_backlog_keeps_its_rate(limits: Limits, stall: int) -> None:
    """On a busy machine 437 of 500 requests a second went: each stall cost all but the slack."""
    simulator = Simulator()
    simulator.client(simulator.leaf(limits), READ, 4 * KIB, depth=16)
    run_with_stalls(simulator, 10, stall * MS, 50 * MS)
    assert abs(len(simulator.releases) - 5000) <= 10 + 1


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_so_does_the_backlog_of_a_group(limits: Limits) -> None:
    simulator = Simulator()
    group = simulator.group(limits)
    for _ in range(4):
        simulator.client(simulator.leaf(parent=group), READ, 4 * KIB, depth=8)
    run_with_stalls(simulator, 10, 15 * MS, 50 * MS)
    assert abs(len(simulator.releases) - 5000) <= 10 + 1


def test_a_request_that_nobody_waits_behind_loses_nothing_either() -> None:
    simulator = Simulator()
    simulator.client(simulator.leaf(Limits(iops=40)), READ, 4 * KIB, depth=1)
    run_with_stalls(simulator, 10, 20 * MS, 50 * MS)
    assert abs(len(simulator.releases) - 400) <= 2


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_a_client_with_one_request_at_a_time_catches_up_by_those_that_follow(
    limits: Limits,
) -> None:
    simulator = Simulator()
    simulator.client(simulator.leaf(limits), READ, 4 * KIB, depth=1)
    run_with_stalls(simulator, 10, 15 * MS, 50 * MS)
    assert abs(len(simulator.releases) - 5000) <= 10 + 1


def test_others_do_not_catch_up_with_it() -> None:
    simulator = Simulator()
    late, other = simulator.leaf(Limits(iops=500)), simulator.leaf(Limits(iops=500))
    simulator.client(late, READ, 4 * KIB, depth=1)
    simulator.run(0.1)
    simulator.now += 15 * MS
    simulator.run(1 / SECOND)
    before = len(simulator.releases)
    simulator.client(other, READ, 4 * KIB, depth=50, once=True)
    simulator.run(1 / SECOND)
    gone = [release for release in simulator.releases[before:] if release.leaf is other]
    assert len(gone) <= 1 + SLACK // (2 * MS) + 1


def test_a_long_stall_is_made_up_for_by_no_more_than_the_most() -> None:
    simulator = Simulator()
    leaf = simulator.leaf(Limits(iops=1000))
    simulator.client(leaf, READ, 4 * KIB, depth=1000)
    simulator.run(0.1)
    before = len(simulator.releases)
    simulator.now += 10 * SECOND
    simulator.run(0)
    simulator.run(1 / SECOND)
    at_once = len(simulator.releases) - before
    assert at_once == pytest.approx((CATCH_UP + SLACK) // MS, abs=2)
    simulator.run(0.1)
    assert len(simulator.releases) - before == pytest.approx(at_once + 100, abs=2)


def test_a_client_that_asks_late_catches_up_no_more_than_the_slack() -> None:
    simulator = Simulator()
    leaf = simulator.leaf(Limits(iops=1000))
    # Each answer is followed by 10 ms of nothing, and the scheduler is never late.
    simulator.client(leaf, READ, 4 * KIB, depth=1, pause=10 * MS)
    simulator.run(0.1)
    before = len(simulator.releases)
    simulator.client(leaf, READ, 4 * KIB, depth=50, once=True)
    simulator.run(0.01)
    assert len(simulator.releases) - before <= 10 + 1 + SLACK // MS + 1


def test_a_group_that_other_hosts_share_catches_up_no_more_than_the_slack() -> None:
    """What this host did not use, others may have had meanwhile."""
    shared = Shared(Limits(iops=1000))
    shared.hold(iops=1000)
    simulator = shared.simulator
    simulator.client(shared.leaf(), READ, 4 * KIB, depth=1000)
    simulator.run(0.1)
    before = len(simulator.releases)
    simulator.now += 20 * MS
    simulator.run(1 / SECOND)
    assert 1 <= len(simulator.releases) - before <= SLACK // MS + 1


@settings(deadline=None)
@given(
    limits=st.sampled_from([Limits(iops=1000), Limits(bps=8 * MIB), Limits(iops_rd=100)]),
    depth=st.integers(1, 40),
    pause=st.integers(0, 20 * MS),
    stalls=st.lists(
        st.tuples(st.integers(0, 60 * MS), st.integers(0, 60 * MS)), min_size=1, max_size=20
    ),
    in_group=st.booleans(),
)
def test_no_window_has_more_than_the_longest_stall_allows(
    limits: Limits, depth: int, pause: int, stalls: list[tuple[int, int]], in_group: bool
) -> None:
    simulator = Simulator()
    if in_group:
        node = simulator.group(limits)
        leaf = simulator.leaf(parent=node)
    else:
        node = leaf = simulator.leaf(limits)
    simulator.client(leaf, READ, 4 * KIB, depth, pause=pause)
    longest = 0
    for punctual, stall in stalls:
        simulator.run(punctual / SECOND)
        simulator.now += stall
        longest = max(longest, stall)
    simulator.run(0.05)
    lag = SLACK + min(CATCH_UP, longest)
    assert_held(node, simulator.releases, Fraction(lag))
