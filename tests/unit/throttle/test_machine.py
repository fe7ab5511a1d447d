"""Any sequence of arrivals, cancellations and live changes: nothing lost, late or out of order."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.unit.throttle.simulator import KIB, MIB, SECOND, START
from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.throttle.group import Group
from throttlefs.throttle.leaf import Leaf
from throttlefs.throttle.meter import DIRECTIONS
from throttlefs.throttle.node import Node
from throttlefs.throttle.request import Request
from throttlefs.throttle.scheduler import NEVER, Scheduler

LEAVES = 5
GROUPS = 4

some_limits = st.sampled_from(
    [
        NO_LIMITS,
        Limits(bps=MIB),
        Limits(bps=20 * MIB),
        Limits(iops=10),
        Limits(iops=1000, iops_size=16 * KIB),
        Limits(bps_rd=MIB, bps_wr=4 * MIB),
        Limits(bps=8 * MIB, bps_wr=MIB, iops=200),
        Limits(bps=MIB, bps_max=16 * MIB, bps_max_length=2),
        Limits(iops_rd=50, iops_rd_max=500),
    ]
)


class LimiterMachine(RuleBasedStateMachine):
    """The scheduler beside a model that has only lists of what waits."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.scheduler = Scheduler()
        self.leaves = [Leaf() for _ in range(LEAVES)]
        self.groups = [Group(f"group{number}") for number in range(GROUPS)]
        self.nodes: list[Node] = [*self.leaves, *self.groups]
        self.waiting = {(leaf, d): deque[Request]() for leaf in self.leaves for d in DIRECTIONS}
        self.released: set[int] = set()

    # What may happen.

    @rule(
        leaf=st.integers(0, LEAVES - 1),
        direction=st.sampled_from(DIRECTIONS),
        size=st.sampled_from([0, 512, 4 * KIB, 64 * KIB, MIB]),
        count=st.integers(1, 5),
    )
    def arrive(self, leaf: int, direction: int, size: int, count: int) -> None:
        image = self.leaves[leaf]
        for _ in range(count):
            if self.scheduler.try_pass(image, direction, size, self.now):
                assert not self.waiting[image, direction], "overtook a request of its own queue"
            else:
                request = Request(direction, size, image)
                self.scheduler.enqueue(image, request, self.now)
                self.waiting[image, direction].append(request)

    @rule(pause=st.integers(0, 3_000_000) | st.integers(0, 2 * SECOND))
    def time_goes_on(self, pause: int) -> None:
        end = self.now + pause
        while self.scheduler.next_due <= end:
            self.now = max(self.now, self.scheduler.next_due)
            self.release()
        self.now = end

    @rule(number=st.integers(0, 1000))
    def cancel(self, number: int) -> None:
        requests = [request for queue in self.waiting.values() for request in queue]
        if requests:
            request = requests[number % len(requests)]
            before = self.levels()
            self.scheduler.withdraw(request, self.now)
            assert not request.waits
            assert self.levels() == before
            self.waiting[request.owner, request.direction].remove(request)
            self.release()

    @rule(node=st.integers(0, LEAVES + GROUPS - 1), limits=some_limits)
    def change_limits(self, node: int, limits: Limits) -> None:
        self.scheduler.change_limits(self.nodes[node], limits, self.now)
        self.release()

    @rule(node=st.integers(0, LEAVES + GROUPS - 1), weight=st.sampled_from([1, 50, 100, 10_000]))
    def change_weight(self, node: int, weight: int) -> None:
        self.scheduler.change_weight(self.nodes[node], weight, self.now)
        self.release()

    @rule(
        node=st.integers(0, LEAVES + GROUPS - 1),
        parent=st.none() | st.integers(0, GROUPS - 1),
    )
    def change_parent(self, node: int, parent: int | None) -> None:
        above = None if parent is None else self.groups[parent]
        if above is None or self.nodes[node] not in above.find_path():
            self.scheduler.change_parent(self.nodes[node], above, self.now)
            self.release()

    @rule(
        leaf=st.integers(0, LEAVES - 1),
        direction=st.sampled_from(DIRECTIONS),
        done=st.none() | st.integers(0, 4 * KIB),
    )
    def refund(self, leaf: int, direction: int, done: int | None) -> None:
        self.scheduler.refund(self.leaves[leaf], direction, 4 * KIB, done, self.now)
        self.release()

    @rule()
    def open_and_close_the_gates(self) -> None:
        before = self.levels()
        released = self.scheduler.release_all(self.leaves, self.now)
        assert [r.number for r in released] == sorted(r.number for r in released)
        self.check_released(released)
        assert not any(self.waiting.values())
        assert self.levels() == before

    # What must hold.

    def levels(self) -> list[int]:
        return [
            bucket.paid
            for node in self.nodes
            for direction in DIRECTIONS
            for bucket in node.buckets[direction]
        ]

    def release(self) -> None:
        if self.scheduler.next_due <= self.now:
            self.check_released(self.scheduler.release_due(self.now))

    def check_released(self, requests: list[Request]) -> None:
        for request in requests:
            assert not request.waits
            assert request.number not in self.released, "released twice"
            self.released.add(request.number)
            queue = self.waiting[request.owner, request.direction]
            assert queue.popleft() is request, "out of order"

    @invariant()
    def nothing_that_is_due_waits(self) -> None:
        self.release()
        earliest = NEVER
        for (leaf, direction), queue in self.waiting.items():
            if queue:
                path = leaf.find_path()
                due = max(node.meter.due_at(direction, self.now) for node in path)
                assert due > self.now, "something is due and waits"
                earliest = min(earliest, due)
        assert self.scheduler.next_due <= earliest, "will wake too late"
        if earliest == NEVER:
            assert self.scheduler.next_due == NEVER, "wakes although nothing waits"

    @invariant()
    def counts_are_right(self) -> None:
        for node in self.nodes:
            for direction in DIRECTIONS:
                below = sum(
                    len(queue)
                    for (leaf, d), queue in self.waiting.items()
                    if d == direction and node in leaf.find_path()
                )
                assert node.waiting[direction] == below

    def teardown(self) -> None:
        """Whatever happened, all that waits goes in the end."""
        for node in self.nodes:
            self.scheduler.change_limits(node, NO_LIMITS, self.now)
        self.release()
        assert not any(self.waiting.values())
        assert self.scheduler.next_due == NEVER


LimiterMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLimiter = LimiterMachine.TestCase
