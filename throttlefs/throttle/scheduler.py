"""Decides which waiting request may go when: the whole limiter, without clock and tasks.

Every method takes the present instant, in ns of one monotonic clock, and requests that are due are
returned. So the same code runs behind a mount and, much faster than real time, in tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final

from throttlefs.settings.limits import Limits

from .group import Group
from .leaf import Leaf, Request
from .meter import DIRECTIONS
from .node import Node
from .turns import ABSENT, Entry, next_stamp

NEVER: Final = 1 << 63
"""An instant that does not come: nothing waits."""


class Scheduler:
    """All trees of images and groups, and the instant at which the next request is due.

    ``next_due`` (ns, `NEVER` if nothing waits) is a lower bound: `release_due` before it finds
    nothing, and after each change asks for the next.
    """

    def __init__(self) -> None:
        self.next_due = NEVER
        # Roots in which something waits, by the earliest instant that something may be due. A
        # root has its place here in the first of its places.
        self._roots: list[Entry[Node]] = []
        self._count = 0

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
        for node in path:
            node.touch(direction, now)
            if node.parent is not None:
                node.parent.account(node, direction, nbytes, now)
            node.charge(direction, nbytes, now)
        return True

    def refund(self, leaf: Leaf, direction: int, nbytes: int, done: int, now: int) -> None:
        """Charge a request that went as *nbytes* for only the *done* bytes that it moved."""
        for node in leaf.path:
            for bucket in node.buckets[direction]:
                bucket.refund(nbytes, done)
            if node.parent is not None:
                node.parent.refund(node, direction, nbytes, done, now)
        for node in leaf.path:
            for waiting in DIRECTIONS:
                if node.waiting[waiting]:
                    self._enlist(node, waiting, now)

    def enqueue(self, leaf: Leaf, request: Request, now: int) -> None:
        """Let *request* wait in *leaf*."""
        self._count += 1
        request.number = self._count
        request.arrived = now
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
        for node in leaf.path:
            node.leave(request.direction, now)
        leaf.withdraw(request)
        self._find_next_due()

    def release_due(self, now: int) -> list[Request]:
        """Let everything go that is due at *now*; returns it in the order in which it goes."""
        released: list[Request] = []
        roots = self._roots
        while roots and roots[0][0] <= now:
            _, stamp, root = heappop(roots)
            place = root.places[0]
            if place.stamp != stamp:
                continue
            place.stamp = ABSENT
            due = self._release_from(root, now, released)
            if due != NEVER:
                self._push_root(root, due)
        self._find_next_due()
        return released

    def release_all(self, leaves: Iterable[Leaf], now: int) -> list[Request]:
        """Let everything go that waits in *leaves*, in order of arrival and uncharged."""
        released: list[Request] = []
        for leaf in leaves:
            for direction in DIRECTIONS:
                while leaf.waiting[direction]:
                    released.append(leaf.take(direction))
                    for node in leaf.path:
                        node.leave(direction, now)
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
        while True:
            parent = node.parent
            if parent is not None:
                parent.note_turn(node, direction, now)
                parent.account(node, direction, nbytes, now)
            node.charge(direction, nbytes, now)
            node.turn_pending[direction] = False
            node.leave(direction, now)
            if parent is None:
                return request
            node = parent

    # Changes.

    def change_limits(self, node: Node, limits: Limits, now: int) -> None:
        """Hold *node* to *limits* from now on, with all that waits in it."""
        node.change_limits(limits, now)
        if isinstance(node, Group):
            node.limits_changed(now)
        for direction in DIRECTIONS:
            if node.waiting[direction]:
                self._enlist(node, direction, now)

    def change_weight(self, node: Node, weight: int, now: int) -> None:
        """Give *node* another weight among the members of its group."""
        if node.parent is not None:
            node.parent.change_weight(node, weight, now)
        node.weight = weight

    def change_parent(self, node: Node, parent: Group | None, now: int) -> None:
        """Move *node*, with all that waits in it, to another group or to none."""
        if node.parent is parent:
            return
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
        _refresh_paths(node)
        if isinstance(node, Group):
            node.limits_changed(now)
        for direction in DIRECTIONS:
            if node.waiting[direction]:
                self._enlist(node, direction, now)
        self._find_next_due()

    # When to look again.

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
        roots = self._roots
        while roots:
            instant, stamp, root = roots[0]
            place = root.places[0]
            if place.stamp == stamp:
                if root.waiting[0] or root.waiting[1]:
                    self.next_due = instant
                    return
                place.stamp = ABSENT
            heappop(roots)
        self.next_due = NEVER


def _refresh_paths(node: Node) -> None:
    if isinstance(node, Leaf):
        node.path = node.find_path()
    elif isinstance(node, Group):
        for member in node.members:
            _refresh_paths(member)
