"""A disk behind the limiter that changes in flight, comes or goes, on a virtual clock."""

from __future__ import annotations

import pytest

from tests.unit.device.simulator import MS, SECOND, Simulator, device
from throttlefs.settings.limits import Limits
from throttlefs.throttle.station import FLUSH


def test_more_places_are_used_at_once():
    simulator = Simulator()
    leaf = simulator.leaf(device(latency="10ms", queue_depth=1))
    client = simulator.client(leaf, depth=16)
    simulator.run(1)
    assert len(client.served) == pytest.approx(100, abs=1)
    simulator.change(leaf, device(latency="10ms", queue_depth=4))
    client.served.clear()
    simulator.run(1)
    assert len(client.served) == pytest.approx(400, abs=4)
    simulator.change(leaf, device(latency="10ms", queue_depth=2))
    simulator.run(0.05)
    client.served.clear()
    simulator.run(1)
    assert len(client.served) == pytest.approx(200, abs=2)


def test_a_shorter_latency_holds_for_what_is_being_served():
    simulator = Simulator()
    leaf = simulator.leaf(device(latency="1h", queue_depth=1))
    client = simulator.client(leaf, depth=3)
    simulator.run(1)
    simulator.change(leaf, device(latency="2ms", queue_depth=1))
    simulator.run(0.02)
    assert client.times[0] == SECOND
    assert set(client.times[1:]) == {2 * MS}


@pytest.mark.parametrize("shared", [False, True])
def test_without_its_device_everything_goes(shared):
    simulator = Simulator()
    slow = device(latency="1h", latency_flush="1h", queue_depth=2)
    holder = simulator.group(slow) if shared else simulator.leaf(slow)
    leaf = simulator.leaf(parent=holder) if shared else holder
    once = simulator.now + MS
    reads = simulator.client(leaf, depth=5, stop=once)
    flushes = simulator.client(leaf, FLUSH, depth=2, stop=once)
    simulator.run(1)
    assert not reads.served
    simulator.change(holder, None)
    simulator.run(0.001)
    assert len(reads.served) == 5
    assert len(flushes.served) == 2


def test_a_device_can_come_while_requests_wait():
    simulator = Simulator()
    group = simulator.group(None, Limits(iops=100))
    client = simulator.client(simulator.leaf(parent=group), depth=4)
    simulator.run(1)
    simulator.change(group, device(latency="100ms", queue_depth=1))
    client.served.clear()
    simulator.run(5)
    assert len(client.served) == pytest.approx(50, abs=3)


def test_an_image_that_moves_waits_for_the_places_of_its_new_group():
    simulator = Simulator()
    slow = simulator.group(device(latency="1s", queue_depth=1))
    fast = simulator.group(device(latency="10ms", queue_depth=1))
    leaf = simulator.leaf(parent=slow)
    client = simulator.client(leaf, depth=4)
    simulator.run(1.5)
    assert len(client.served) == 1
    simulator.scheduler.change_parent(leaf, fast, simulator.now)
    simulator.run(1)
    assert len(client.served) == pytest.approx(100, abs=5)


def test_a_member_gets_a_device_of_its_own_and_loses_it():
    simulator = Simulator()
    group = simulator.group(device(latency="20ms", queue_depth=1))
    one, other = (simulator.leaf(parent=group) for _ in range(2))
    first, second = simulator.client(one, depth=4), simulator.client(other, depth=4)
    simulator.run(1)
    simulator.change(one, device(latency="1ms", queue_depth=1))
    first.served.clear()
    second.served.clear()
    simulator.run(1)
    assert len(first.served) == pytest.approx(1000, abs=25)
    assert len(second.served) == pytest.approx(50, abs=2)
    simulator.change(one, None)
    first.served.clear()
    second.served.clear()
    simulator.run(2)
    assert len(first.served) == pytest.approx(50, abs=3)
    assert len(second.served) == pytest.approx(50, abs=3)
