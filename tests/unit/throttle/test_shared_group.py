"""A group that holds a part of limits for as long as a lease lasts."""

from __future__ import annotations

import pytest

from tests.unit.throttle.simulator import KIB, MIB, READ, SECOND, START, WRITE, Simulator
from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.throttle.bucket import MICRO
from throttlefs.throttle.group import Group
from throttlefs.throttle.leaf import Leaf
from throttlefs.throttle.shared_group import NO_DEMAND, SharedGroup
from throttlefs.throttle.shared_meter import NOTHING, Rates

WHOLE = Limits(bps=100 * MIB)
LATER = START + 1000 * SECOND


def rates(**given: float) -> Rates:
    names = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")
    return tuple(float(given.get(name, 0)) for name in names)


class Shared:
    """A shared group in a simulator, on whose clock its leases end."""

    def __init__(self, limits: Limits = WHOLE, parent: Group | None = None) -> None:
        self.simulator = Simulator()
        self.group = SharedGroup("tenant", lambda: self.simulator.now)
        self.asked: list[int] = []
        self.group.on_demand = self.asked.append
        self.simulator._place(self.group, limits, parent, 100)

    def hold(self, until: int = LATER, **given: float) -> None:
        now = self.simulator.now
        self.group.meter.hold(rates(**given), until, now)
        self.simulator.scheduler.look_again(self.group, now)

    def leaf(self, limits: Limits = NO_LIMITS, weight: int = 100) -> Leaf:
        return self.simulator.leaf(limits, self.group, weight)

    def went(self) -> int:
        return sum(release.nbytes for release in self.simulator.releases)


def test_nothing_goes_before_anything_is_held():
    shared = Shared()
    shared.simulator.client(shared.leaf(), READ, 64 * KIB)
    shared.simulator.run(5)
    assert shared.went() == 0
    assert shared.asked[0] == READ
    shared.hold(bps=10 * MIB)
    shared.simulator.run(2)
    assert shared.went() == pytest.approx(20 * MIB, rel=0.02)


def test_a_lease_ends_by_itself_and_lets_nothing_more_go():
    shared = Shared()
    shared.simulator.client(shared.leaf(), READ, 64 * KIB)
    shared.hold(START + SECOND // 2, bps=10 * MIB)
    shared.simulator.run(3)
    assert shared.went() == pytest.approx(5 * MIB, rel=0.02)
    assert all(release.instant < START + SECOND // 2 for release in shared.simulator.releases)
    shared.hold(bps=10 * MIB)
    shared.simulator.run(1)
    assert shared.went() == pytest.approx(15 * MIB, rel=0.02)


def test_a_request_that_would_not_have_to_wait_finds_the_lease_over_too():
    shared = Shared()
    leaf = shared.leaf()
    shared.hold(START + SECOND, bps=10 * MIB)
    scheduler = shared.simulator.scheduler
    assert scheduler.try_pass(leaf, READ, 4096, START)
    shared.simulator.now = START + SECOND
    assert not scheduler.try_pass(leaf, READ, 4096, START + SECOND)


def test_what_is_owed_stays_owed_while_nothing_is_held():
    shared = Shared()
    leaf = shared.leaf()
    shared.hold(bps=MIB)
    assert shared.simulator.scheduler.try_pass(leaf, READ, MIB, START)
    shared.hold()
    shared.simulator.run(60)
    shared.hold(bps=MIB)
    shared.simulator.client(leaf, READ, 4096, depth=1, once=True)
    shared.simulator.run(0.9)
    assert not shared.simulator.releases
    shared.simulator.run(0.2)
    assert shared.simulator.releases


def test_a_direction_without_a_part_waits_and_the_other_goes_on():
    shared = Shared(Limits(bps=10 * MIB, bps_wr=MIB))
    leaf = shared.leaf()
    shared.hold(bps=5 * MIB)
    shared.simulator.client(leaf, READ, 64 * KIB)
    writer = shared.simulator.client(shared.leaf(), WRITE, 64 * KIB)
    shared.simulator.run(1)
    assert shared.went() == pytest.approx(5 * MIB, rel=0.05)
    assert writer.requests == 0
    assert set(shared.asked) == {WRITE}


def test_limits_of_one_direction_leave_the_other_alone():
    shared = Shared(Limits(bps_rd=MIB))
    assert shared.simulator.scheduler.try_pass(shared.leaf(), WRITE, MIB, START)
    assert not shared.simulator.scheduler.try_pass(shared.leaf(), READ, MIB, START)


def test_more_than_the_limit_cannot_be_held():
    shared = Shared()
    shared.hold(bps=500 * MIB)
    assert shared.group.meter.held[0] == 100 * MIB
    shared.simulator.change_limits(shared.group, Limits(bps=MIB))
    assert shared.group.meter.held[0] == MIB
    assert shared.group.buckets[READ][1].rate == MIB * MICRO


def test_members_share_by_the_limits_of_all_hosts():
    """What this host holds of bytes and of requests may be in another proportion."""
    shared = Shared(Limits(bps=100 * MIB, iops=1000))
    shared.hold(bps=5 * MIB, iops=500)
    large = shared.simulator.client(shared.leaf(), READ, MIB)
    small = shared.simulator.client(shared.leaf(), READ, 4 * KIB)
    shared.simulator.run(20)
    # By dominant shares: 1 MiB is a hundredth of bps, and ten requests a hundredth of iops.
    assert small.requests == pytest.approx(10 * large.requests, rel=0.1)


# What members ask for.


def test_nobody_asks_for_anything():
    shared = Shared()
    assert shared.group.measure(START + SECOND) == NO_DEMAND
    assert shared.group.is_idle(START + SECOND, 0)


def test_members_that_are_held_up_ask_by_weight():
    shared = Shared()
    shared.hold(bps=10 * MIB)
    shared.simulator.client(shared.leaf(weight=300), READ, MIB)
    shared.simulator.client(shared.leaf(), WRITE, 4 * KIB)
    shared.simulator.run(1)
    read, write = shared.group.measure(shared.simulator.now)
    assert read.growing[0] == pytest.approx(300 * 100 * MIB)
    assert read.growing[1] == pytest.approx(300 * 100)
    assert write.growing[0] == pytest.approx(100 * 100 * MIB)
    assert read.steady == write.steady == (0, 0)
    assert shared.group.is_held_up(shared.simulator.now)


def test_members_with_limits_of_their_own_ask_for_little_more_than_they_use():
    shared = Shared()
    shared.hold(bps=10 * MIB)
    shared.simulator.client(shared.leaf(Limits(bps=MIB)), READ, 16 * KIB)
    shared.simulator.run(1)
    shared.group.measure(shared.simulator.now)
    shared.simulator.run(1)
    read, write = shared.group.measure(shared.simulator.now)
    assert read.growing == (0, 0)
    assert read.steady[0] == pytest.approx(1.2 * MIB, rel=0.05)
    assert read.full_at == pytest.approx(1.2 / 100 / 100, rel=0.05)
    assert write.is_idle
    assert not shared.group.is_held_up(shared.simulator.now)


def test_what_waits_behind_the_first_after_idleness_is_held_up_if_that_takes_long():
    shared = Shared()
    shared.hold(bps=MIB)
    shared.simulator.run(1)
    shared.simulator.client(shared.leaf(), READ, 64 * KIB, depth=4)
    shared.simulator.run(0.001)
    assert shared.group.is_held_up(shared.simulator.now)
    assert shared.group.measure(shared.simulator.now)[READ].growing[0] > 0


def test_who_waits_behind_a_closed_lease_asks_before_anything_went():
    shared = Shared()
    inner = shared.simulator.group(parent=shared.group)
    leaf = shared.simulator.leaf(parent=inner)
    shared.simulator.client(leaf, READ, 64 * KIB, depth=1)
    shared.simulator.run(0.01)
    read, _ = shared.group.measure(shared.simulator.now)
    assert read.growing[0] == pytest.approx(100 * 100 * MIB)


def test_a_group_is_idle_when_it_has_paid():
    shared = Shared()
    shared.hold(bps=MIB)
    assert shared.simulator.scheduler.try_pass(shared.leaf(), READ, MIB, START)
    assert not shared.group.is_idle(START + SECOND // 2, 25_000_000)
    assert shared.group.is_idle(START + SECOND + 1, 25_000_000)


def test_what_was_not_moved_is_not_counted():
    shared = Shared()
    shared.hold(bps=MIB)
    leaf = shared.leaf()
    scheduler = shared.simulator.scheduler
    assert scheduler.try_pass(leaf, READ, MIB, START)
    scheduler.refund(leaf, READ, MIB, 4096, START)
    assert shared.group.used == [4096, 0, 1, 0]
    scheduler.refund(leaf, READ, 4096, None, START)  # withdrawn after all
    assert shared.group.used == [0, 0, 0, 0]
    shared.simulator.change_parent(leaf, None)
    assert shared.group.measure(START + SECOND) == NO_DEMAND


def test_a_new_limit_is_told():
    told = []
    shared = Shared()
    shared.group.on_change = lambda: told.append(shared.group.meter.limits)
    shared.simulator.change_limits(shared.group, Limits(iops=5))
    assert told == [Limits(iops=5)]
    assert shared.group.meter.held == NOTHING
