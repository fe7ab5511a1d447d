"""A disk behind the limiter, on a virtual clock."""

from __future__ import annotations

from itertools import count
from random import Random

import pytest

from tests.unit.device.simulator import GIB, MS, SECOND, Simulator, device
from throttlefs.settings.limits import Limits
from throttlefs.throttle.meter import READ, WRITE
from throttlefs.throttle.station import FLUSH

US = 1000


def anywhere(seed, size=GIB):
    generator = Random(seed)
    return (generator.randrange(size // 4096) * 4096 for _ in count())


def percentile(times, part):
    return sorted(times)[int(len(times) * part)]


# Latencies.


def test_percentiles_of_what_is_served_are_those_of_the_device():
    simulator = Simulator()
    leaf = simulator.leaf(
        device(latency_rd="200us/2ms/10ms", latency_wr="1ms/3ms/4ms", latency_flush="8ms", seed=1)
    )
    for kind, points in ((READ, (0.2, 2, 10)), (WRITE, (1, 3, 4)), (FLUSH, (8, 8, 8))):
        client = simulator.client(leaf, kind)
        simulator.run(30)
        client.stop = 0
        simulator.run(1)
        assert len(client.times) > 3000
        for part, milliseconds in zip((0.5, 0.99, 0.999), points, strict=True):
            assert percentile(client.times, part) == pytest.approx(milliseconds * MS, rel=0.05)


def test_the_same_seed_and_requests_take_the_same():
    def times(seed):
        simulator = Simulator()
        leaf = simulator.leaf(device(latency="1ms/5ms/9ms", seed=seed))
        client = simulator.client(leaf, depth=3)
        simulator.run(5)
        return client.times

    assert times("7") == times("7")
    assert times("7") != times("8")


def test_without_a_seed_two_disks_differ():
    simulator = Simulator()
    slow = device(latency="1ms/5ms/9ms")
    one, other = (simulator.client(simulator.leaf(slow)) for _ in range(2))
    simulator.run(5)
    assert one.times[:100] != other.times[:100]


def test_a_large_request_draws_once():
    simulator = Simulator()
    leaf = simulator.leaf(device(latency="5ms"), Limits(iops=100_000, iops_size=4096))
    client = simulator.client(leaf, size=1 << 20)
    simulator.run(1)
    assert set(client.times) == {5 * MS}


def test_a_durable_write_has_the_latency_of_a_flush_too():
    simulator = Simulator()
    leaf = simulator.leaf(device(latency_wr="2ms", latency_flush="7ms"))
    client = simulator.client(leaf, WRITE, durable=True)
    simulator.run(1)
    assert set(client.times) == {9 * MS}


def test_latency_comes_after_the_limits_and_adds_nothing_to_their_pace():
    simulator = Simulator()
    leaf = simulator.leaf(device(latency="20ms"), Limits(iops=100))
    client = simulator.client(leaf, depth=16)
    simulator.run(10)
    assert len(client.served) == pytest.approx(1000, abs=5)
    assert set(client.times) == {20 * MS}


# Places.


@pytest.mark.parametrize(
    ("places", "depth", "late"),
    # A client that waits for its own answer loses the time by which timers are late.
    [(1, 1, 0), (1, 8, 0), (4, 32, 0), (1, 2, 300 * US), (4, 32, 300 * US), (32, 64, 300 * US)],
)
def test_n_places_serve_n_requests_in_each_latency(places, depth, late):
    simulator = Simulator(late)
    leaf = simulator.leaf(device(latency="4ms", queue_depth=places))
    client = simulator.client(leaf, depth=depth)
    simulator.run(10)
    expected = 10 * places * 250
    assert len(client.served) == pytest.approx(expected, rel=0.01, abs=depth)


def test_an_early_answer_makes_up_for_the_way_and_for_nothing_else():
    simulator = Simulator(early=25 * US)
    leaf = simulator.leaf(device(latency="4ms", queue_depth=4))
    client = simulator.client(leaf, depth=4, pause=25 * US)
    simulator.run(10)
    assert len(client.served) == pytest.approx(10_000, abs=4)
    assert set(client.times) == {4 * MS - 25 * US}


@pytest.mark.parametrize("depth", [4, 64])
def test_early_answers_do_not_make_a_device_faster(depth):
    simulator = Simulator(early=25 * US)
    leaf = simulator.leaf(device(latency="1ms", queue_depth=4))
    client = simulator.client(leaf, depth=depth)
    simulator.run(10)
    assert len(client.served) == pytest.approx(40_000, abs=depth)


def test_places_are_never_exceeded_and_requests_start_in_order():
    simulator = Simulator()
    leaf = simulator.leaf(device(latency="1ms/20ms/50ms", queue_depth=3, seed=1))
    simulator.client(leaf, depth=20)
    most = 0
    for _ in range(500):
        simulator.run(0.002)
        most = max(most, len(leaf.device.serving))
    assert most == 3


def test_more_places_than_requests_change_nothing():
    simulator = Simulator()
    leaf = simulator.leaf(device(latency="4ms", queue_depth=100))
    client = simulator.client(leaf, depth=8)
    simulator.run(2)
    assert set(client.served) == {(0, 4 * MS)}


# Bursts, as those of aws-gp2 with 100 GiB.


def test_a_burst_of_credits_lasts_its_two_thousand_seconds():
    limits = Limits(iops=300, iops_max=3000, iops_max_length=1800, iops_size=16384)
    simulator = Simulator()
    leaf = simulator.leaf(device(latency="1ms", queue_depth=64), limits)
    # Each counts as 50 requests.
    client = simulator.client(leaf, depth=16, size=50 * 16384)
    per_second = []
    for _ in range(2200):
        before = len(client.served)
        simulator.run(1)
        per_second.append(50 * (len(client.served) - before))
        client.served.clear()
    burst = [number for number, rate in enumerate(per_second) if rate > 2000]
    assert burst == list(range(len(burst)))
    assert len(burst) == pytest.approx(2000, abs=3)
    assert all(abs(rate - 3000) <= 50 for rate in per_second[5:1990])
    assert all(abs(rate - 300) <= 50 for rate in per_second[2010:])
    assert sum(per_second[2010:]) == pytest.approx(300 * 190, rel=0.01)


# Flushes.


def test_a_flush_takes_a_place_before_reads_that_wait():
    simulator = Simulator()
    leaf = simulator.leaf(device(latency="10ms", latency_flush="30ms", queue_depth=1))
    reads = simulator.client(leaf, depth=20)
    simulator.run(0.015)
    flush = simulator.client(leaf, FLUSH, stop=simulator.now + MS)
    simulator.run(0.1)
    assert flush.served == [(5 * MS, 30 * MS)]
    simulator.run(1)
    # It kept the place from the reads.
    assert len(reads.served) == pytest.approx((1.115 - 0.030) / 0.010, abs=2)


def test_a_flush_waits_for_no_limit():
    simulator = Simulator()
    leaf = simulator.leaf(device(latency_flush="3ms"), Limits(iops=1))
    simulator.client(leaf, WRITE, depth=10)
    flush = simulator.client(leaf, FLUSH, stop=simulator.now + MS)
    simulator.run(1)
    assert flush.served == [(0, 3 * MS)]


# The head.


def test_a_disk_reads_on_at_its_latency_alone():
    simulator = Simulator()
    leaf = simulator.leaf(device(latency="100us", seek="1ms/18ms", rpm="7200"))
    client = simulator.client(leaf, size=65536, offsets=count(0, 65536))
    simulator.run(0.5)
    assert set(client.times) == {100 * US}


def test_random_reads_seek_and_wait_for_the_disk_to_turn():
    simulator = Simulator()
    leaf = simulator.leaf(device(seek="1ms/18ms", rpm="7200", size="1G", seed=1))
    client = simulator.client(leaf, offsets=anywhere(3))
    simulator.run(60)
    # Over all pairs of places the root of the distance is 8/15 on average.
    mean = sum(client.times) / len(client.times)
    assert mean == pytest.approx((1 + 17 * 8 / 15 + 60_000 / 7200 / 2) * MS, rel=0.03)
    assert max(client.times) <= (18 + 60_000 / 7200) * MS + 1


def test_a_head_serves_one_at_a_time_in_order_whatever_waits_before_it():
    rates = []
    for depth in ("1", "32"):
        simulator = Simulator()
        leaf = simulator.leaf(device(latency="5ms", seek="5ms", queue_depth=depth))
        client = simulator.client(leaf, depth=64, offsets=anywhere(1))
        simulator.run(10)
        rates.append(len(client.served))
        assert len(leaf.device.serving) == int(depth)
    assert rates == pytest.approx([1000, 1000], abs=2)


def test_files_of_a_group_lie_one_behind_another_and_share_one_head():
    simulator = Simulator()
    group = simulator.group(device(seek="2ms/20ms", size="100G"))
    near, next_one = (simulator.leaf(parent=group, size=GIB) for _ in range(2))
    alone = simulator.client(near, size=4096, offsets=count(0, 4096), pause=MS)
    simulator.run(1)
    assert set(alone.times[1:]) == {0}  # nothing but what follows on
    simulator.client(next_one, size=4096, offsets=count(0, 4096), pause=MS)
    alone.served.clear()
    simulator.run(5)
    # Now the head goes to and fro over 1 GiB of 100.
    assert set(alone.times) != {0}
    assert percentile(alone.times, 0.9) == pytest.approx((2 + 18 * 0.1) * MS, rel=0.02)


# Fairness.


@pytest.mark.parametrize("places", ["1", "4"])
def test_members_share_a_device_by_service_time_whatever_their_depth(places):
    simulator = Simulator()
    group = simulator.group(device(latency="2ms/6ms/9ms", queue_depth=places, seed=1))
    clients = [
        simulator.client(simulator.leaf(parent=group), depth=depth, size=size)
        for depth, size in ((8, 4096), (64, 4096), (16, 1 << 20))
    ]
    simulator.run(60)
    busy = [client.busy for client in clients]
    assert max(busy) / min(busy) < 1.03
    assert sum(busy) == pytest.approx(60 * SECOND * int(places), rel=0.01)


def test_weights_decide_the_shares_of_a_device():
    simulator = Simulator()
    group = simulator.group(device(latency="2ms", queue_depth="2"))
    clients = [
        simulator.client(simulator.leaf(parent=group, weight=weight), depth=32)
        for weight in (100, 300)
    ]
    simulator.run(60)
    assert clients[1].busy / clients[0].busy == pytest.approx(3, rel=0.02)


def test_who_seeks_pays_for_it():
    simulator = Simulator()
    group = simulator.group(device(latency="100us", seek="4ms/9ms", rpm="7200", size="64G", seed=1))
    random = simulator.client(simulator.leaf(parent=group), depth=8, offsets=anywhere(1))
    steady = simulator.client(
        simulator.leaf(parent=group), depth=8, offsets=count(0, 1 << 20), size=1 << 20
    )
    simulator.run(60)
    total = random.busy + steady.busy
    # Both have the head for the same time, which is more requests where it stays at its place.
    assert len(steady.served) >= len(random.served)
    assert total == pytest.approx(60 * SECOND * 1, rel=0.2)


def test_flushes_count_as_time_of_their_image():
    simulator = Simulator()
    group = simulator.group(device(latency="1ms", latency_flush="9ms", queue_depth=1))
    reads = simulator.client(simulator.leaf(parent=group), depth=8)
    database = simulator.leaf(parent=group)
    writes = simulator.client(database, WRITE, depth=1)
    flushes = simulator.client(database, FLUSH, pause=9 * MS)
    simulator.run(60)
    database_time = writes.busy + flushes.busy
    assert database_time == pytest.approx(30 * SECOND, rel=0.1)
    assert reads.busy == pytest.approx(30 * SECOND, rel=0.1)


def test_a_limit_around_a_shared_device_still_holds():
    simulator = Simulator()
    group = simulator.group(device(latency="1ms", queue_depth=8), Limits(iops=400))
    clients = [simulator.client(simulator.leaf(parent=group), depth=8) for _ in range(4)]
    simulator.run(20)
    assert [len(client.served) for client in clients] == pytest.approx([2000] * 4, rel=0.02)


def test_the_nearest_device_counts():
    simulator = Simulator()
    group = simulator.group(device(latency="10ms", queue_depth=1))
    slow = [simulator.client(simulator.leaf(parent=group), depth=4) for _ in range(2)]
    inner = simulator.group(parent=group)
    slow.append(simulator.client(simulator.leaf(parent=inner), depth=4))
    fast = simulator.client(simulator.leaf(device(latency="1ms"), parent=inner), depth=2)
    simulator.run(10)
    assert len(fast.served) == pytest.approx(20_000, rel=0.01)
    assert sum(len(client.served) for client in slow) == pytest.approx(1000, abs=5)
    assert min(len(client.served) for client in slow) > 200
