"""Limiter and device on a virtual clock: clients that keep a number of requests under way."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count, repeat

from tests.unit.throttle.simulator import START
from throttlefs.device import Disk
from throttlefs.settings.device import Device
from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.throttle.group import Group
from throttlefs.throttle.leaf import Leaf
from throttlefs.throttle.meter import READ
from throttlefs.throttle.node import Node
from throttlefs.throttle.scheduler import NEVER, Scheduler
from throttlefs.throttle.station import FLUSH, Ticket

GIB = 1 << 30
MS = 1_000_000
SECOND = 1000 * MS


def device(**settings: str | int | float) -> Device:
    """A device of *settings* as people write them."""
    return Device.parse(settings)


@dataclass(eq=False)
class Client:
    """Keeps *depth* requests under way; ``served`` has for each how long it waited and took."""

    leaf: Leaf
    direction: int = READ
    size: int = 4096
    offsets: object = field(default_factory=lambda: repeat(0))
    durable: bool = False
    stop: int = NEVER
    pause: int = 0
    served: list[tuple[int, int]] = field(default_factory=list)
    busy: int = 0

    @property
    def times(self) -> list[int]:
        """How long (ns) each request took from the limiter to its answer."""
        return [took for _, took in self.served]


class Simulator:
    """A scheduler, its nodes with devices, and their clients.

    Timers are *late* by so many ns, and requests are answered *early*.
    """

    def __init__(self, late: int = 0, early: int = 0) -> None:
        self.scheduler = Scheduler(early)
        self.now = START
        self.late = late
        self.leaves = 0
        self._events: list[tuple[int, int, object]] = []
        self._count = count()

    def leaf(
        self,
        device: Device | None = None,
        limits: Limits = NO_LIMITS,
        parent: Group | None = None,
        *,
        weight: int = 100,
        size: int = GIB,
    ) -> Leaf:
        self.leaves += 1
        leaf = Leaf(self.leaves)
        leaf.name, leaf.size = f"image{self.leaves}", size
        self._place(leaf, device, limits, parent, weight)
        return leaf

    def group(
        self,
        device: Device | None = None,
        limits: Limits = NO_LIMITS,
        parent: Group | None = None,
        *,
        weight: int = 100,
    ) -> Group:
        group = Group("group")
        self._place(group, device, limits, parent, weight)
        return group

    def _place(
        self, node: Node, device: Device | None, limits: Limits, parent: Group | None, weight: int
    ) -> None:
        node.weight = weight
        self.scheduler.change_parent(node, parent, self.now)
        self.scheduler.change_limits(node, limits, self.now)
        if device is not None:
            self.scheduler.change_device(node, Disk(device), self.now)

    def change(self, node: Node, device: Device | None) -> None:
        """Change the device of *node* in flight."""
        model = None
        if device is not None:
            model = Disk(device) if node.device is None else node.device.model
            model.change(device)
        self.scheduler.change_device(node, model, self.now)

    def client(self, leaf: Leaf, direction: int = READ, depth: int = 1, **how: object) -> Client:
        """Start a client."""
        client = Client(leaf, direction, **how)  # type: ignore[arg-type]
        for _ in range(depth):
            self._at(self.now, client)
        return client

    def _at(self, instant: int, what: object) -> None:
        heapq.heappush(self._events, (instant, next(self._count), what))

    def run(self, seconds: float) -> None:
        """Let time go on by *seconds*."""
        end = self.now + round(seconds * SECOND)
        while True:
            arrival = self._events[0][0] if self._events else NEVER
            due = self.scheduler.next_due
            due = due if due <= self.now else due + self.late
            instant = max(self.now, min(arrival, due))
            if instant >= end:
                self.now = end
                return
            self.now = instant
            while self._events and self._events[0][0] <= instant:
                what = heapq.heappop(self._events)[2]
                if isinstance(what, Client):
                    self._ask(what)
                else:
                    what()  # type: ignore[operator]
            for ticket in self.scheduler.release_due(instant):
                self._went(ticket)

    def later(self, seconds: float, call: object) -> None:
        """Call *call* in *seconds*."""
        self._at(self.now + round(seconds * SECOND), call)

    def _ask(self, client: Client) -> None:
        if self.now >= client.stop:
            return
        leaf = client.leaf
        offset = next(client.offsets)  # type: ignore[call-overload]
        ticket = Ticket(
            client.direction, client.size, client, offset=offset, durable=client.durable
        )
        if client.direction == FLUSH:
            ticket.nbytes = 0
            self.scheduler.enqueue_flush(leaf, ticket, self.now)
            if not ticket.waits:
                self._went(ticket)
        else:
            self.scheduler.enqueue(leaf, ticket, self.now)

    def _went(self, ticket: Ticket) -> None:
        if not ticket.is_leaving and not self.scheduler.finish(ticket, self.now):
            return
        client: Client = ticket.owner
        client.served.append((ticket.start - ticket.arrived, self.now - ticket.start))
        client.busy += ticket.end - ticket.start
        self._at(self.now + client.pause, client)
