"""No limit is exceeded, in any window of time, by more than it may be.

The excess of a stream over a rate in its worst window is the highest level of a leaky bucket that
starts empty and leaks at that rate (Cruz, "A Calculus for Network Delay", 1991).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.throttle.fluid import shuffled
from tests.unit.throttle.simulator import KIB, MIB, READ, SECOND, WRITE, Release, Simulator
from throttlefs.settings.limits import Limits
from throttlefs.throttle.meter import DIRECTIONS
from throttlefs.throttle.node import SLACK, Node

SIZES = (512, 4 * KIB, 20 * KIB, 64 * KIB, 256 * KIB, MIB)


def units(name: str, release: Release) -> int:
    return release.nbytes if name.startswith("bps") else 1


def worst_excess(amounts: Iterable[tuple[int, int]], rate: int) -> Fraction:
    """The most that went in any window beyond *rate* (units/s), of (instant, units)."""
    level = worst = Fraction(0)
    last = 0
    for instant, amount in amounts:
        level = max(Fraction(0), level - Fraction(rate * (instant - last), SECOND)) + amount
        worst = max(worst, level)
        last = instant
    return worst


def held(node: Node, releases: Sequence[Release]) -> dict[str, list[Release]]:
    """The requests that each limit of *node* held, by the name of the limit."""
    below = [release for release in releases if node in release.leaf.find_path()]
    apart = {"_rd": [READ], "_wr": [WRITE]}
    return {
        name: [r for r in below if r.direction in apart.get(name[-3:], list(DIRECTIONS))]
        for name in ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")
        if getattr(node.meter.limits, name)
    }


def longest_request(node: Node, releases: Sequence[Release]) -> Fraction:
    """The longest time (ns) that one of *node*'s limits takes for one of the requests."""
    return max(
        Fraction(units(name, release) * SECOND, getattr(node.meter.limits, name))
        for name, passed in held(node, releases).items()
        for release in passed
    )


def assert_held(node: Node, releases: Sequence[Release], lag: Fraction, at_once: int = 1) -> None:
    """No limit of *node* is exceeded by more than its *lag* (ns) and *at_once* requests."""
    for name, passed in held(node, releases).items():
        rate = getattr(node.meter.limits, name)
        largest = max((units(name, release) for release in passed), default=0)
        allowed = rate * lag / SECOND + at_once * largest
        excess = worst_excess(((r.instant, units(name, r)) for r in passed), rate)
        assert excess <= allowed, f"{name}: {float(excess)} > {float(allowed)}"


arrivals = st.lists(
    st.tuples(
        st.integers(0, 30_000_000) | st.integers(0, 1_000_000) | st.just(0),
        st.sampled_from(DIRECTIONS),
        st.sampled_from(SIZES),
    ),
    min_size=1,
    max_size=150,
)

one_limit = st.one_of(
    st.builds(
        lambda name, rate: Limits(**{name: rate}),
        st.sampled_from(["bps", "bps_rd", "bps_wr"]),
        st.integers(64 * KIB, 1 << 32),
    ),
    st.builds(
        lambda name, rate: Limits(**{name: rate}),
        st.sampled_from(["iops", "iops_rd", "iops_wr"]),
        st.integers(10, 100_000),
    ),
)

several_limits = st.builds(
    lambda **fields: Limits(**{name: rate for name, rate in fields.items() if rate}),
    bps=st.just(0) | st.integers(256 * KIB, 64 * MIB),
    bps_rd=st.just(0) | st.integers(256 * KIB, 64 * MIB),
    bps_wr=st.just(0) | st.integers(256 * KIB, 64 * MIB),
    iops=st.just(0) | st.integers(20, 5000),
    iops_rd=st.just(0) | st.integers(20, 5000),
    iops_wr=st.just(0) | st.integers(20, 5000),
)


def replay(
    simulator: Simulator, leaves: Sequence[Node], requests: list[tuple[int, int, int]]
) -> None:
    """Let each of (pause before it, direction, size) arrive in turn at one of *leaves*."""
    instant = simulator.now
    for number, (pause, direction, size) in enumerate(requests):
        instant += pause
        leaf = leaves[number % len(leaves)]
        simulator.client(leaf, direction, iter([size]), 1, start=instant, once=True)
    simulator.run(1000)
    assert len(simulator.releases) == len(requests)


@settings(deadline=None)
@given(limits=one_limit, requests=arrivals)
def test_one_limit_is_exceeded_by_the_slack_and_a_request(
    limits: Limits, requests: list[tuple[int, int, int]]
) -> None:
    simulator = Simulator()
    leaf = simulator.leaf(limits)
    replay(simulator, [leaf], requests)
    assert_held(leaf, simulator.releases, Fraction(SLACK))


@settings(deadline=None)
@given(limits=one_limit, requests=arrivals, images=st.integers(1, 4))
def test_so_is_the_limit_of_a_group(
    limits: Limits, requests: list[tuple[int, int, int]], images: int
) -> None:
    simulator = Simulator()
    group = simulator.group(limits)
    leaves = [simulator.leaf(parent=group) for _ in range(images)]
    replay(simulator, leaves, requests)
    assert_held(group, simulator.releases, Fraction(SLACK))


@settings(deadline=None)
@given(limits=several_limits, requests=arrivals, images=st.integers(0, 3))
def test_several_limits_are_exceeded_by_the_time_of_a_largest_request(
    limits: Limits, requests: list[tuple[int, int, int]], images: int
) -> None:
    simulator = Simulator()
    if images:
        node: Node = simulator.group(limits)
        leaves: list[Node] = [simulator.leaf(parent=node) for _ in range(images)]  # type: ignore[arg-type]
    else:
        node = simulator.leaf(limits)
        leaves = [node]
    replay(simulator, leaves, requests)
    if not limits.unlimited and any(held(node, simulator.releases).values()):
        assert_held(node, simulator.releases, SLACK + longest_request(node, simulator.releases))


@settings(max_examples=40, deadline=None)
@given(
    tenant=several_limits.filter(lambda limits: bool(limits.bps or limits.iops)),
    vm=several_limits,
    own=several_limits,
    kinds=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(DIRECTIONS),
            st.sampled_from(SIZES),
            st.integers(1, 8),
        ),
        min_size=2,
        max_size=5,
    ),
)
def test_limits_inside_limits(
    tenant: Limits, vm: Limits, own: Limits, kinds: list[tuple[int, int, int, int]]
) -> None:
    """An image with limits in a VM with limits beside an image, in a tenant with limits.

    A member that waits for its group may catch up twice the time between two turns of the group,
    and where a total couples the directions, one may have kept a turn from the time before.
    """
    simulator = Simulator()
    top = simulator.group(tenant)
    middle = simulator.group(vm, top)
    leaves = [
        simulator.leaf(own, middle),
        simulator.leaf(parent=middle),
        simulator.leaf(parent=top),
    ]
    for leaf, direction, size, depth in kinds:
        sizes = shuffled((size, 4 * KIB), seed=size)
        simulator.client(leaves[leaf], direction, sizes, depth)
    for _ in range(40):
        simulator.run(0.1)
        if len(simulator.releases) > 3000:
            break
    releases = simulator.releases
    for node in (top, middle, leaves[0]):
        if not any(held(node, releases).values()):
            continue
        lag = SLACK + longest_request(node, releases)
        if node.parent is not None:
            for direction in DIRECTIONS:
                turns = [
                    r.instant
                    for r in releases
                    if r.direction == direction and node.parent in r.leaf.find_path()
                ]
                gaps = [after - before for before, after in pairwise(turns)]
                lag = max(lag, Fraction(SLACK + 2 * max(gaps, default=0)))
        assert_held(node, releases, lag, at_once=2 if node.meter.totals else 1)


@pytest.mark.parametrize(("window", "excess"), [(100_000_000, 0.03), (10_000_000, 0.25)])
@pytest.mark.parametrize("limits", [Limits(bps=10 * MIB), Limits(iops=3000)], ids=str)
def test_windows_of_a_saturated_run(limits: Limits, window: int, excess: float) -> None:
    """The first window included, after any idle time."""
    simulator = Simulator()
    leaf = simulator.leaf(limits)
    simulator.run(10)
    simulator.client(leaf, READ, 4 * KIB, 32)
    simulator.run(3)
    name = "bps" if limits.bps else "iops"
    rate = limits.bps or limits.iops
    amounts = [(release.instant, units(name, release)) for release in simulator.releases]
    allowed = rate * window / SECOND * (1 + excess) + amounts[0][1]
    first = total = 0
    for instant, amount in amounts:
        total += amount
        while amounts[first][0] <= instant - window:
            total -= amounts[first][1]
            first += 1
        assert total <= allowed
