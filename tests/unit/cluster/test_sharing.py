"""How hosts share one limit: real limiters and keepers on a virtual clock."""

from __future__ import annotations

import pytest

from tests.unit.cluster.sharing_world import TENANT, by_client, holds, until, world_of
from tests.unit.cluster.simulator import KIB, MIB, MS, SECOND, START
from throttlefs.settings.limits import Limits
from throttlefs.throttle import NO_DEMAND, READ, WRITE, Flow

# Shares.


def test_two_hosts_have_half_each_within_ten_milliseconds():
    world = world_of(2)
    a, b = world.hosts
    first = a.client("x")
    world.run(1)
    assert by_client(world, [first], 0.5) == [pytest.approx(495, rel=0.01)]
    second = b.client("y")
    took = until(world, lambda: all(abs(holds(host) - 247.5) < 12 for host in (a, b)))
    assert took <= 0.010
    world.run(1)
    assert by_client(world, [first, second], 0.8) == pytest.approx([247.5, 247.5], rel=0.01)


def test_a_host_that_comes_back_has_its_half_as_soon():
    """After idleness its buckets had time to spare, which says nothing of what waits now."""
    world = world_of(2)
    a, b = world.hosts
    a.client("x")
    for _ in range(3):
        client = b.client("y")
        took = until(world, lambda: all(abs(holds(host) - 247.5) < 12 for host in (a, b)))
        assert took <= 0.010
        world.run(0.5)
        client.stopped = True
        assert until(world, lambda: abs(holds(a) - 495) < 25) <= 0.100
        world.run(0.5)


def test_weights_of_members_count_on_whatever_host_they_are():
    world = world_of(4)
    a, b, c, d = world.hosts
    ten = [a.client(f"x{number}") for number in range(10)]
    one, three = b.client("y"), c.client("z", weight=300)
    small = d.client("small", 4 * KIB, depth=1)
    world.run(1.5)
    rates = by_client(world, [*ten, one, three, small], 0.5)
    assert rates[:11] == pytest.approx([33] * 11, rel=0.05)
    assert rates[11] == pytest.approx(99, rel=0.05)
    assert rates[12] == pytest.approx(33, rel=0.05)


def test_a_host_of_ten_members_is_fair_beside_one_of_one():
    world = world_of(2)
    a, b = world.hosts
    clients = [a.client(f"x{number}") for number in range(10)] + [b.client("y")]
    world.run(3)
    rates = by_client(world, clients, 1)
    assert sum(rates) ** 2 / (len(rates) * sum(rate**2 for rate in rates)) > 0.999


def test_limits_of_one_direction_inside_a_total():
    world = world_of(3, Limits(bps=500_000_000, bps_rd=200_000_000))
    a, b, c = world.hosts
    clients = [
        a.client("r"),
        a.client("w", direction=WRITE),
        b.client("r", direction=READ),
        c.client("w", direction=WRITE),
    ]
    world.run(3)
    assert by_client(world, clients, 1) == pytest.approx([99, 148.5, 99, 148.5], rel=0.05)


def test_bytes_and_requests_are_shared_by_the_scarcer():
    world = world_of(2, Limits(bps=500_000_000, iops=20_000))
    a, b = world.hosts
    large, small, other = a.client("l", MIB), a.client("s", 4 * KIB), b.client("o", 4 * KIB)
    world.run(1.5)
    rates = by_client(world, [large, small, other], 0.5)
    assert rates[0] / 500 == pytest.approx(0.49, rel=0.05)
    assert [rate * 1e6 / 4096 / 20_000 for rate in rates[1:]] == pytest.approx([0.49] * 2, rel=0.05)


@pytest.mark.parametrize("lateness", [0, 100_000])
def test_a_member_that_wants_little_gets_it_and_the_others_share_the_rest(lateness):
    world = world_of(3, Limits(bps=200_000_000))
    world.lateness = lateness
    a, b, c = world.hosts
    little = a.client("x", limits=Limits(bps=8_000_000))
    others = [b.client("y"), c.client("z")]
    world.run(3)
    rates = by_client(world, [little, *others], 1)
    assert rates[0] == pytest.approx(8, rel=0.05)
    assert rates[1] == pytest.approx(rates[2], rel=0.03)
    assert sum(rates) > 194


def test_demands_of_different_slopes():
    """Twice and eight times the weight of one, of which the first could use 200 at most."""
    world = world_of(3)
    a, b, c = world.hosts
    clients = [
        a.client("x", weight=200, limits=Limits(bps=200_000_000)),
        b.client("y", weight=100),
        c.client("z", weight=800),
    ]
    world.run(3)
    assert by_client(world, clients, 1) == pytest.approx([90, 45, 360], rel=0.02)
    assert world.highest <= 1


def test_fractions_of_a_request_a_second_are_shared():
    world = world_of(2, Limits(iops=5))
    a, b = world.hosts
    clients = [a.client("x", 4 * KIB, 4), b.client("y", 4 * KIB, 4)]
    world.run(60)
    for client in clients:
        count = sum(1 for instant, one, _ in world.went if one is client and instant > START)
        assert count == pytest.approx(60 * 2.475, abs=4)


# Changes.


def test_twenty_hosts_that_start_together_are_fair_at_once():
    world = world_of(20)
    for host in world.hosts:
        host.client("x")
    share = 495 / 20
    took = until(
        world, lambda: all(abs(holds(host) - share) <= 0.05 * share for host in world.hosts), 0.001
    )
    assert took <= 0.030


def test_a_host_that_is_left_alone_gets_all():
    world = world_of(20)
    clients = [host.client("x", depth=2) for host in world.hosts]
    world.run(1)
    for client in clients[1:]:
        client.stopped = True
    took = until(world, lambda: holds(world.hosts[0]) > 0.89 * 495)
    assert took <= 0.100


def test_a_client_that_wakes_an_idle_group_waits_for_one_round_trip():
    world = world_of(2)
    world.delay = lambda: 500_000
    client = world.hosts[0].client("x", 4 * KIB, depth=1, pause=400 * MS)
    world.run(5)
    assert client.waits
    assert max(client.waits) <= 1.1 * MS


def test_an_idle_host_gets_something_at_once_while_others_use_all():
    world = world_of(10)
    for host in world.hosts[:9]:
        host.client("x")
    world.run(2)
    newcomer = world.hosts[9].client("y", 4 * KIB, depth=1)
    world.run(0.003)
    assert newcomer.bytes > 0


def test_the_limit_changes_on_all_hosts():
    world = world_of(3)
    clients = [host.client("x") for host in world.hosts]
    world.run(1)
    a = world.hosts[0]
    world.excused = True  # who has not heard of it yet goes on
    a.throttle.set_group_limits("tenant", Limits(bps=100_000_000))
    world.run(0.5)
    world.excused, world.limits = False, Limits(bps=100_000_000)
    world.run(1.5)
    assert all(host.group.meter.limits == world.limits for host in world.hosts)
    assert by_client(world, clients, 1) == pytest.approx([33, 33, 33], rel=0.05)
    late = world.host()
    world.run(1)
    late.group.meter.change(TENANT, world.now)  # what its file says is a mere proposal
    assert late.keeper.limits == world.limits


def test_a_daemon_proposes_its_limits_and_takes_those_in_force():
    world = world_of(1)
    world.limits = Limits(bps=1_000_000)
    late = world.host()
    world.limits = TENANT
    world.run(1)
    assert late.group.meter.limits == TENANT


def test_a_burst_is_shared():
    limits = Limits(bps=100_000_000, bps_max=400_000_000, bps_max_length=10)
    world = world_of(3, limits)
    world.excused = True  # a burst's rate is above the limit's
    began = (world.now - START) / SECOND
    for host in world.hosts:
        host.client("x")
    world.run(30)
    assert world.total(began + 1, began + 9) == pytest.approx(396e6, rel=0.05)
    assert world.total(began + 22, began + 30) == pytest.approx(100e6, rel=0.05)
    volume = sum(size for _, _, size in world.went) - 100e6 * 30
    assert volume <= 4000e6
    assert volume >= 0.85 * 4000e6


# Bounds.


def test_no_window_has_more_than_the_bound():
    world = world_of(5)
    for number, host in enumerate(world.hosts):
        host.client("x", 64 * KIB if number % 2 else MIB, pause=number * 3 * MS)
        host.client("y", depth=1, pause=40 * MS)
    world.run(2)
    rate = 500e6
    for window in (0.01, 0.1, 1):
        bound = rate * (window + 0.002) + 5 * MIB
        assert world.largest_window(window) <= bound


def test_a_host_asks_no_more_often_than_it_may():
    world = world_of(4)
    for host in world.hosts:
        host.client("x", depth=1, pause=30 * MS)
        host.client("y", depth=1, pause=70 * MS)
    world.run(1)
    before = [host.calls for host in world.hosts]
    world.run(20)
    for host, calls in zip(world.hosts, before, strict=True):
        assert host.calls - calls <= 20 * 16


def test_busy_hosts_call_seldom():
    world = world_of(20)
    for host in world.hosts:
        host.client("x")
    world.run(1)
    before = sum(host.calls for host in world.hosts)
    world.run(2)
    assert sum(host.calls for host in world.hosts) - before <= 20 * 2 * 6


def test_nothing_is_asked_for_where_nothing_is_asked():
    world = world_of(1)
    assert world.hosts[0].group.measure(world.now) == NO_DEMAND
    assert Flow().is_idle
