"""How hosts that share a limit go on while others, the store, or its clock fail."""

from __future__ import annotations

import pytest

from tests.unit.cluster.sharing_world import SETTLED, TENANT, by_client, holds, until, world_of
from tests.unit.cluster.simulator import KIB, SECOND, START, World
from throttlefs.cluster.keeper import State
from throttlefs.settings.limits import Limits
from throttlefs.settings.shared import OnLost


def test_the_share_of_a_dead_host_is_another_s():
    world = world_of(2)
    a, b = world.hosts
    a.client("x")
    b.client("y")
    world.run(1)
    a.kill()
    took = until(world, lambda: holds(b) > 0.98 * 495)
    assert took <= 1.4
    assert took >= 0.6


def test_a_daemon_that_was_stopped_finds_its_lease_over():
    world = world_of(2)
    a, b = world.hosts
    stopped = a.client("x")
    b.client("y")
    world.run(1)
    before = stopped.bytes
    a.pause(10 * SECOND)
    world.run(9.999)
    assert stopped.bytes == before
    assert holds(b) > 0.98 * 495
    resumed = world.now
    world.run(0.0015)
    at_once = sum(size for instant, one, size in world.went if one is stopped and instant > resumed)
    assert at_once <= 256 * KIB
    world.run(1)
    assert holds(a) == pytest.approx(247.5, rel=0.05)


@pytest.mark.parametrize("back", ["wiped", "rolled back"])
def test_a_store_that_lost_its_state_lets_nobody_have_more_for_a_second(back):
    world = world_of(4)
    clients = [host.client("x") for host in world.hosts[:3]]
    snapshot = world.store.snapshot()
    world.run(1)
    world.hosts[3].client("y")
    world.run(1)
    before = [holds(host) for host in world.hosts]
    world.store.server = "1"
    if back == "wiped":
        world.store.wipe()
    else:
        world.store.restore(snapshot)
    for _ in range(19):
        world.run(0.05)
        assert all(
            holds(host) <= was * 1.001 for host, was in zip(world.hosts, before, strict=True)
        )
    world.run(2)
    assert by_client(world, clients, 0.5) == pytest.approx([495 / 4] * 3, rel=0.06)
    assert world.highest <= 1


@pytest.mark.parametrize(
    ("on_lost", "part"),
    [(OnLost.CLOSED, 0), (OnLost.SHARE, 0.99), (OnLost.KEEP, 0.99), (OnLost.OPEN, 2)],
)
def test_what_is_used_while_the_store_is_away(on_lost, part):
    world = world_of(2, on_lost=on_lost, warm=SETTLED)
    for host in world.hosts:
        host.client("x")
    world.run(1)
    world.excused = on_lost is OnLost.OPEN
    world.store_is_up = False
    world.run(4)
    now = (world.now - START) / SECOND
    assert world.total(now - 1, now) / 500e6 == pytest.approx(part, abs=0.02)
    world.store_is_up = True
    world.run(1.5)
    world.excused = False
    world.run(1)
    assert all(holds(host) == pytest.approx(247.5, rel=0.02) for host in world.hosts)


def test_a_store_that_comes_back_lets_nobody_have_more_before_all_are_back():
    world = world_of(5, warm=SETTLED)
    for host in world.hosts:
        host.client("x")
    world.run(1)
    world.store_is_up = False
    world.run(5)
    assert all(host.keeper.standing.state is State.LOST for host in world.hosts)
    assert all(holds(host) == pytest.approx(99, rel=0.02) for host in world.hosts)
    world.store_is_up = True
    world.run(3)
    assert all(holds(host) == pytest.approx(99, rel=0.02) for host in world.hosts)
    assert world.highest <= 1


def test_an_idle_host_goes_on_without_the_store_too():
    world = world_of(2, warm=SETTLED)
    world.store_is_up = False
    client = world.hosts[0].client("x")
    world.run(10)
    assert world.hosts[0].keeper.standing.state is State.LOST
    assert by_client(world, [client], 2)[0] == pytest.approx(247.5, rel=0.02)


def test_a_mount_made_while_the_store_is_away_gets_a_hundredth():
    world = World(TENANT)
    world.store_is_up = False
    client = world.host().client("x")
    world.run(4)
    assert by_client(world, [client], 2)[0] == pytest.approx(5, rel=0.1)


def test_a_server_whose_clock_jumps_takes_nothing_from_anybody():
    world = world_of(3)
    for host in world.hosts:
        host.client("x")
    world.run(1)
    for step in (3600_000_000, -7200_000_000):
        world.store_clock += step
        for _ in range(30):
            world.run(0.1)
            assert all(holds(host) == pytest.approx(165, rel=0.05) for host in world.hosts)
    world.hosts[0].kill()
    world.run(2.5)
    assert holds(world.hosts[1]) == pytest.approx(247.5, rel=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_gates_that_open_together_keep_to_the_bound(seed):
    world = World(Limits(bps=100_000_000), seed)
    for _ in range(2):
        world.host(OnLost.CLOSED)
    world.run(SETTLED)
    for host in world.hosts:
        host.client("x")
    world.run(1)
    world.store_is_up = False
    world.run(5 + seed * 0.013)
    assert all(holds(host) == 0 for host in world.hosts)
    world.went.clear()
    world.store_is_up = True
    world.run(2)
    assert 0 < world.largest_window(0.01) <= 100e6 * 0.012 + 2 * 256 * KIB
