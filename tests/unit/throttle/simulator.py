"""The limiter on a virtual clock: clients that keep a number of requests waiting."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat

from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.throttle.group import Group
from throttlefs.throttle.leaf import Leaf
from throttlefs.throttle.meter import READ, WRITE
from throttlefs.throttle.node import Node
from throttlefs.throttle.request import Request
from throttlefs.throttle.scheduler import NEVER, Scheduler

SECOND = 1_000_000_000
KIB = 1 << 10
MIB = 1 << 20
START = 1_000_000 * SECOND
"""The virtual clock begins late, as that of a machine that has been up for days."""

__all__ = ["KIB", "MIB", "READ", "SECOND", "START", "WRITE", "Client", "Release", "Simulator"]


@dataclass(slots=True)
class Release:
    """A request that went."""

    instant: int
    leaf: Leaf
    direction: int
    nbytes: int
    number: int


@dataclass(eq=False)
class Client:
    """Keeps *depth* requests of the sizes in *sizes* under way; *pause* ns after each."""

    leaf: Leaf
    direction: int
    sizes: Iterator[int]
    depth: int = 1
    pause: int = 0
    stop: int = NEVER
    once: bool = False
    done: int | None = None
    nbytes: int = 0
    requests: int = 0


@dataclass
class Simulator:
    """A scheduler, its clients and what went."""

    scheduler: Scheduler = field(default_factory=Scheduler)
    now: int = START
    releases: list[Release] = field(default_factory=list)
    keep: bool = True

    def __post_init__(self) -> None:
        self._clients: list[Client] = []
        self._arrivals: list[tuple[int, int, Client]] = []
        self._count = 0

    def group(
        self, limits: Limits = NO_LIMITS, parent: Group | None = None, weight: int = 100
    ) -> Group:
        group = Group(f"group{self._count}")
        self._place(group, limits, parent, weight)
        return group

    def leaf(
        self, limits: Limits = NO_LIMITS, parent: Group | None = None, weight: int = 100
    ) -> Leaf:
        leaf = Leaf()
        self._place(leaf, limits, parent, weight)
        return leaf

    def _place(self, node: Node, limits: Limits, parent: Group | None, weight: int) -> None:
        node.weight = weight
        self.scheduler.change_parent(node, parent, self.now)
        self.scheduler.change_limits(node, limits, self.now)

    def change_limits(self, node: Node, limits: Limits) -> None:
        self.scheduler.change_limits(node, limits, self.now)

    def change_weight(self, node: Node, weight: int) -> None:
        self.scheduler.change_weight(node, weight, self.now)

    def change_parent(self, node: Node, parent: Group | None) -> None:
        self.scheduler.change_parent(node, parent, self.now)

    def client(
        self,
        leaf: Leaf,
        direction: int,
        size: int | Iterator[int],
        depth: int = 8,
        *,
        start: int | None = None,
        pause: int = 0,
        stop: int = NEVER,
        once: bool = False,
        done: int | None = None,
    ) -> Client:
        """Start a client at *start*, ns; with *once* it asks *depth* times and no more.

        With *done* its requests move only so many bytes, and the rest is refunded.
        """
        sizes = repeat(size) if isinstance(size, int) else size
        client = Client(leaf, direction, sizes, depth, pause, stop, once, done)
        for _ in range(depth):
            self._arrive(client, self.now if start is None else start)
        return client

    def _arrive(self, client: Client, instant: int) -> None:
        self._count += 1
        heapq.heappush(self._arrivals, (instant, self._count, client))

    def run(self, seconds: float) -> None:
        """Let time go on by *seconds*."""
        end = self.now + round(seconds * SECOND)
        while True:
            arrival = self._arrivals[0][0] if self._arrivals else NEVER
            instant = max(self.now, min(arrival, self.scheduler.next_due))
            if instant >= end:
                self.now = end
                return
            self.now = instant
            while self._arrivals and self._arrivals[0][0] <= instant:
                self._ask(heapq.heappop(self._arrivals)[2])
            if self.scheduler.next_due <= instant:
                for request in self.scheduler.release_due(instant):
                    self._went(
                        request.owner[0], request.direction, request.nbytes, request.owner[1]
                    )

    def _ask(self, client: Client) -> None:
        if self.now >= client.stop:
            return
        nbytes = next(client.sizes)
        leaf, direction = client.leaf, client.direction
        if self.scheduler.try_pass(leaf, direction, nbytes, self.now):
            self._went(client, direction, nbytes, leaf)
        else:
            request = Request(direction, nbytes, (client, leaf))
            self.scheduler.enqueue(leaf, request, self.now)

    def _went(self, client: Client, direction: int, nbytes: int, leaf: Leaf) -> None:
        client.nbytes += nbytes
        client.requests += 1
        if self.keep:
            self.releases.append(Release(self.now, leaf, direction, nbytes, client.requests))
        if client.done is not None:
            self.scheduler.refund(leaf, direction, nbytes, client.done, self.now)
        if not client.once:
            self._arrive(client, self.now + client.pause)
