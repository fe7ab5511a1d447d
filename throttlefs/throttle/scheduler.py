"""Decides which waiting request may go when: the whole limiter, without clock and tasks.

Every method takes the present instant, in ns of one monotonic clock, and requests that are due are
returned. So the same code runs behind a mount and, much faster than real time, in tests.

A request of an image with a device is a `Ticket`. `release_due` returns it when it leaves the
limiter and takes a place of the device. `finish` says that the backing is done with it, and
`release_due` returns it again when the device is.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from throttlefs.settings.limits import Limits

from .gates import join_gates, refresh_gates, refresh_paths
from .group import Group
from .leaf import Leaf
from .meter import DIRECTIONS
from .node import CATCH_UP, NEVER, SLACK, Node
from .request import Request
from .station import FLUSH, Model, Station, Ticket
from .traffic import Traffic
from .turns import ABSENT, Entry, next_stamp

__all__ = ["NEVER", "Scheduler"]


class Scheduler:
    """All trees of images and groups, and the instant at which the next request is due.

    ``next_due`` (ns, `NEVER` if nothing waits) is a lower bound: `release_due` before it finds
    nothing, and after each change asks for the next. ``gates_open``: no ticket waits for its end.
    ``arrivals`` is how many requests began to wait so far.

    A ticket is returned *early_ns* before its end: so long a request takes beside, between the
    program and the limiter.
    """

    def __init__(self, early_ns: int = 0) -> None:
        self.early_ns = early_ns
        self.next_due = NEVER
        # Roots in which something waits, by the earliest instant that something may be due. A
        # root has its place here in the first of its places.
        self._roots: list[Entry[Node]] = []
        self.arrivals = 0
        self.traffic = Traffic()
        self._late = 0  # how long (ns) what is being released has been due, at most `CATCH_UP`
        self.gates_open = False
        # Tickets that the backing is done with, by when the device is.
        self._leaving: list[tuple[int, int, Ticket]] = []
        self._went: list[Request] = []  # what `release_due` or `release_all` returns first

    def first_root(self) -> Node | None:
        """The root of which something is due next; None if a device answers before."""
        if self._leaving and self._leaving[0][0] <= self.next_due:
            return None
        return self._roots[0][2] if self._roots else None

    # Requests.

    def try_pass(self, leaf: Leaf, direction: int, nbytes: int, now: int) -> bool:
        """Charge a request that may go at once; False, and nothing is charged, if it must wait."""
        if leaf.waiting[direction]:
            return False
        path = leaf.path
        for node in path:
            for bucket in node.buckets[direction]:
                if bucket.paid > now * bucket.rate + bucket.credit:
                    return False
        place = path[-1].places[0]
        if place.stamp != ABSENT and place.blocked_until <= now:
            return False  # requests that wait and are due go first
        late = self.traffic.note(path[-1], now)
        for node in path:
            node.touch(direction, now)
            if node.parent is not None:
                node.parent.account(node, direction, nbytes, now)
            node.charge(direction, nbytes, now, late)
        return True

    def refund(self, leaf: Leaf, direction: int, nbytes: int, done: int | None, now: int) -> None:
        """Charge a request that went as *nbytes* for only the *done* bytes that it moved.

        None: it was withdrawn after all, and counts for nothing.
        """
        for node in leaf.path:
            for bucket in node.buckets[direction]:
                bucket.refund(nbytes, done)
            if node.parent is not None:
                node.parent.refund(node, direction, nbytes, done, now)
        for node in leaf.path:
            self.look_again(node, now)

    def enqueue(self, leaf: Leaf, request: Request, now: int) -> None:
        """Let *request* wait in *leaf*."""
        self.arrivals += 1
        request.number = self.arrivals
        request.arrived = now - self.traffic.unread_ns
        self.traffic.note(leaf.path[-1], now)
        direction = request.direction
        first = not leaf.waiting[direction]
        for node in leaf.path:
            node.arrive(direction, now)
        leaf.append(request)
        if first:
            self._enlist(leaf, direction, now)

    def withdraw(self, request: Request, now: int) -> None:
        """Take a waiting *request* out of its queue uncharged."""
        leaf = request.leaf
        assert leaf is not None
        if request.direction == FLUSH:
            request.leaf = None  # it is dropped when its turn comes
            return
        for node in leaf.path:
            node.leave(request.direction, now)
        leaf.withdraw(request)
        self._find_next_due()

    def release_due(self, now: int) -> list[Request]:
        """Let everything go that is due at *now*; returns it in the order in which it goes."""
        leaving = self._leaving
        while leaving and leaving[0][0] <= now:
            ticket = heappop(leaving)[2]
            self._free(ticket, now)
            if ticket.owner is not None:
                self._went.append(ticket)
        released, self._went, roots = self._went, [], self._roots
        while roots and roots[0][0] <= now:
            instant, stamp, root = heappop(roots)
            place = root.places[0]
            if place.stamp != stamp:
                continue
            place.stamp = ABSENT
            self._late = min(now - instant, CATCH_UP)
            self.traffic.was_late(root, self._late, now)
            due = self._release_from(root, now, released)
            if due != NEVER:
                self._push_root(root, due)
        self._find_next_due()
        return released

    def release_all(self, leaves: Iterable[Leaf], now: int) -> list[Request]:
        """Let everything go that waits in *leaves* or in devices, in order of arrival.

        It is not charged.
        """
        for _, _, ticket in self._leaving:
            self._free(ticket, now)
            if ticket.owner is not None:
                self._went.append(ticket)
        self._leaving.clear()
        released, self._went = self._went, []
        for leaf in leaves:
            for direction in DIRECTIONS:
                while leaf.waiting[direction]:
                    released.append(leaf.take(direction))
                    for node in leaf.path:
                        node.leave(direction, now)
            if leaf.station is not None:
                released += leaf.station.take_flushes()
        released.sort(key=lambda request: request.number)
        self._find_next_due()
        return released

    def _release_from(self, root: Node, now: int, released: list[Request]) -> int:
        while True:
            directions: tuple[int, ...] = ()
            next_due = NEVER
            for direction in DIRECTIONS:
                due = root.due_at(direction, now)
                if due is None:
                    continue
                if due <= now:
                    directions += (direction,)
                elif due < next_due:
                    next_due = due
            if not directions:
                return next_due
            released.append(self._release_one(root, directions, now))

    def _release_one(self, root: Node, directions: tuple[int, ...], now: int) -> Request:
        node = root
        while isinstance(node, Group):
            node, directions = node.choose(directions, now)
        assert isinstance(node, Leaf)
        direction = node.choose(directions, now)
        request = node.take(direction)
        nbytes = request.nbytes
        station, service = node.station, 0
        if station is not None and isinstance(request, Ticket):
            # When the last of its limits let it go; timers are late, and a device must not be.
            due = request.arrived
            for limited in node.path:
                for bucket in limited.buckets[direction]:
                    due = max(due, bucket.due_since())
            service = station.begin(request, node.spot_on(station), min(due, now), now - SLACK)
        while True:
            parent = node.parent
            if parent is not None:
                parent.note_turn(node, direction, now)
                shared = service if parent.station is station else 0
                parent.account(node, direction, nbytes, now, shared)
            node.charge(direction, nbytes, now, self._late)
            node.turn_pending[direction] = False
            node.leave(direction, now)
            if parent is None:
                node.last_wait = now - request.arrived
                return request
            node = parent

    # Devices.

    def enqueue_flush(self, leaf: Leaf, ticket: Ticket, now: int) -> None:
        """Let a flush of *leaf* go at once if its device has a place, else let it wait."""
        self.arrivals += 1
        ticket.number = self.arrivals
        ticket.arrived = now - self.traffic.unread_ns
        station = leaf.station
        if station is not None and station.is_full:
            ticket.leaf = leaf
            station.flushes.append(ticket)
        elif station is not None:
            self._begin_flush(leaf, station, ticket, now)

    def finish(self, ticket: Ticket, now: int) -> bool:
        """Note that the backing is done with *ticket*: whether the device is as well.

        If not, `release_due` returns the ticket when it is, unless its owner is None by then. In
        any case call `release_due`: another request may get the place.
        """
        if ticket.station is None:
            return True
        if ticket.end - self.early_ns <= now or self.gates_open:
            self._free(ticket, now)
            return True
        ticket.is_leaving = True
        heappush(self._leaving, self._departure(ticket))
        self._find_next_due()
        return False

    def _departure(self, ticket: Ticket) -> tuple[int, int, Ticket]:
        return ticket.end - self.early_ns, ticket.number, ticket

    def abandon(self, ticket: Ticket, now: int) -> None:
        """Nobody waits for *ticket* any more; the device goes on working on it to its end."""
        ticket.owner = None
        if not ticket.is_leaving:
            self.finish(ticket, now)

    def _free(self, ticket: Ticket, now: int) -> None:
        station = ticket.station
        if station is None:
            return
        was_full = station.is_full
        station.free(ticket, now + self.early_ns)
        if was_full:
            self._fill(station, now)

    def _fill(self, station: Station, now: int) -> None:
        """Let what waits for a place of *station* go as soon as it may."""
        while station.flushes and not station.is_full:
            flush = station.flushes.popleft()
            if flush.leaf is not None:  # not withdrawn
                leaf, flush.leaf = flush.leaf, None
                self._begin_flush(leaf, station, flush, now)
                self._went.append(flush)
        if not station.is_full:
            for node in station.gated:
                self.look_again(node, now)
        self._find_next_due()

    def _begin_flush(self, leaf: Leaf, station: Station, ticket: Ticket, now: int) -> None:
        service = station.begin(ticket, leaf.spot_on(station), ticket.arrived, now - SLACK)
        if service:
            for node in leaf.path:
                if node.parent is not None and node.parent.station is station:
                    node.parent.account_flush(node, service, now)

    def change_device(self, node: Node, model: Model | None, now: int) -> None:
        """Give *node* another device, or none; or act on a change of the model it has.

        What is in service ends no later than the new model allows, and at once without one.
        """
        station = node.device
        if model is None:
            node.device = None
        elif station is None:
            node.device = Station(model)
        changed = refresh_gates(node)
        if isinstance(node, Group):
            node.limits_changed(now)
        if station is not None:
            if model is None:
                self._went += station.take_flushes()
                for ticket in station.serving:
                    ticket.end = now
            else:
                station.changed(now)
                self._fill(station, now)
            leaving = [self._departure(ticket) for _, _, ticket in self._leaving]
            heapify(leaving)
            self._leaving = leaving
        for one in (node, *changed):
            self.look_again(one, now)
        self._find_next_due()

    # Changes.

    def change_limits(self, node: Node, limits: Limits, now: int) -> None:
        """Hold *node* to *limits* from now on, with all that waits in it."""
        node.change_limits(limits, now)
        if isinstance(node, Group):
            node.limits_changed(now)
        self.look_again(node, now)

    def change_weight(self, node: Node, weight: int, now: int) -> None:
        """Give *node* another weight among the members of its group."""
        if node.parent is not None:
            node.parent.change_weight(node, weight, now)
        node.weight = weight

    def change_parent(self, node: Node, parent: Group | None, now: int) -> None:
        """Move *node*, with all that waits in it, to another group or to none."""
        if node.parent is parent:
            return
        before = node.parent
        if node.parent is not None:
            for above in node.parent.find_path():
                for direction in DIRECTIONS:
                    for _ in range(node.waiting[direction]):
                        above.leave(direction, now)
            node.parent.remove(node)
        else:
            node.give_up_places()
        if parent is not None:
            parent.add(node)
            for above in parent.find_path():
                for direction in DIRECTIONS:
                    for _ in range(node.waiting[direction]):
                        above.arrive(direction, now)
        refresh_paths(node)
        changed: list[Node] = []
        if isinstance(node, Leaf) and node.device is None:
            join_gates(node)
        else:
            changed = refresh_gates(node)
            if before is not None:
                changed += refresh_gates(before)
        if isinstance(node, Group):
            node.limits_changed(now)
        for one in changed:
            self.look_again(one, now)
        self.look_again(node, now)
        self._find_next_due()

    # When to look again.

    def look_again(self, node: Node, now: int) -> None:
        """Look at *node* anew: what waits in it may be due earlier than it was."""
        for direction in DIRECTIONS:
            if node.waiting[direction]:
                self._enlist(node, direction, now)

    def _enlist(self, node: Node, direction: int, now: int) -> None:
        """See that every node above *node*, in which something waits, looks at it in time."""
        instant = node.own_due_at(direction, now)
        while (parent := node.parent) is not None:
            parent.enlist(node, direction, instant)
            node = parent
            instant = max(instant, node.own_due_at(direction, now))
        place = node.places[0]
        if place.stamp == ABSENT or place.blocked_until > instant:
            self._push_root(node, instant)
            self._find_next_due()

    def _push_root(self, root: Node, instant: int) -> None:
        place = root.places[0]
        stamp = place.stamp = next_stamp()
        place.blocked_until = instant
        heappush(self._roots, (instant, stamp, root))

    def _find_next_due(self) -> None:
        roots, leaving = self._roots, self._leaving
        self.next_due = leaving[0][0] if leaving else NEVER
        if self._went:
            self.next_due = 0
        while roots:
            instant, stamp, root = roots[0]
            place = root.places[0]
            if place.stamp == stamp:
                if root.waiting[0] or root.waiting[1]:
                    self.next_due = min(self.next_due, instant)
                    return
                place.stamp = ABSENT
            heappop(roots)
