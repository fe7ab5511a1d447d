"""Who gets what: shares of a group by weight, whatever the requests are like."""

from __future__ import annotations

import random
from itertools import cycle

import pytest

from tests.unit.throttle.fluid import (
    Spec,
    fair_rates,
    held_to,
    measured_rates,
    random_tree,
    usage,
)
from tests.unit.throttle.simulator import KIB, MIB, READ, WRITE, Client, Simulator
from throttlefs.settings.limits import Limits

SECONDS = 5


def limits(**values: str | int) -> Limits:
    return Limits.parse(values)


def shares(simulator: Simulator, *clients: Client) -> list[float]:
    """What each client gets, in MiB/s."""
    simulator.run(SECONDS)
    return [client.nbytes / SECONDS / MIB for client in clients]


def near(mib_per_second: float, largest: int) -> object:
    """That, give or take half a percent and a request of *largest* bytes at either end."""
    tolerance = mib_per_second / 200 + 1.5 * largest / SECONDS / MIB
    return pytest.approx(mib_per_second, rel=0, abs=tolerance)


def test_request_sizes_do_not_matter() -> None:
    simulator = Simulator()
    group = simulator.group(limits(bps="20M"))
    a = simulator.client(simulator.leaf(parent=group), READ, 256 * KIB, 16)
    b = simulator.client(simulator.leaf(parent=group), READ, 4 * KIB, 16)
    assert shares(simulator, a, b) == [near(10, 256 * KIB)] * 2


def test_queue_depths_do_not_matter() -> None:
    simulator = Simulator()
    group = simulator.group(limits(bps="20M"))
    a = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB, 32)
    b = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB, 1)
    assert shares(simulator, a, b) == [near(10, 64 * KIB)] * 2


def test_weights_matter() -> None:
    simulator = Simulator()
    group = simulator.group(limits(bps="21M"))
    a = simulator.client(simulator.leaf(parent=group, weight=100), READ, 256 * KIB)
    b = simulator.client(simulator.leaf(parent=group, weight=200), WRITE, 16 * KIB)
    c = simulator.client(simulator.leaf(parent=group, weight=400), READ, 64 * KIB)
    got = shares(simulator, a, b, c)
    assert got == [near(3, 256 * KIB), near(6, 256 * KIB), near(12, 256 * KIB)]


def test_what_a_member_may_not_use_goes_to_the_others() -> None:
    simulator = Simulator()
    group = simulator.group(limits(bps="20M"))
    a = simulator.client(simulator.leaf(limits(bps="2M"), group), READ, 64 * KIB, 16)
    b = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB, 16)
    assert shares(simulator, a, b) == [near(2, 64 * KIB), near(18, 64 * KIB)]


def test_what_a_member_does_not_use_goes_to_the_others() -> None:
    simulator = Simulator()
    group = simulator.group(limits(bps="20M"))
    a = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB, 1, pause=60_000_000)
    b = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB, 16)
    slow, fast = shares(simulator, a, b)
    assert slow == near(1, 64 * KIB)
    assert slow + fast == near(20, 64 * KIB)


def test_limits_of_a_vm_inside_those_of_a_tenant() -> None:
    simulator = Simulator()
    tenant = simulator.group(limits(bps="30M"))
    vm1 = simulator.group(limits(bps="10M"), tenant)
    disk1 = simulator.client(simulator.leaf(parent=vm1), READ, 64 * KIB)
    disk2 = simulator.client(simulator.leaf(parent=vm1), WRITE, 4 * KIB)
    vm2 = simulator.client(simulator.leaf(parent=tenant), READ, 128 * KIB)
    got = shares(simulator, disk1, disk2, vm2)
    assert got == [near(5, 128 * KIB), near(5, 128 * KIB), near(20, 128 * KIB)]


def test_a_byte_limit_is_reached_beside_a_request_limit() -> None:
    simulator = Simulator()
    group = simulator.group(limits(bps="10M", iops=500))
    a = simulator.client(simulator.leaf(parent=group), READ, 4 * KIB)
    b = simulator.client(simulator.leaf(parent=group), READ, 256 * KIB)
    small, large = shares(simulator, a, b)
    assert small == near(1.634, 16 * KIB)
    assert large == near(8.366, 256 * KIB)
    assert small + large == near(10, 256 * KIB)


def test_a_request_limit_is_reached_beside_a_byte_limit() -> None:
    simulator = Simulator()
    group = simulator.group(limits(bps="125M", iops=3000))
    a = simulator.client(simulator.leaf(parent=group), READ, 4 * KIB)
    b = simulator.client(simulator.leaf(parent=group), READ, 128 * KIB)
    assert shares(simulator, a, b) == [near(8.79, 16 * KIB), near(93.75, 128 * KIB)]
    assert a.requests + b.requests == pytest.approx(3000 * SECONDS, rel=0.001)


def test_reads_and_writes_are_shared_apart_under_limits_of_their_own() -> None:
    simulator = Simulator()
    group = simulator.group(limits(bps_rd="10M", bps_wr="5M"))
    both = simulator.leaf(parent=group)
    a = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB)
    b_reads = simulator.client(both, READ, 64 * KIB)
    b_writes = simulator.client(both, WRITE, 64 * KIB)
    assert shares(simulator, a, b_reads, b_writes) == [near(5, 64 * KIB)] * 3


def test_a_total_that_is_never_reached_starves_nobody() -> None:
    simulator = Simulator()
    group = simulator.group(limits(bps="1000M", bps_rd="10M", bps_wr="5M"))
    both = simulator.leaf(parent=group)
    a = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB)
    b_reads = simulator.client(both, READ, 64 * KIB)
    b_writes = simulator.client(both, WRITE, 64 * KIB)
    assert shares(simulator, a, b_reads, b_writes) == [near(5, 64 * KIB)] * 3


def test_a_limit_on_reads_that_is_never_reached_does_not_matter() -> None:
    simulator = Simulator()
    group = simulator.group(limits(bps="20M", bps_rd="19M"))
    both = simulator.leaf(parent=group)
    a = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB)
    b_reads = simulator.client(both, READ, 64 * KIB)
    b_writes = simulator.client(both, WRITE, 64 * KIB)
    one, reads, writes = shares(simulator, a, b_reads, b_writes)
    assert one == pytest.approx(10, rel=0.02)
    assert reads == pytest.approx(5, rel=0.02)
    assert writes == pytest.approx(5, rel=0.02)


def test_a_tight_limit_on_reads_is_shared_equally_and_the_total_is_used() -> None:
    simulator = Simulator()
    group = simulator.group(limits(bps="20M", bps_rd="5M"))
    both = simulator.leaf(parent=group)
    a = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB)
    b_reads = simulator.client(both, READ, 64 * KIB)
    b_writes = simulator.client(both, WRITE, 64 * KIB)
    got = shares(simulator, a, b_reads, b_writes)
    assert got == [near(2.5, 64 * KIB), near(2.5, 64 * KIB), near(15, 64 * KIB)]


def test_a_group_without_limits_shares_those_above_it() -> None:
    simulator = Simulator()
    tenant = simulator.group(limits(bps="20M"))
    vm = simulator.group(parent=tenant)
    a = simulator.client(simulator.leaf(parent=vm), READ, 64 * KIB)
    b = simulator.client(simulator.leaf(parent=vm), WRITE, 64 * KIB)
    assert shares(simulator, a, b) == [near(10, 64 * KIB)] * 2


def test_small_requests_reach_their_own_limit_beside_large_ones() -> None:
    simulator = Simulator()
    group = simulator.group(limits(bps="20M"))
    a = simulator.client(simulator.leaf(limits(bps="2M"), group), READ, 4 * KIB)
    others = [simulator.client(simulator.leaf(parent=group), READ, MIB) for _ in range(3)]
    got = shares(simulator, a, *others)
    assert got[0] == pytest.approx(2, rel=0.02)
    assert got[1:] == [near(6, MIB)] * 3


@pytest.mark.parametrize("size", [4 * KIB, 64 * KIB])
def test_so_do_those_of_a_client_that_asks_for_one_after_the_other(size: int) -> None:
    """Its queue is empty for 50 us after each request, which is no lack of demand."""
    simulator = Simulator()
    group = simulator.group(limits(bps="20M"))
    own = simulator.leaf(limits(bps="2M"), group)
    a = simulator.client(own, READ, size, 1, pause=50_000)
    others = [simulator.client(simulator.leaf(parent=group), READ, MIB) for _ in range(3)]
    assert shares(simulator, a, *others)[0] == pytest.approx(2, rel=0.03)


def test_directions_of_a_vm_share_what_it_gets_of_the_tenant() -> None:
    simulator = Simulator()
    tenant = simulator.group(limits(bps="30M"))
    vm = simulator.group(limits(bps_rd="10M", bps_wr="10M"), tenant)
    a = simulator.client(simulator.leaf(parent=vm), READ, 64 * KIB)
    b = simulator.client(simulator.leaf(parent=vm), WRITE, 64 * KIB)
    c = simulator.client(simulator.leaf(parent=tenant), READ, 64 * KIB)
    got = shares(simulator, a, b, c)
    assert got == [near(7.5, 64 * KIB), near(7.5, 64 * KIB), near(15, 64 * KIB)]


def test_larger_requests_count_as_several_by_iops_size() -> None:
    simulator = Simulator()
    group = simulator.group(limits(iops=1000, iops_size="16K"))
    a = simulator.client(simulator.leaf(parent=group), READ, 4 * KIB)
    b = simulator.client(simulator.leaf(parent=group), READ, 24 * KIB)
    assert shares(simulator, a, b) == [near(1.953, 8 * KIB), near(7.8125, 24 * KIB)]


@pytest.mark.parametrize("level", ["image", "group"])
def test_a_request_that_needs_two_limits_at_once_is_not_starved(level: str) -> None:
    # Writes take the VM's own limit whenever it is due, others the tenant's limit on reads.
    simulator = Simulator()
    tenant = simulator.group(limits(bps_rd="10M"))
    if level == "group":
        vm = simulator.group(limits(bps="6M"), tenant)
        reader, writer = simulator.leaf(parent=vm), simulator.leaf(parent=vm)
    else:
        reader = writer = simulator.leaf(limits(bps="6M"), tenant)
    reads = simulator.client(reader, READ, 64 * KIB)
    writes = simulator.client(writer, WRITE, 64 * KIB)
    other = simulator.client(simulator.leaf(parent=tenant), READ, 64 * KIB)
    got = shares(simulator, reads, writes, other)
    assert got[0] == pytest.approx(3, rel=0.05)
    assert got[1] == pytest.approx(3, rel=0.05)
    assert got[2] == pytest.approx(7, rel=0.05)


def test_what_a_refund_gave_back_does_not_count_against_the_share() -> None:
    """A program that reads small files in large pieces gets as many bytes as the others."""
    simulator = Simulator()
    group = simulator.group(limits(bps="20M"))
    whole = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB)
    pieces = simulator.client(simulator.leaf(parent=group), READ, 128 * KIB, done=16 * KIB)
    simulator.run(SECONDS)
    assert whole.nbytes / SECONDS / MIB == near(10, 128 * KIB)
    assert pieces.requests * 16 * KIB / SECONDS / MIB == near(10, 128 * KIB)


def test_a_newcomer_gets_no_more_and_no_less_than_the_others() -> None:
    simulator = Simulator()
    group = simulator.group(limits(bps="20M"))
    old = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB)
    simulator.run(10)
    before = old.nbytes
    new = simulator.client(simulator.leaf(parent=group), READ, 4 * KIB)
    simulator.run(SECONDS)
    assert (old.nbytes - before) / SECONDS / MIB == near(10, 128 * KIB)
    assert new.nbytes / SECONDS / MIB == near(10, 128 * KIB)


def test_pausing_earns_no_priority() -> None:
    """Who comes and goes gets a largest request ahead at most, and that is its own share."""
    simulator = Simulator()
    group = simulator.group(limits(bps="20M"))
    steady = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB, 8)
    coming = simulator.client(simulator.leaf(parent=group), READ, 64 * KIB, 8, pause=5_000_000)
    steadily, comingly = shares(simulator, steady, coming)
    assert comingly <= 10.05
    assert steadily + comingly == near(20, 64 * KIB)


@pytest.mark.parametrize(("images", "bps"), [(8, 20 * MIB), (64, 20 * MIB), (64, 200 * MIB)])
def test_jains_index(images: int, bps: int) -> None:
    """Jain, Chiu, Hawe 1984: (sum x)^2 / (n sum x^2), 1 if all get the same."""
    simulator = Simulator()
    group = simulator.group(Limits(bps=bps))
    kinds = zip(cycle((4, 16, 64, 256, 128)), cycle((1, 4, 16, 64)), cycle((READ, WRITE, READ)))
    clients = [
        simulator.client(simulator.leaf(parent=group), direction, size * KIB, depth)
        for _, (size, depth, direction) in zip(range(images), kinds, strict=False)
    ]
    got = shares(simulator, *clients)
    assert sum(got) ** 2 / (images * sum(share**2 for share in got)) > 0.999
    assert sum(got) == pytest.approx(bps / MIB, rel=0.02)


@pytest.mark.parametrize("seed", range(14))
def test_random_trees_share_as_a_fluid_would(seed: int) -> None:
    tree = random_tree(random.Random(seed), directions=False, request_limits=bool(seed % 2))
    seconds = 12.0
    fair = fair_rates(tree)
    got = measured_rates(tree, 1.0, seconds)
    for image, rate in fair.items():
        quantum = 1.5 * max(image.sizes) / seconds
        assert got[image] == pytest.approx(rate, rel=0, abs=0.07 * rate + quantum), image


@pytest.mark.parametrize("seed", range(14))
def test_random_trees_with_limits_on_directions_waste_nothing_and_starve_nobody(seed: int) -> None:
    """What is fair is a matter of taste where a total and reads are scarce; this is not."""
    tree = random_tree(random.Random(seed), directions=True, request_limits=bool(seed % 2))
    seconds = 12.0
    fair = fair_rates(tree)
    got = measured_rates(tree, 1.0, seconds)
    use = usage(tree, got)
    for image, rate in fair.items():
        quantum = 1.5 * max(image.sizes) / seconds
        assert got[image] >= 0.4 * rate - quantum, image
        # Some limit that holds the image is used up: nobody could have had more.
        assert max(used for limit, used in use.items() if limit in held_to(image)) > 0.95, image


def test_a_fluid_model_of_known_answer() -> None:
    """The model itself, on a case that can be done in one's head."""
    images = [
        Spec(Limits(bps=2 * MIB), sizes=(64 * KIB,)),
        Spec(weight=100, sizes=(4 * KIB,)),
        Spec(weight=200, sizes=(MIB,)),
    ]
    tree = Spec(Limits(bps=20 * MIB), members=images)
    got = fair_rates(tree)
    assert [got[image] / MIB for image in images] == pytest.approx([2, 6, 12], rel=0.001)
