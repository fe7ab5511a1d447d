"""Any sequence of requests and changes of devices: nothing lost, late or beyond its places."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.unit.throttle.simulator import KIB, MIB, SECOND, START
from throttlefs.device import Disk
from throttlefs.settings.device import Device
from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.throttle.group import Group
from throttlefs.throttle.leaf import Leaf
from throttlefs.throttle.meter import DIRECTIONS, READ, WRITE
from throttlefs.throttle.node import Node
from throttlefs.throttle.scheduler import NEVER, Scheduler
from throttlefs.throttle.station import FLUSH, Station, Ticket

LEAVES = 4
GROUPS = 3

some_limits = st.sampled_from([NO_LIMITS, Limits(iops=50), Limits(bps=MIB), Limits(iops_wr=10)])

some_devices = st.none() | st.sampled_from(
    [
        Device.parse(settings)
        for settings in (
            {"latency": "10ms", "queue_depth": 1},
            {"latency": "1ms/20ms/90ms", "queue_depth": 3, "seed": 1},
            {"latency_rd": "5ms", "latency_flush": "50ms"},
            {"seek": "1ms/20ms", "rpm": 7200, "size": "1G", "queue_depth": 4, "seed": 1},
            {"queue_depth": 2},
        )
    ]
)


class DeviceMachine(RuleBasedStateMachine):
    """The scheduler beside a model that knows only which tickets wait, are served and are done."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.scheduler = Scheduler()
        self.leaves = [Leaf(number) for number in range(LEAVES)]
        self.groups = [Group(f"group{number}") for number in range(GROUPS)]
        self.nodes: list[Node] = [*self.leaves, *self.groups]
        self.waiting: set[Ticket] = set()
        self.in_backing: set[Ticket] = set()
        self.leaving: set[Ticket] = set()
        self.stations: dict[Ticket, Station] = {}

    # What may happen.

    @rule(
        leaf=st.integers(0, LEAVES - 1),
        direction=st.sampled_from([READ, WRITE, WRITE, FLUSH]),
        size=st.sampled_from([0, 4 * KIB, MIB]),
        count=st.integers(1, 4),
        durable=st.booleans(),
    )
    def arrive(self, leaf: int, direction: int, size: int, count: int, durable: bool) -> None:
        image = self.leaves[leaf]
        for number in range(count):
            ticket = Ticket(direction, size, image, offset=number * MIB, durable=durable)
            self.waiting.add(ticket)
            if direction != FLUSH:
                self.scheduler.enqueue(image, ticket, self.now)
            else:
                self.scheduler.enqueue_flush(image, ticket, self.now)
                if not ticket.waits:
                    self.started(ticket)
        self.release()

    @rule(number=st.integers(0, 1000))
    def backing_is_done(self, number: int) -> None:
        if self.in_backing:
            ticket = self.one_of(self.in_backing, number)
            self.in_backing.discard(ticket)
            if self.scheduler.finish(ticket, self.now):
                self.done(ticket)
            else:
                self.leaving.add(ticket)
            self.release()

    @rule(number=st.integers(0, 1000))
    def withdraw(self, number: int) -> None:
        if self.waiting:
            ticket = self.one_of(self.waiting, number)
            self.scheduler.withdraw(ticket, self.now)
            self.waiting.discard(ticket)
            self.release()

    @rule(number=st.integers(0, 1000))
    def abandon(self, number: int) -> None:
        if self.in_backing or self.leaving:
            ticket = self.one_of(self.in_backing | self.leaving, number)
            self.in_backing.discard(ticket)
            self.leaving.discard(ticket)
            self.scheduler.abandon(ticket, self.now)
            self.release()

    @rule(pause=st.integers(0, 3_000_000) | st.integers(0, 2 * SECOND))
    def time_goes_on(self, pause: int) -> None:
        end = self.now + pause
        while self.scheduler.next_due <= end:
            self.now = max(self.now, self.scheduler.next_due)
            self.release()
        self.now = end

    @rule(node=st.integers(0, LEAVES + GROUPS - 1), limits=some_limits)
    def change_limits(self, node: int, limits: Limits) -> None:
        self.scheduler.change_limits(self.nodes[node], limits, self.now)
        self.release()

    @rule(node=st.integers(0, LEAVES + GROUPS - 1), device=some_devices)
    def change_device(self, node: int, device: Device | None) -> None:
        chosen = self.nodes[node]
        model = None
        if device is not None:
            model = Disk(device) if chosen.device is None else chosen.device.model
            model.change(device)
        self.scheduler.change_device(chosen, model, self.now)
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

    @rule()
    def open_and_close_the_gates(self) -> None:
        self.scheduler.gates_open = True
        self.went(self.scheduler.release_all(self.leaves, self.now))
        self.scheduler.gates_open = False
        self.release()
        assert not self.leaving
        assert all(ticket.direction == FLUSH for ticket in self.waiting), "a read or write waits"

    # What must hold.

    @staticmethod
    def one_of(tickets: set[Ticket], number: int) -> Ticket:
        ordered = sorted(tickets, key=lambda ticket: ticket.number)
        return ordered[number % len(ordered)]

    def release(self) -> None:
        while self.scheduler.next_due <= self.now:
            self.went(self.scheduler.release_due(self.now))

    def went(self, tickets: list[Ticket]) -> None:  # type: ignore[override]
        for ticket in tickets:
            if ticket in self.leaving:
                assert ticket.end <= self.now or ticket.station is None
                self.done(ticket)
            else:
                self.started(ticket)

    def started(self, ticket: Ticket) -> None:
        assert not ticket.waits
        self.waiting.remove(ticket)
        self.in_backing.add(ticket)
        if ticket.station is not None:
            assert ticket.start <= self.now
            assert ticket.end >= ticket.start >= ticket.arrived - 1
            self.stations[ticket] = ticket.station

    def done(self, ticket: Ticket) -> None:
        self.leaving.discard(ticket)
        assert ticket.station is None

    @invariant()
    def nobody_has_more_than_the_places(self) -> None:
        for node in self.nodes:
            if node.device is not None:
                serving = node.device.serving
                assert all(ticket.station is node.device for ticket in serving)

    @invariant()
    def every_request_goes_through_the_nearest_device(self) -> None:
        for leaf in self.leaves:
            devices = [node.device for node in leaf.find_path() if node.device is not None]
            assert leaf.station is (devices[0] if devices else None)
            gates = [node.gate for node in leaf.find_path() if node.gate is not None]
            if leaf.station is not None:
                assert gates.count(leaf.station) == 1

    @invariant()
    def nothing_that_is_due_waits(self) -> None:
        self.release()
        for leaf in self.leaves:
            if leaf.station is not None and leaf.station.is_full:
                continue
            path = leaf.find_path()
            for direction in DIRECTIONS:
                if leaf.waiting[direction]:
                    due = max(node.meter.due_at(direction, self.now) for node in path)
                    assert due > self.now, "something is due and waits"
                    assert self.scheduler.next_due <= due, "will wake too late"
        for ticket in self.waiting:
            if ticket.direction == FLUSH:
                assert any(
                    ticket in node.device.flushes and node.device.is_full
                    for node in self.nodes
                    if node.device is not None
                ), "a flush waits though there is a place"
        for ticket in self.leaving:
            assert self.scheduler.next_due <= ticket.end, "an answer will be late"

    def teardown(self) -> None:
        """Whatever happened, all goes in the end."""
        for node in self.nodes:
            self.scheduler.change_limits(node, NO_LIMITS, self.now)
            self.scheduler.change_device(node, None, self.now)
        self.release()
        assert not self.waiting
        for ticket in list(self.in_backing):
            assert self.scheduler.finish(ticket, self.now)
        assert not self.leaving
        assert self.scheduler.next_due == NEVER


DeviceMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestDevice = DeviceMachine.TestCase
